"""The head of instance segmentation: coefficients for each prediction, prototypes for the image (YOLACT's way)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.model.blocks import Conv
from yolov7.model.heads.base import Anchors, Head, register_head


class Prototypes(nn.Module):
    """Prototypes of masks at twice the resolution of the finest level: ``[B, c, h, w]`` -> ``[B, masks, 2h, 2w]``."""

    def __init__(self, in_channels: int, width: int, masks: int, activation: str = "silu") -> None:
        super().__init__()
        self.first = Conv(in_channels, width, 3, activation=activation)
        self.second = Conv(width, width, 3, activation=activation)
        self.last = Conv(width, masks, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(self.first(x), scale_factor=2, mode="nearest")
        made: Tensor = self.last(self.second(enlarged))
        return made


@register_head
class SegmentHead(Head):
    """A detector whose predictions also have ``masks`` coefficients of the image's prototypes.

    The mask of a prediction is the sigmoid of the sum of the prototypes, weighted by its coefficients.
    """

    map_names = ("prototypes",)
    has_masks = True

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = (), masks: int = 32,
                 prototype_width: int = 256) -> None:
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels,
                         {"coefficients": masks})
        self.prototypes = Prototypes(in_channels[0], prototype_width, masks)

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Prototypes at half the stride of the finest level: ``[B, masks, h, w]``."""
        return {"prototypes": self.prototypes(features[0])}
