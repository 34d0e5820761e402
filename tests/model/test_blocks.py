"""Every registered block, through the registry: a new one is tested the day it is added."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.model.blocks import (
    BLOCKS,
    EELAN,
    EELANH,
    Block,
    DownC,
    EELANGrouped,
    EELANHGrouped,
    MPDown,
    ReOrg,
    UpCat,
    pyramid_pool,
)
from yolov7.model.csp import CSPA, CSPB, Residual
from yolov7.model.merging import Add, Projection, Refine
from yolov7.model.norms import SiLU

WIDTH = 64
CASES = [(name, arguments) for name in sorted(BLOCKS) for arguments in {
    "Conv": [{}, {"kernel": 3}, {"kernel": 3, "stride": 2}, {"groups": 4}],
    "RepConv": [{}, {"stride": 2}, {"identity": True}, {"groups": 4, "identity": True}],
    "ELAN": [{}, {"chain": 32, "depth": 6}, {"rep_positions": (1, 4)}, {"rep_positions": (2,), "rep_identity": False}],
    "CSPA": [{}, {"depth": 2, "inner": "res"}, {"inner": "reversed_dark", "rep": "repconv"}, {"rep": "repconv_n"}],
    "CSPB": [{}, {"inner": "resx", "shortcut": True}],
    "Dark": [{}, {"depth": 2, "shortcut": False}],
    "Upsample": [{}, {"mode": "bilinear"}],
    "Projection": [{"maps": 4}],
}.get(name, [{}])]


def build(name: str, **arguments: Any) -> Block:
    """The block with 64 channels everywhere, two inputs where it takes several."""
    cls = BLOCKS[name]
    parameters = inspect.signature(cls.__init__).parameters
    arguments = {key: WIDTH for key in ("out", "hidden") if key in parameters} | arguments
    count = cls.inputs or 2
    return cls(WIDTH if cls.inputs == 1 else (WIDTH,) * count, **arguments)  # type: ignore[call-arg, arg-type]


def make_inputs(block: Block) -> list[Tensor]:
    strides = block.input_strides or (1,) * (block.inputs or 2)
    return [torch.rand(2, WIDTH, int(8 / stride), int(12 / stride)) for stride in strides]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_shape_and_gradient(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = build(name, **arguments)
    outputs = block(*make_inputs(block))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == 1 + len(type(block).extra_outputs)
    stride = max(block.input_strides, default=1) * block.reduction
    shape = (2, block.out_channels, int(8 / stride), int(12 / stride))
    assert all(output.shape == shape for output in outputs)
    outputs[0].square().mean().backward() if list(block.parameters()) else None
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.eps, norm.momentum) == (1e-3, 0.03) for norm in norms)
    biased = isinstance(block, Projection)
    assert all((m.bias is not None) == biased for m in block.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
def test_activation_reaches_every_convolution(activation: str) -> None:
    expected = {"silu": SiLU, "leaky_relu": nn.LeakyReLU}[activation]
    for name, cls in BLOCKS.items():
        if "activation" in inspect.signature(cls.__init__).parameters:
            block = build(name, activation=activation)
            found = {type(m) for m in block.modules() if isinstance(m, (nn.SiLU, nn.LeakyReLU))}
            assert found == {expected}, name


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("Conv", {"activation": "relu"}, "activation 'relu'; accepted: silu, leaky_relu"),
    ("RepConv", {"identity": True, "stride": 2}, "an identity branch needs equal widths and stride 1, found 64 -> 64"),
    ("ELAN", {"depth": 5}, "depth 5 is not a multiple of 2"),
    ("ELAN", {"rep_positions": (5,)}, r"rep_positions \(5,\); accepted: 1 to 4"),
    ("EELAN", {"depth": 3}, "depth 3 is not a multiple of 2"),
    *((name, {"out": 7}, "out 7 is not even") for name in ("MPDown", "DownC", "UpCat", "CSPA", "CSPC", "Dark", "Stem")),
    ("CSPA", {"inner": "resx", "out": 40}, "width 20 is not a multiple of 32 groups"),
    ("CSPB", {"inner": "res", "rep": "repconv"}, "rep repconv with inner res; accepted: with inner dark or reversed"),
])
def test_messages(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize(("pair", "grouped"), [(EELAN, EELANGrouped), (EELANH, EELANHGrouped)])
def test_both_forms_of_extended_elan_are_equal(pair: type[EELAN], grouped: type[EELANGrouped]) -> None:
    """Expand, shuffle and merge cardinality by group convolutions is the sum of two ELANs (paper, figure 2d)."""
    torch.manual_seed(0)
    two = pair(24, 32, hidden=16, chain=8, depth=4).double()
    one = grouped(24, 32, hidden=16, chain=8, depth=4).double()
    for module in two.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    first, second = two.first.state_dict(), two.second.state_dict()
    one.load_state_dict({key: torch.cat((value, second[key])) if value.ndim else value for key, value in first.items()})
    x = torch.rand(2, 24, 10, 14, dtype=torch.float64)
    for training in (False, True):
        for ours, theirs in zip(one.train(training)(x), two.train(training)(x), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in two.parameters())


def test_reorg_is_a_strided_convolution() -> None:
    """Space to depth with the row offset fastest, then 3x3, is one 6x6 of stride 2 with padding 2."""
    x = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    weight = torch.rand(5, 12, 3, 3, dtype=torch.float64)
    large = torch.zeros(5, 3, 6, 6, dtype=torch.float64)
    for group, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        large[:, :, row::2, column::2] = weight[:, 3 * group : 3 * group + 3]
    torch.testing.assert_close(F.conv2d(ReOrg(3)(x), weight, padding=1), F.conv2d(x, large, stride=2, padding=2))


def test_order_of_concatenations() -> None:
    """The order is part of the weight format: a swap would load without any error."""
    x = torch.rand(1, 8, 8, 8)
    with torch.no_grad():
        down = MPDown(8, 16).eval()
        assert torch.equal(down(x)[:, 8:], down.pool(F.max_pool2d(x, 2)))
        down_c = DownC(8, 16).eval()
        assert torch.equal(down_c(x)[:, 8:], down_c.pool(F.max_pool2d(x, 2)))
        up = UpCat((8, 8), 16).eval()
        lateral = torch.rand(1, 8, 16, 16)
        assert torch.equal(up(x, lateral)[:, :8], up.lateral(lateral))


def test_residual_layers() -> None:
    """Where the shortcut and the RepConv are (paper, table 5)."""
    kinds = [[type(conv).__name__ + str(getattr(conv, "conv", conv.dense[0] if hasattr(conv, "dense") else conv).
                                        kernel_size[0]) for conv in layer.convs]
             for layer in (CSPA(8, 16, inner=inner, rep=rep).layers[0] for inner, rep in (  # type: ignore[arg-type]
                 ("dark", "none"), ("dark", "repconv"), ("reversed_dark", "none"), ("reversed_dark", "repconv")))]
    assert kinds == [["Conv1", "Conv3"], ["Conv1", "RepConv3"], ["Conv3", "Conv1"], ["RepConv3", "Conv1"]]
    layer = CSPB(8, 16).layers[0]
    assert isinstance(layer, Residual) and not layer.shortcut and CSPA(8, 16).layers[0].shortcut
    planned = CSPA(8, 16, inner="reversed_dark", rep="repconv").layers[0].convs[0]
    assert planned.identity is not None
    assert CSPA(8, 16, rep="repconv_n").layers[0].convs[1].identity is None


def test_refined_levels_are_enlarged_and_added() -> None:
    """Finest first; each by a convolution of its own."""
    torch.manual_seed(0)
    block = Refine((8, 16, 24), 12).eval()
    x = [torch.rand(1, width, 16 // side, 24 // side) for width, side in zip((8, 16, 24), (1, 2, 4), strict=True)]
    parts = [conv(each) for conv, each in zip(block.levels, x, strict=True)]
    expected = sum(F.interpolate(part, (16, 24), mode="bilinear", align_corners=False) for part in parts)
    torch.testing.assert_close(block(*x), expected)


def test_maps_that_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="inputs of 8 and 16 channels; accepted: equal numbers"):
        Add((8, 16))


@pytest.mark.parametrize("levels", [0, 4], ids=["distinct values", "ties"])
def test_gradients_of_chained_pools(levels: int) -> None:
    """Those of parallel pools; with ties they go to another of the largest values, and not one is lost."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 17, 19, dtype=torch.float64)
    x = ((x * levels).floor() if levels else x).requires_grad_()
    weights = torch.rand(3, *x.shape, dtype=torch.float64)
    parallel = [F.max_pool2d(x, span, 1, span // 2) for span in (5, 9, 13)]
    chained = pyramid_pool(x)[1:]
    for index, (one, other) in enumerate(zip(chained, parallel, strict=True)):
        assert torch.equal(one, other)
        found, = torch.autograd.grad((one * weights[index]).sum(), x, retain_graph=True)
        expected, = torch.autograd.grad((other * weights[index]).sum(), x, retain_graph=True)
        torch.testing.assert_close(found.sum(), expected.sum())
        if not levels:
            torch.testing.assert_close(found, expected)
            continue
        assert torch.equal(found, expected) == (index == 0)
        for value in range(levels):  # what windows of one maximum give goes to values that are this maximum
            of_value = torch.autograd.grad((one * weights[index] * (one == value)).sum(), x, retain_graph=True)[0]
            assert not of_value[x != value].any()
            torch.testing.assert_close(of_value.sum(), (weights[index] * (one == value)).sum())
