"""The algebra of re-parameterization, branch by branch, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov7.config import shipped_files
from yolov7.config.recipe import OptimizerConfig
from yolov7.engine.optim import make_optimizer
from yolov7.model.blocks import RepConv
from yolov7.model.detector import Detector
from yolov7.model.reparam import fuse_branches, reparameterize
from yolov7.model.scaling import Scale
from yolov7.model.spec import read_spec, scaled_spec


def randomize(module: nn.Module) -> nn.Module:
    """Batch norm with statistics as after a training."""
    torch.manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -1, 1), (layer.running_mean, -1, 1),
                                      (layer.running_var, 0.5, 1.5)):
                nn.init.uniform_(tensor, low, high)
    return module.eval()


@pytest.mark.parametrize(("channels", "out", "stride", "groups", "identity"), [
    (8, 16, 1, 1, False), (8, 8, 1, 1, True), (8, 8, 1, 2, True), (8, 16, 2, 4, False), (12, 12, 1, 3, False),
])
def test_repconv(channels: int, out: int, stride: int, groups: int, identity: bool) -> None:
    block = randomize(RepConv(channels, out, stride, groups, identity)).double()
    assert isinstance(block, RepConv)
    x = torch.randn(2, channels, 9, 7, dtype=torch.float64)
    fused = fuse_branches(block).double()
    torch.testing.assert_close(block.act(fused(x)), block(x), rtol=1e-5, atol=1e-6)


def test_identity_needs_equal_widths() -> None:
    with pytest.raises(ValueError, match="equal widths and stride 1, found 8 -> 16"):
        RepConv(8, 16, identity=True)


@pytest.mark.untraced
@pytest.mark.parametrize("name", shipped_files("cfg"))
def test_outputs_stay_the_same(name: str) -> None:
    """Every config, narrow; the published widths are in the golden tests."""
    factor = 0.5 if "x50" in name else 0.25  # grouped convolutions need at least their groups
    spec, _ = scaled_spec(read_spec(name), Scale(width=factor, hidden_width=factor))
    model = randomize(Detector(spec, 5)).double()
    fused = reparameterize(model)
    images = torch.rand(1, 3, model.stride, 2 * model.stride, dtype=torch.float64)
    with torch.no_grad():
        before, after = model(images), fused(images)
    assert not after.auxiliary and len(before.auxiliary) == bool(spec.head.auxiliary)
    for ours, theirs in zip(before.levels, after.levels, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * ours.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    with pytest.raises(ValueError, match="is re-parameterized already"):
        reparameterize(fused)


def test_deployed_graph_has_nothing_that_only_training_reads() -> None:
    with torch.device("meta"):
        fused = reparameterize(Detector(read_spec("yolov7-e6e")))
    assert [name for name in fused.nodes if name.startswith("a")] == []
    assert len(fused.nodes) == len(read_spec("yolov7-e6e").nodes) - 4
    assert not fused.head.auxiliary_convs and not fused.spec.head.auxiliary


def test_fused_models_cannot_be_trained() -> None:
    with torch.device("meta"):
        fused = reparameterize(Detector(read_spec("yolov7-tiny")))
    with pytest.raises(ValueError, match="yolov7-tiny is re-parameterized and cannot be trained"):
        make_optimizer(fused, OptimizerConfig(), 16, 64)
