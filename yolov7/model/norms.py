"""What stands between convolutions: batch norms and activations, one after the other or as one (`fuse_norms`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.config.errors import InputError, shown

EPSILON = 1e-3  # not part of a state dict: a constant of the reference implementation's weights
MOMENTUM = 0.03
ACTIVATIONS = ("silu", "leaky_relu")
MIN_CAPABILITY = (8, 0)  # of CUDA devices that Triton's kernels are written for


class SiLU(nn.SiLU):
    """x * sigmoid(x), in place where no gradient is asked for: with one, autograd would copy x first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not x.requires_grad)


def make_activation(name: str) -> nn.Module:
    """The activation of a config: ``silu``, or ``leaky_relu`` with slope 0.1. Raises `ValueError` for another."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {shown(name)}; accepted: {', '.join(ACTIVATIONS)}")
    return nn.LeakyReLU(0.1, inplace=True) if name == "leaky_relu" else SiLU()


class BatchNorm(nn.BatchNorm2d):
    """Batch norm, computed together with its activation once `fuse_norms` or `compile_norms` has said so."""

    fused = False
    compiled: Callable[..., Tensor] | None = None


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants of the reference implementation."""
    return BatchNorm(channels, eps=EPSILON, momentum=MOMENTUM)


def norm_act(x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
    """``act(norm(x))``, where that is possible and wished for as one operation of the device."""
    if isinstance(norm, BatchNorm) and norm.training and x.requires_grad and (
            norm.compiled is not None or (norm.fused and _suits(x))):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        if norm.compiled is not None:
            return norm.compiled(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, _slope_of(act))
        kind, slope = _kind_of(act)
        y: Tensor = _NormAct.apply(x, norm.weight, norm.bias, norm, kind, slope)  # type: ignore[no-untyped-call]
        return y
    z: Tensor = act(norm(x))
    return z


def _slope_of(act: nn.Module) -> float | None:
    """Of what is negative; None for SiLU."""
    if isinstance(act, nn.LeakyReLU):
        return act.negative_slope
    return 1.0 if isinstance(act, nn.Identity) else None


def _norm_and_act(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, slope: float | None) -> Tensor:
    y = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=MOMENTUM, eps=EPSILON)
    return F.silu(y) if slope is None else F.leaky_relu(y, slope)


def conv_act(x: Tensor, conv: nn.Conv2d, act: nn.Module, joined: bool) -> Tensor:
    """``act(conv(x))`` of a deployed network; ``joined``, where that is possible, with bias and activation in one pass.

    Else they are two: each reads what the convolution has made, and writes it again.
    """
    if joined and conv.bias is not None and _suits(x):
        y = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
        if _suits(y) and not y.requires_grad:
            from yolov7.runtime import norm_kernels as kernels

            with torch.cuda.device_of(y):  # type: ignore[no-untyped-call]
                kernels.add_bias_and_activate(_rows(y), conv.bias, *_kind_of(act))
            return y
        y = y + conv.bias[:, None, None]
    else:
        y = conv(x)
    z: Tensor = act(y)
    return z


def _suits(x: Tensor) -> bool:
    """Whether the kernels take this map; a compiled graph has its own."""
    return x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and not torch.compiler.is_compiling()


def _kind_of(act: nn.Module) -> tuple[int, float]:
    from yolov7.runtime import norm_kernels as kernels

    slope = _slope_of(act)
    return (kernels.SILU, 0.0) if slope is None else (kernels.LEAKY_RELU, slope)


class _NormAct(torch.autograd.Function):
    """Of a channels-last map ``[B, C, h, w]``; keeps the map alone, a third less than norm and activation do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, kind: int,
                slope: float) -> Tensor:
        from yolov7.runtime import norm_kernels as kernels

        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            y, mean, scale = kernels.forward(_rows(x), weight, bias, (norm.running_mean, norm.running_var),
                                             (norm.momentum, norm.eps), kind, slope)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.kind, ctx.slope = kind, slope
        return _map(y, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from yolov7.runtime import norm_kernels as kernels

        x, weight, bias, mean, scale = ctx.saved_tensors
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            rows = _rows(grad)  # a view, also of the gradient of a part of a concatenation
            rows = rows if rows.stride(1) == 1 else rows.contiguous()
            found, of_weight, of_bias = kernels.backward(rows, _rows(x), weight, bias, mean, scale, ctx.kind,
                                                        ctx.slope)
        return _map(found, x), of_weight, of_bias, None, None, None


def _rows(x: Tensor) -> Tensor:
    """``[B, C, h, w]`` in channels-last memory as its rows ``[B * h * w, C]``."""
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch * height * width, channels)


def _map(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def fuse_norms(model: nn.Module) -> None:
    """Have norms and their activations computed as one in training, where `check_fusion` lets it."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.fused = True


def compile_norms(model: nn.Module) -> None:
    """Have norms and their activations compiled as one, for maps of any size: a few parts for a whole network."""
    compiled = torch.compile(_norm_and_act, dynamic=True)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.compiled = compiled


def check_fusion(device: torch.device) -> None:
    """Raise `InputError` where norms and activations cannot be computed as one."""
    if not _is_able(device):
        needed = ".".join(map(str, MIN_CAPABILITY))
        raise InputError(f"--fused-norm: is for CUDA devices of compute capability {needed} or more, this run is on "
                         f"{device}; leave the flag out")
    if not has_kernels(device):
        raise InputError("--fused-norm: needs Triton, which is not installed (pip install triton; on Windows "
                         "triton-windows); or leave the flag out")


def has_kernels(device: torch.device) -> bool:
    """Whether this device can run the kernels of `yolov7.runtime.norm_kernels`."""
    return _is_able(device) and importlib.util.find_spec("triton") is not None


def _is_able(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= MIN_CAPABILITY
