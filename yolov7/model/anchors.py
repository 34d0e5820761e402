"""The only place that knows how logits become boxes (spec of the architecture, section 3).

Per axis, with cell index g, stride s and anchor side a: centre ``(2 sigmoid(t) - 0.5 + g) s``, side
``(2 sigmoid(t))^2 a``. Decoding runs in float32 whatever the network ran in: half precision has steps of 0.5 px
above 512 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.structures import HeadOutput

CONSTRAINED, FREE = 0.5, 1.0  # cells outside its own that a centre may reach; FREE is of table 7 alone


class Predictions(NamedTuple):
    """Decoded output, rows ordered by level (finest first), anchor, row, column."""

    boxes: Tensor  # float32 [B, M, 4] xyxy pixels of the network input; of one picture [M, 4]
    objectness: Tensor  # float32 [B, M] in 0..1; of one picture [M]
    classes: Tensor  # float32 [B, M, C] in 0..1, to be multiplied by the objectness; of one picture [M, C]


def decode_boxes(logits: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor | float,
                 reach: float = CONSTRAINED, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits ``[..., 4]`` at cells ``[..., 2]`` (x, y) with anchors ``[..., 2]`` -> xyxy boxes ``[..., 4]``.

    With anchors in pixels and the level's stride the result is in pixels of the network input; with anchors in
    cells, stride 1 and cells 0 it is in cells, relative to the cell's corner. ``reach`` is how far a centre may lie
    outside its cell. With float16 as ``dtype`` it is rounded where the original rounds in half precision.
    """
    activated = logits.to(dtype).sigmoid()
    centre = (activated[..., :2] * (1 + 2 * reach) - reach + cells) * stride
    size = (activated[..., 2:] * 2).square() * anchors
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1).to(dtype))


def cell_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Cell indices (x, y) of a level: float32 ``[h, w, 2]``."""
    y = torch.arange(height, device=device, dtype=torch.float32)
    x = torch.arange(width, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def decode(output: HeadOutput, anchors: Tensor, strides: Sequence[int]) -> Predictions:
    """Decode the lead levels. ``anchors`` is ``[L, A, 2]`` in pixels."""
    rows = []
    for logits, level_anchors, stride in zip(output.levels, anchors, strides, strict=True):
        _, _, height, width, _ = logits.shape
        cells = cell_grid(height, width, logits.device)
        boxes = decode_boxes(logits[..., :4], cells, level_anchors[:, None, None], stride)  # [B, A, h, w, 4]
        scores = logits[..., 4:].float().sigmoid()
        rows.append(torch.cat((boxes, scores), dim=-1).flatten(1, 3))
    decoded = torch.cat(rows, dim=1)  # [B, M, 5 + C]
    return Predictions(decoded[..., :4], decoded[..., 4], decoded[..., 5:])


def decode_above(output: HeadOutput, anchors: Tensor, strides: Sequence[int], confidence: float,
                 dtype: torch.dtype = torch.float32) -> list[Predictions]:
    """Decode only what may be a detection: the rows whose objectness exceeds ``confidence``.

    One `Predictions` a picture, without the batch dimension, in the order of `decode`. ``dtype`` is the format of the
    arithmetic and of the result: float16 is that of the original on GPUs.
    """
    batch = len(output.levels[0])
    images, rows = [], []
    for logits, level_anchors, stride in zip(output.levels, anchors, strides, strict=True):
        image, anchor, y, x = (logits[..., 4].to(dtype).sigmoid() > confidence).nonzero(as_tuple=True)
        chosen = logits[image, anchor, y, x]  # [N, 5 + C]
        cells = torch.stack((x, y), dim=-1).float()
        boxes = decode_boxes(chosen[:, :4], cells, level_anchors[anchor], stride, dtype=dtype)
        images.append(image)
        rows.append(torch.cat((boxes, chosen[:, 4:].to(dtype).sigmoid()), dim=-1))
    of_image = torch.cat(images)
    counts = torch.bincount(of_image, minlength=batch).tolist()  # waits for the device, as all that follows
    decoded = torch.cat(rows)[of_image.argsort(stable=True)].split(counts)
    return [Predictions(part[:, :4], part[:, 4], part[:, 5:]) for part in decoded]
