"""Re-parameterization: the training graph -> the fused graph that is deployed (docs/reference.md, Re-parameterization).

Conv + batch norm become one convolution with bias, the branches of RepConv one 3x3, implicit knowledge part of the
detection convolution; auxiliary heads are dropped. The algebra runs in float64, so that the fused weights are the
nearest float32 ones.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.model.blocks import Conv, FusedConv, RepConv
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Head


def is_fused(model: nn.Module) -> bool:
    """Whether `reparameterize` made this model."""
    return any(isinstance(module, FusedConv) for module in model.modules())


def reparameterize(model: Detector) -> Detector:
    """A deployed copy of a training-form model in evaluation mode, with the same outputs up to rounding.

    The model itself does not change. Raises ``ValueError`` for a model that is fused already.
    """
    return reparameterize_in_place(copy.deepcopy(model))


def reparameterize_in_place(model: Detector) -> Detector:
    """`reparameterize` without the copy: this model becomes the deployed one."""
    if is_fused(model):
        raise ValueError(f"{model.spec.name} is re-parameterized already")
    model.eval().drop_auxiliary()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            setattr(module, name, _fuse(child))
    _fold_implicit(model.head)
    return model.requires_grad_(False)


def _fuse(module: nn.Module) -> nn.Module:
    """The fused form of a convolution; any other module as it is."""
    if isinstance(module, Conv):
        return FusedConv(_with_bias(module.conv, *_fold(module.conv, module.bn)), module.act)
    return FusedConv(fuse_branches(module), module.act) if isinstance(module, RepConv) else module


def deployed(model: Detector) -> Detector:
    """A copy of the model in deployed form (re-parameterized if it is not yet), in evaluation mode."""
    return copy.deepcopy(model).eval() if is_fused(model) else reparameterize(model)


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) of a convolution followed by batch norm."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    return _scale(conv.weight.double(), norm)


@torch.no_grad()
def _scale(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias.double() - scale * norm.running_mean.double()


@torch.no_grad()
def _with_bias(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with this weight and bias."""
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,  # type: ignore[arg-type]
                      conv.padding, groups=conv.groups, device=conv.weight.device,  # type: ignore[arg-type]
                      dtype=conv.weight.dtype)
    fused.weight.copy_(weight)
    assert fused.bias is not None
    fused.bias.copy_(bias)
    return fused


@torch.no_grad()
def fuse_branches(block: RepConv) -> nn.Conv2d:
    """The one convolution that the branches of a RepConv are together."""
    conv = block.dense[0]
    assert isinstance(conv, nn.Conv2d)
    weight, bias = _fold(conv, block.dense[1])
    point_weight, point_bias = _fold(block.point[0], block.point[1])
    weight, bias = weight + F.pad(point_weight, (1, 1, 1, 1)), bias + point_bias
    if block.identity is not None:
        per_group = conv.in_channels // conv.groups
        rows = torch.arange(conv.out_channels, device=weight.device)
        identity = torch.zeros_like(weight)
        identity[rows, rows % per_group, 1, 1] = 1
        identity, identity_bias = _scale(identity, block.identity)
        weight, bias = weight + identity, bias + identity_bias
    return _with_bias(conv, weight, bias)


@torch.no_grad()
def _fold_implicit(head: Head) -> None:
    if not len(head.implicit_add):
        return
    for conv, add, multiply in zip(head.convs, head.implicit_add, head.implicit_multiply, strict=True):
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        weight, factor = conv.weight.double(), multiply.double().flatten()
        if not head.multiplies:
            factor = torch.ones_like(conv.bias, dtype=torch.float64)
        bias = (conv.bias.double() + weight[:, :, 0, 0] @ add.double().flatten()) * factor
        conv.weight.copy_(weight * factor[:, None, None, None])
        conv.bias.copy_(bias)
    head.implicit_add, head.implicit_multiply = nn.ParameterList(), nn.ParameterList()
