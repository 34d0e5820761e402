"""Blocks that bring levels together for maps of the whole image (YOLOv7-mask), and convolutions that are one.

The rules of `blocks` hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.model.blocks import Block, Conv, register_block


@register_block
class Refine(Block):
    """A convolution of each of three levels, finest first, the coarser ones enlarged bilinearly, and their sum."""

    inputs = 3
    input_strides = (1, 2, 4)
    reduction = 0.25

    def __init__(self, in_channels: tuple[int, int, int], out: int, kernel: int = 3, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.levels = nn.ModuleList(Conv(channels, out, kernel, activation=activation) for channels in in_channels)

    def forward(self, *features: Tensor) -> Tensor:
        finest, *coarser = (conv(x) for conv, x in zip(self.levels, features, strict=True))
        size = finest.shape[2:]
        return sum((F.interpolate(y, size=size, mode="bilinear") for y in coarser), finest)


@register_block
class Add(Block):
    """Sum of two maps of one size."""

    inputs = 2

    def __init__(self, in_channels: tuple[int, int]) -> None:
        super().__init__()
        if in_channels[0] != in_channels[1]:
            raise ValueError(f"inputs of {in_channels[0]} and {in_channels[1]} channels; accepted: equal numbers")
        self.out_channels = in_channels[0]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@register_block
class Projection(Block):
    """1x1 convolution with a bias, neither norm nor activation, to so many ``maps``, which are not scaled."""

    def __init__(self, in_channels: int, maps: int) -> None:
        super().__init__()
        self.out_channels = maps
        self.conv = nn.Conv2d(in_channels, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class JoinedConv(nn.Module):
    """1x1 convolutions with biases of one input as one, group by group: the channels of an anchor stand together.

    A thousand channels of each anchor are not copied into each other's places, in either direction.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
        """``[B, c, h, w]`` and convolutions to ``[B, groups * n, h, w]`` each -> ``[B, groups * N, h, w]``."""
        weight, bias = (torch.cat([part.unflatten(0, (self.groups, -1)) for part in parts], dim=1).flatten(0, 1)
                        for parts in zip(*((conv.weight, conv.bias) for conv in convs), strict=True))
        return F.conv2d(x, weight, bias)
