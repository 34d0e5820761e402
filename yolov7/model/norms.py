"""What stands between convolutions: batch norms and activations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.config.errors import shown

EPSILON = 1e-3  # not part of a state dict: a constant of the reference implementation's weights
MOMENTUM = 0.03
ACTIVATIONS = ("silu", "leaky_relu")


class SiLU(nn.SiLU):
    """x * sigmoid(x), in place where no gradient is asked for: with one, autograd would copy x first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not x.requires_grad)


def make_activation(name: str) -> nn.Module:
    """The activation of a config: ``silu``, or ``leaky_relu`` with slope 0.1. Raises `ValueError` for another."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {shown(name)}; accepted: {', '.join(ACTIVATIONS)}")
    return nn.LeakyReLU(0.1, inplace=True) if name == "leaky_relu" else SiLU()


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants of the reference implementation."""
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)
