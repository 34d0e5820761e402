"""Raw detection heads: feature maps -> `HeadOutput`. Decoding is in `anchors`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov7.structures import HeadOutput

NOMINAL_SIZE = 640  # the objectness prior counts on 8 objects in a picture of this side


class AnchorHead(nn.Module):
    """One 1x1 convolution per level, with implicit knowledge: ``multiply * conv(x + add)`` (paper, section 4.3).

    ``anchors`` is ``[L, A, 2]`` in pixels (width, height). Without ``implicit`` it is a plain convolution.
    ``auxiliary_channels`` are those of the maps for the auxiliary head: plain convolutions, used in training alone.
    """

    anchors: Tensor

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int,
                 anchors: Sequence[Sequence[Sequence[float]]], implicit: bool = True,
                 auxiliary_channels: Sequence[int] = ()) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.num_anchors = len(anchors[0])
        outputs = self.num_anchors * (5 + num_classes)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.convs = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in in_channels)
        self.auxiliary_convs = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in auxiliary_channels)
        self.implicit_add = nn.ParameterList()
        self.implicit_multiply = nn.ParameterList()
        if implicit:
            self.implicit_add.extend(nn.Parameter(0.02 * torch.randn(1, c, 1, 1)) for c in in_channels)
            self.implicit_multiply.extend(nn.Parameter(1 + 0.02 * torch.randn(1, outputs, 1, 1)) for _ in in_channels)
        for convs in (self.convs, self.auxiliary_convs):
            for conv, stride in zip(convs, self.strides, strict=False):
                self._add_bias_prior(conv, stride)

    @torch.no_grad()
    def _add_bias_prior(self, conv: nn.Module, stride: int) -> None:
        """Start from few objects: 8 in a picture of 640 px, and a class score of 0.6 over all classes."""
        bias = conv.bias.view(self.num_anchors, -1)  # type: ignore[union-attr, operator]
        bias[:, 4] += math.log(8 / (NOMINAL_SIZE / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99))

    def forward(self, features: Sequence[Tensor], auxiliary: Sequence[Tensor] = ()) -> HeadOutput:
        """L maps ``[B, c, h, w]``, finest first, and L or none for the auxiliary head -> logits [B, A, h, w, 5 + C]."""
        levels = []
        for index, (feature, conv) in enumerate(zip(features, self.convs, strict=True)):
            x = _in_format_of(conv, feature)
            if len(self.implicit_add):
                y = conv(x + self.implicit_add[index]) * self.implicit_multiply[index]
            else:
                y = conv(x)
            levels.append(self._separate(y))
        extra = tuple(self._separate(conv(x)) for x, conv in zip(auxiliary, self.auxiliary_convs, strict=True))
        return HeadOutput(tuple(levels), (HeadOutput(extra),) if extra else ())

    def _separate(self, y: Tensor) -> Tensor:
        """``[B, A * (5 + C), h, w]`` -> ``[B, A, h, w, 5 + C]``."""
        batch, _, height, width = y.shape
        return y.view(batch, self.num_anchors, 5 + self.num_classes, height, width).permute(0, 1, 3, 4, 2)


def _in_format_of(conv: nn.Module, x: Tensor) -> Tensor:
    """Features of a network in half precision for a detection convolution in float32; autocast does that itself."""
    wanted: torch.dtype = conv.weight.dtype  # type: ignore[assignment]
    return x if x.dtype == wanted or torch.is_autocast_enabled(x.device.type) else x.to(wanted)
