"""Prior candidates: which cells may predict which object, before any prediction is looked at.

Spec of assignment and loss, section 3. Every (level, neighbour, anchor, object) has a fixed slot, so that all shapes
follow from the padded targets and nothing is read back from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.structures import HeadOutput, Targets

NEIGHBOURS = ((0.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))  # centre, left, up, right, down


@dataclass(frozen=True)
class Candidates:
    """Slots in the order (level, neighbour, anchor, object), K = 5 * A * G of them in each level."""

    cell: Tensor  # int64 [B, L, K], position ``(anchor * h + row) * w + column`` inside its level
    owner: Tensor  # int64 [B, L, K], the object that proposes the cell
    valid: Tensor  # bool [B, L, K]


def find_candidates(output: HeadOutput, targets: Targets, anchors: Tensor, strides: Sequence[int],
                    anchor_ratio: float = 4.0, offset: float = 0.5) -> Candidates:
    """The cell of every object's centre and its neighbours nearer than ``offset`` cells, for every fitting anchor.

    ``offset`` 0.5 gives up to 3 cells, 1.0 up to 5. An anchor (``[L, A, 2]`` pixels) fits where no side differs by
    ``anchor_ratio`` or more. Neighbours lie more than a cell from the border.
    """
    boxes = xyxy_to_cxcywh(targets.boxes)  # [B, G, 4]
    levels = []
    for logits, level_anchors, stride in zip(output.levels, anchors, strides, strict=True):
        _, num_anchors, height, width, _ = logits.shape
        column_row, near = _neighbour_cells(boxes[..., :2] / stride, (width, height), offset)  # [B, 5, G, 2], [B, 5, G]
        fits = _anchor_fits(boxes[..., 2:], level_anchors, anchor_ratio)  # [B, A, G]
        valid = near[:, :, None] & fits[:, None] & targets.valid[:, None, None]  # [B, 5, A, G]
        plane = torch.arange(num_anchors, device=logits.device)[:, None] * (height * width)  # [A, 1]
        cell = plane + (column_row[..., 1] * width + column_row[..., 0])[:, :, None]  # [B, 5, A, G]
        levels.append((cell.flatten(1), valid.flatten(1)))
    cells, valids = (torch.stack(parts, dim=1) for parts in zip(*levels, strict=True))
    owner = torch.arange(boxes.shape[1], device=boxes.device).repeat(cells.shape[2] // boxes.shape[1])
    return Candidates(cells, owner.expand_as(cells), valids)


def _neighbour_cells(centre: Tensor, size: tuple[int, int], offset: float) -> tuple[Tensor, Tensor]:
    """Cells (column, row) of the five neighbours of centres in cells ``[B, G, 2]``, and whether each takes part."""
    limit = centre.new_tensor(size)
    mirrored = limit - centre
    low = (centre % 1 < offset) & (centre > 1)  # left, up
    high = (mirrored % 1 < offset) & (mirrored > 1)  # right, down
    near = torch.stack((torch.ones_like(low[..., 0]), low[..., 0], low[..., 1], high[..., 0], high[..., 1]), dim=1)
    shifts = centre.new_tensor(NEIGHBOURS) * offset  # [5, 2]
    cells = (centre[:, None] + shifts[:, None]).long()  # truncation, as the original
    return torch.minimum(cells.clamp(min=0), limit.long() - 1), near


def _anchor_fits(sizes: Tensor, anchors: Tensor, anchor_ratio: float) -> Tensor:
    """Whether sizes ``[B, G, 2]`` and anchors ``[A, 2]`` differ by less than ``anchor_ratio``: ``[B, A, G]``."""
    ratio = sizes[:, None] / anchors[:, None]  # [B, A, G, 2]
    worst = torch.maximum(ratio, 1 / ratio).amax(dim=-1)  # a side of zero is infinitely wrong
    return worst < anchor_ratio
