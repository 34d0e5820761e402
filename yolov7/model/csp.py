"""Blocks of the baselines: cross-stage partial stages, darknet's residual layers, their stem and pyramid pooling.

They make up YOLOR, YOLOv4-CSP, YOLOv3 and the ResNet variants, and the paper's study of planned re-parameterization in
a residual model (table 5). The rules of `blocks` hold.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.model.blocks import Block, Conv, RepConv, pyramid_pool, register_block, require_even

Inner = Literal["dark", "reversed_dark", "res", "resx"]  # kind of the residual layers of a stage
Rep = Literal["none", "repconv", "repconv_n"]  # what their 3x3 is; repconv_n has no identity branch


class Residual(nn.Module):
    """Convolutions in a row, and their input added where ``shortcut`` is on."""

    def __init__(self, convs: list[nn.Module], shortcut: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(y)
        return x + y if self.shortcut else y


def residual_layer(inner: Inner, rep: Rep, width: int, shortcut: bool, activation: str) -> Residual:
    """A layer of a cross-stage partial stage, ``width`` channels in and out.

    ``dark`` is 1x1 then 3x3, ``reversed_dark`` 3x3 then 1x1, ``res`` a bottleneck of half the width, ``resx`` one of
    full width in 32 groups.
    """
    if inner in ("res", "resx"):
        if rep != "none":
            raise ValueError(f"rep {rep} with inner {inner}; accepted: with inner dark or reversed_dark")
        hidden, groups = (width // 2, 1) if inner == "res" else (width, 32)
        if hidden % groups:
            raise ValueError(f"width {hidden} is not a multiple of {groups} groups")
        return Residual([Conv(width, hidden, activation=activation),
                         Conv(hidden, hidden, 3, groups=groups, activation=activation),
                         Conv(hidden, width, activation=activation)], shortcut)
    wide: nn.Module = Conv(width, width, 3, activation=activation)
    if rep != "none":
        wide = RepConv(width, width, identity=rep == "repconv", activation=activation)
    convs = [Conv(width, width, activation=activation), wide]
    return Residual(convs if inner == "dark" else convs[::-1], shortcut)


def residual_layers(depth: int, inner: Inner, rep: Rep, width: int, shortcut: bool, activation: str) -> nn.Sequential:
    """``depth`` equal layers."""
    return nn.Sequential(*(residual_layer(inner, rep, width, shortcut, activation) for _ in range(depth)))


@register_block
class CSPA(Block):
    """Cross-stage partial stage of the YOLOR P6 backbones: half of the width goes through the layers."""

    width_step = 16
    has_tail: ClassVar[bool] = False  # a 1x1 behind the layers

    def __init__(self, in_channels: int, out: int, depth: int = 1, inner: Inner = "dark", rep: Rep = "none",
                 shortcut: bool = True, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        width = out // 2
        self.main = Conv(in_channels, width, activation=activation)
        self.bypass = Conv(in_channels, width, activation=activation)
        self.tail = Conv(width, width, activation=activation) if self.has_tail else nn.Identity()
        self.out = Conv(2 * width, out, activation=activation)
        self.layers = residual_layers(depth, inner, rep, width, shortcut, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.tail(self.layers(self.main(x))), self.bypass(x)), dim=1))


@register_block
class CSPC(CSPA):
    """Cross-stage partial stage of the P5 backbones: as `CSPA`, with a 1x1 behind the layers."""

    has_tail = True


@register_block
class CSPB(Block):
    """Cross-stage partial stage of the necks: full width, the bypass leaves after the first convolution."""

    def __init__(self, in_channels: int, out: int, depth: int = 1, inner: Inner = "dark", rep: Rep = "none",
                 shortcut: bool = False, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.main = Conv(in_channels, out, activation=activation)
        self.bypass = Conv(out, out, activation=activation)
        self.out = Conv(2 * out, out, activation=activation)
        self.layers = residual_layers(depth, inner, rep, out, shortcut, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.main(x)
        return self.out(torch.cat((self.layers(x), self.bypass(x)), dim=1))


@register_block
class Dark(Block):
    """Darknet's residual layers (YOLOv3): 1x1 to half the width, then 3x3, ``depth`` times."""

    width_step = 16

    def __init__(self, in_channels: int, out: int, depth: int = 1, shortcut: bool = True,
                 activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        widths = [in_channels] + [out] * depth
        self.layers = nn.Sequential(*(
            Residual([Conv(width, out // 2, activation=activation), Conv(out // 2, out, 3, activation=activation)],
                     shortcut and width == out)
            for width in widths[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@register_block
class Stem(Block):
    """First layers of the ResNet variants: a strided 3x3, then a strided convolution beside max-pooling."""

    reduction = 4
    width_step = 16

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        width = out // 2
        self.first = Conv(in_channels, width, 3, 2, activation=activation)
        self.mix = Conv(width, width, activation=activation)
        self.down = Conv(width, width, 3, 2, activation=activation)
        self.out = Conv(2 * width, out, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.out(torch.cat((self.down(self.mix(x)), F.max_pool2d(x, 2, 2)), dim=1))


@register_block
class SPP(Block):
    """Spatial pyramid pooling of YOLOv3-SPP."""

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.reduce = Conv(in_channels, in_channels // 2, activation=activation)
        self.out = Conv(4 * (in_channels // 2), out, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat(pyramid_pool(self.reduce(x)), dim=1))


@register_block
class Upsample(Block):
    """Upsampling by 2: nearest neighbour (YOLOv3; `UpCat` elsewhere), or bilinear (YOLOv7-mask)."""

    reduction = 0.5

    def __init__(self, in_channels: int, mode: Literal["nearest", "bilinear"] = "nearest") -> None:
        super().__init__()
        self.out_channels, self.mode = in_channels, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=self.mode)
