"""Prior candidates: which cells may predict which object, before any prediction is looked at.

Spec of assignment and loss, section 3. No prediction takes part, so this runs on the host, where the targets come
from: what does not fit is left out there, and the device gets short lists whose lengths the host knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.structures import Targets

NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # centre, left, up, right, down
FINE, COARSE = 0.5, 1.0  # cells: how far a neighbour may lie from the centre; up to 3 cells, up to 5
SLOTS_STEP = 64  # lists are padded to multiples of this: few distinct shapes

LevelSize = tuple[int, int, int]  # anchors, height, width


@dataclass(frozen=True)
class Candidates:
    """Slots of a batch in the order (level, neighbour, anchor, object), padded to N in each image."""

    level: Tensor  # int64 [B, N]
    cell: Tensor  # int64 [B, N], position ``(anchor * h + row) * w + column`` inside its level
    owner: Tensor  # int64 [B, N], the object that proposes the cell
    valid: Tensor  # bool [B, N]
    fine: Tensor  # bool [B, N], the valid ones that are candidates under `FINE` too
    counts: tuple[int, ...]  # slots of each image, which stand first

    def each(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """The same candidates with every tensor changed, such as moved to a device."""
        return Candidates(change(self.level), change(self.cell), change(self.owner), change(self.valid),
                          change(self.fine), self.counts)


def find_candidates(targets: Targets, sizes: Sequence[LevelSize], anchors: Tensor, strides: Sequence[int],
                    anchor_ratio: float = 4.0, offset: float = FINE, deduplicate: bool = False) -> Candidates:
    """The cell of every object's centre and its neighbours nearer than ``offset`` cells, for every fitting anchor.

    ``targets`` and ``anchors`` (``[L, A, 2]`` pixels) are on the host. An anchor fits where no side differs by
    ``anchor_ratio`` or more. Neighbours lie more than a cell from the border. With ``deduplicate`` a cell is proposed
    once, by the first slot.
    """
    objects = xyxy_to_cxcywh(targets.boxes)
    levels = [_level_candidates(objects, targets.valid, size, anchors[index], stride, anchor_ratio, offset)
              for index, (size, stride) in enumerate(zip(sizes, strides, strict=True))]
    cell, valid, fine = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))  # [B, L * 5 * A * G]
    slots = torch.arange(cell.shape[1])
    level = slots // (cell.shape[1] // len(sizes))
    if deduplicate:
        starts = torch.tensor([sum(_cells(size) for size in sizes[:index]) for index in range(len(sizes))])
        total = sum(map(_cells, sizes))
        unique = cell + starts[level]
        valid, fine = _drop_repetitions(unique, valid, total), _drop_repetitions(unique, fine, total)
    kept = valid | fine
    counts = kept.sum(dim=1).tolist()
    longest = -(-max(1, *counts) // SLOTS_STEP) * SLOTS_STEP
    chosen = torch.argsort(~kept, dim=1, stable=True)[:, :longest]  # those that count, in order, then some others
    owner = chosen % targets.valid.shape[1]
    return Candidates(level[chosen], cell.gather(1, chosen), owner, valid.gather(1, chosen), fine.gather(1, chosen),
                      tuple(counts))


def _cells(size: LevelSize) -> int:
    anchors, height, width = size
    return anchors * height * width


def _level_candidates(objects: Tensor, present: Tensor, size: LevelSize, anchors: Tensor, stride: int,
                      anchor_ratio: float, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cell, valid and fine of one level's slots: ``[B, 5 * A * G]`` each."""
    num_anchors, height, width = size
    column, row, near, fine = _neighbour_cells(objects[..., :2] / stride, height, width, offset)  # [B, 5, G]
    fits = _anchor_fits(objects[..., 2:], anchors, anchor_ratio) & present[:, None]  # [B, A, G]
    plane = torch.arange(num_anchors)[:, None] * (height * width)
    cell = plane + (row * width + column)[:, :, None]  # [B, 5, A, G]
    return cell.flatten(1), (near[:, :, None] & fits[:, None]).flatten(1), (fine[:, :, None] & fits[:, None]).flatten(1)


def _neighbour_cells(centre: Tensor, height: int, width: int, offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Column and row of the five neighbours of centres in cells ``[B, G, 2]``, and who takes part: ``[B, 5, G]`` each.

    The last two are the neighbours under ``offset``, and those of them whose cell is one under `FINE` too.
    """
    x, y = centre.unbind(-1)
    near, fine = [torch.ones_like(x, dtype=torch.bool)], [torch.ones_like(x, dtype=torch.bool)]
    for position, sign in ((x, -1), (y, -1), (width - x, 1), (height - y, 1)):
        rest, inside = position % 1, position > 1
        near.append((rest < offset) & inside)
        # right and down of an exact integer: under FINE the centre's own cell again, under COARSE the next one
        apart = rest > 0 if sign > 0 and offset > FINE else torch.ones_like(inside)
        fine.append((rest < FINE) & inside & apart)
    columns = [(x + dx * offset).long().clamp(0, width - 1) for dx, _ in NEIGHBOURS]  # truncation, as the original
    rows = [(y + dy * offset).long().clamp(0, height - 1) for _, dy in NEIGHBOURS]
    return torch.stack(columns, 1), torch.stack(rows, 1), torch.stack(near, 1), torch.stack(fine, 1)


def _anchor_fits(sizes: Tensor, anchors: Tensor, anchor_ratio: float) -> Tensor:
    """Whether sizes ``[B, G, 2]`` and anchors ``[A, 2]`` differ by less than ``anchor_ratio``: ``[B, A, G]``."""
    ratio = sizes[:, None] / anchors[:, None]  # [B, A, G, 2]
    worst = torch.maximum(ratio, 1 / ratio).amax(dim=-1)  # a side of zero is infinitely wrong
    return worst < anchor_ratio


def _drop_repetitions(cell: Tensor, valid: Tensor, num_cells: int) -> Tensor:
    """``valid`` without the slots ``[B, N]`` whose cell (counted over all levels) an earlier valid slot proposes."""
    slot = torch.arange(cell.shape[1]).expand_as(cell)
    unused = slot.new_full((len(cell), num_cells), cell.shape[1])
    first = unused.scatter_reduce(1, cell, torch.where(valid, slot, cell.shape[1]), "amin")
    return valid & (first.gather(1, cell) == slot)
