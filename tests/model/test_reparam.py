"""The algebra of re-parameterization, branch by branch, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov7.model.blocks import RepConv
from yolov7.model.detector import Detector
from yolov7.model.reparam import _fuse_branches, reparameterize
from yolov7.model.spec import read_spec


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
    fused = _fuse_branches(block).double()
    torch.testing.assert_close(block.act(fused(x)), block(x), rtol=1e-5, atol=1e-6)


def test_identity_needs_equal_widths() -> None:
    with pytest.raises(ValueError, match="equal widths and stride 1, found 8 -> 16"):
        RepConv(8, 16, identity=True)


@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7"])
def test_outputs_stay_the_same(name: str) -> None:
    model = randomize(Detector(read_spec(name), 5))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for before, after in zip(model(images).levels, reparameterize(model)(images).levels, strict=True):
            assert (before - after).abs().max() < 1e-5 * before.abs().max()
