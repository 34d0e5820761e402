"""The head of YOLOv7-mask: attention for each prediction, bases and a semantic map for the image (BlendMask's way)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from yolov7.masks import CELL, GRID
from yolov7.model import blending
from yolov7.model.heads.base import FREE, Anchors, Head, in_format_of, register_head
from yolov7.model.merging import JoinedConv


@register_head
class MaskHead(Head):
    """A detector whose predictions also have attention over the maps of their image: ``bases`` and a semantic map.

    The nodes that make those stand under ``maps`` of the YAML, at half the stride of the finest level. ``attention`` is
    its number of rows and columns for each map; convolutions of its own make it, without implicit knowledge. Centres
    reach a cell out of their own (docs/reference.md, Mask head).
    """

    map_names = ("bases", "semantic")
    has_masks = True
    mask_stride = CELL
    reach = FREE

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = (), bases: int = 4,
                 attention: int = 14) -> None:
        if attention > GRID:
            raise ValueError(f"attention {attention}; accepted: at most {GRID}, the rows of a mask")
        width = (bases + 1) * attention**2
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels,
                         self.added_channels(width), tuple(self.added_channels(width)))
        self.map_inputs = ((bases, CELL), (1, CELL))
        self.channels = replace(self.channels, facts={"attention": attention})
        self.attention_convs = self._convs(in_channels, width)
        # one a level: a traced module that runs twice has two programs, and files of TorchScript may have one
        self.joins = nn.ModuleList(JoinedConv(self.num_anchors) for _ in in_channels)

    @classmethod
    def added_channels(cls, width: int) -> dict[str, int]:
        """The channels behind those of a detector, each made by convolutions of their own."""
        return {"attention": width}

    def _convs(self, in_channels: Sequence[int], width: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(channels, self.num_anchors * width, 1) for channels in in_channels)

    def own_convs(self) -> dict[str, nn.ModuleList]:
        """The convolutions of each name of `added_channels`."""
        return {"attention": self.attention_convs}

    def level(self, index: int, x: Tensor) -> Tensor:
        """The logits of one level: ``[B, c, h, w]`` -> ``[B, A, h, w, X]``."""
        own = [convs[index] for convs in self.own_convs().values()]
        x = in_format_of(own[0], x)
        if len(self.implicit_add):
            every = [self.convolve(index, x), *(conv(x) for conv in own)]
            return torch.cat([self.separate(y, y.shape[1] // self.num_anchors) for y in every], dim=-1)
        return self.separate(self.joins[index](x, [self.convs[index], *own]))

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``bases`` ``[B, bases, h, w]`` and ``semantic`` ``[B, 1, h, w]``, as their nodes made them."""
        return dict(zip(self.map_names, features[len(self.strides) :], strict=True))

    def make_masks(self, boxes: Tensor, columns: Mapping[str, Tensor], maps: Mapping[str, Tensor],
                   full: bool = False) -> Tensor:
        """Probabilities pasted at the maps' resolution, or at that of the network input; see `Head.make_masks`."""
        joined = torch.cat([maps[name] for name in self.map_names], dim=1).float()
        pooled = blending.sample_grids(joined, boxes, self.mask_stride).flatten(0, 1)
        masks = blending.blend(columns["attention"].flatten(0, 1), pooled).sigmoid()
        height, width = joined.shape[2:]
        stride, factor = (1, self.mask_stride) if full else (self.mask_stride, 1)
        size = height * factor, width * factor
        return blending.paste_grids(masks.view(*boxes.shape[:2], *masks.shape[1:]), boxes, size, stride)

    def outputs(self) -> dict[str, tuple[list[nn.Conv2d], list[str]]]:
        """The convolutions that make channels, also those of its own (see `Head.outputs`)."""
        found = super().outputs()
        for name, convs in self.own_convs().items():
            found[f"{name}_convs"] = list(convs), self.row_names([name])  # type: ignore[arg-type]
        return found


@register_head
class MaskIoUHead(MaskHead):
    """`MaskHead` whose predictions also know how well their mask will fit, which makes their score (Mask Scoring)."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = (), bases: int = 4,
                 attention: int = 14) -> None:
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels, bases, attention)
        self.mask_iou_convs = self._convs(in_channels, 1)

    @classmethod
    def added_channels(cls, width: int) -> dict[str, int]:
        """See `MaskHead.added_channels`."""
        return {"attention": width, "mask_iou": 1}

    def own_convs(self) -> dict[str, nn.ModuleList]:
        """See `MaskHead.own_convs`."""
        return {"attention": self.attention_convs, "mask_iou": self.mask_iou_convs}

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        """The attention as it is, and ``mask_iou`` in 0..1: ``[..., 1]``."""
        return {"attention": logits["attention"].float(), "mask_iou": logits["mask_iou"].float().sigmoid()}
