"""The head of instance segmentation: coefficients for each prediction, prototypes for the image (YOLACT's way)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.masks import CELL
from yolov7.model.blocks import Conv
from yolov7.model.heads.base import Anchors, Head, in_format_of, register_head


class Prototypes(nn.Module):
    """Prototypes of masks at twice the resolution of the finest level: ``[B, c, h, w]`` -> ``[B, masks, 2h, 2w]``."""

    def __init__(self, in_channels: int, width: int, masks: int) -> None:
        super().__init__()
        self.first = Conv(in_channels, width, 3)
        self.second = Conv(width, width, 3)
        self.last = Conv(width, masks, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = in_format_of(self.first.conv, x)
        enlarged = F.interpolate(self.first(x), scale_factor=2, mode="nearest")
        made: Tensor = self.last(self.second(enlarged))
        return made


@register_head
class SegmentHead(Head):
    """A detector whose predictions also have ``masks`` coefficients of the image's prototypes.

    The mask of a prediction is the sigmoid of the sum of the prototypes, weighted by its coefficients.

    Of implicit knowledge only the additive part takes part. The multiplicative one, of box, objectness and classes, is
    kept as the reference implementation's files have it, which do not use it either.
    """

    map_names = ("prototypes",)
    has_masks = True
    mask_stride = CELL
    multiplies = False

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = (), masks: int = 32,
                 prototype_width: int = 256) -> None:
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels,
                         {"coefficients": masks})
        unused = torch.ones(1, self.num_anchors * (5 + num_classes), 1, 1)
        self.implicit_multiply = nn.ParameterList(
            nn.Parameter(unused.clone(), requires_grad=False) for _ in self.implicit_multiply)
        self.prototypes = Prototypes(in_channels[0], prototype_width, masks)

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Prototypes at half the stride of the finest level: ``[B, masks, h, w]``."""
        return {"prototypes": self.prototypes(features[0])}

    def to_half(self, dtype: torch.dtype) -> None:
        """Compute the prototypes in half precision."""
        self.prototypes.to(dtype)

    def labels(self, name: str) -> list[str]:
        """Coefficients are the same where their prototypes can be."""
        labels = super().labels(name)
        width = self.prototypes.last.conv.in_channels
        return [f"{label} of width {width}" for label in labels] if name == "coefficients" else labels

    def make_masks(self, boxes: Tensor, columns: Mapping[str, Tensor], maps: Mapping[str, Tensor],
                   full: bool = False) -> Tensor:
        """Probabilities at the resolution of the prototypes, enlarged from there if ``full``; see `Head.make_masks`.

        A cell belongs to a box from its left and upper corner on, up to but not at the right and lower one.
        """
        prototypes = maps["prototypes"].float()  # [B, m, h, w]
        height, width = prototypes.shape[2:]
        logits = columns["coefficients"].float() @ prototypes.flatten(2)  # [B, N, h * w]
        left, top, right, bottom = (boxes / self.mask_stride)[..., None].unbind(2)  # each [B, N, 1]
        x, y = (torch.arange(side, device=boxes.device, dtype=torch.float32) for side in (width, height))
        across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)  # [B, N, w], [B, N, h]
        inside = down[..., None] & across[..., None, :]  # [B, N, h, w]
        masks: Tensor = logits.sigmoid().view(*boxes.shape[:2], height, width) * inside
        return F.interpolate(masks, scale_factor=self.mask_stride, mode="bilinear") if full else masks
