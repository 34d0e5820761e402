"""Candidates: cells that may predict an object, and the predictions gathered there (docs/reference.md, Candidates).

Finding them needs no prediction, so it runs on the host, where the targets come from: what does not fit is dropped
there, and the device gets short lists whose lengths the host knows.

The gradient of the gathered predictions is written into one buffer for each level. Autograd by itself would make a
dense zero tensor for the gathered rows, another one for the objectness, and add them: at 640 px that memory traffic
costs more than the rest of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.structures import Targets

NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # centre, left, up, right, down
FINE, COARSE = 0.5, 1.0  # cells: maximum distance of the centre from a neighbour; up to 3 cells, up to 5
CANDIDATES_STEP = 64  # lists are padded to multiples of this: few distinct shapes

LevelSize = tuple[int, int, int]  # anchors, height, width


@dataclass(frozen=True)
class Candidates:
    """Cells that may predict an object, in the order (level, neighbour, anchor, object), padded to N in each image."""

    level: Tensor  # int64 [B, N]
    cell: Tensor  # int64 [B, N], position ``(anchor * h + row) * w + column`` inside its level
    gt_index: Tensor  # int64 [B, N], the object that proposes the cell
    valid: Tensor  # bool [B, N]
    fine: Tensor  # bool [B, N], those that are candidates under `FINE`
    counts: tuple[int, ...]  # candidates of each image, which stand first

    def map(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """The same candidates with every tensor changed, such as moved to a device."""
        return Candidates(change(self.level), change(self.cell), change(self.gt_index), change(self.valid),
                          change(self.fine), self.counts)


class Assignment(NamedTuple):
    """Which prediction learns which object: one row per candidate, over all images and levels.

    S follows from lengths that the host knows; `positive` marks the rows that count. Of several positives in a cell
    the one with the highest `order` sets the objectness.
    """

    image: Tensor  # int64 [S]
    level: Tensor  # int64 [S]
    cell: Tensor  # int64 [S], position ``(anchor * h + row) * w + column`` inside its level
    gt_index: Tensor  # int64 [S], the object in the padded targets
    order: Tensor  # int64 [S], index among the candidates of its image: by level, neighbour, anchor, object
    positive: Tensor  # bool [S]

    def positives(self) -> Tensor:
        """The positives as rows (image, level, cell, gt_index): int64 ``[P, 4]``, for tests and drawings."""
        return torch.stack((self.image, self.level, self.cell, self.gt_index), dim=1)[self.positive]


def find_candidates(targets: Targets, sizes: Sequence[LevelSize], anchors: Tensor, strides: Sequence[int],
                    anchor_ratio: float = 4.0, offset: float = FINE, deduplicate: bool = False) -> Candidates:
    """The cell of every object's centre and its neighbours nearer than ``offset`` cells, for every fitting anchor.

    ``targets`` and ``anchors`` (``[L, A, 2]`` pixels) are on the host. An anchor fits if the ratio of no side reaches
    ``anchor_ratio``. Neighbours are used more than a cell from the border. With ``deduplicate`` each cell is proposed
    once, by its first candidate.
    """
    objects = xyxy_to_cxcywh(targets.boxes)
    levels = [_level_candidates(objects, targets.valid, size, anchors[index], stride, anchor_ratio, offset)
              for index, (size, stride) in enumerate(zip(sizes, strides, strict=True))]
    cell, valid, fine = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))  # [B, L * K * A * G]
    candidates = torch.arange(cell.shape[1])
    level = candidates // (cell.shape[1] // len(sizes))
    if deduplicate:
        starts = torch.tensor([sum(_cells(size) for size in sizes[:index]) for index in range(len(sizes))])
        total = sum(map(_cells, sizes))
        unique = cell + starts[level]
        valid, fine = _drop_repetitions(unique, valid, total), _drop_repetitions(unique, fine, total)
    kept = valid | fine
    counts = kept.sum(dim=1).tolist()
    longest = -(-max(1, *counts) // CANDIDATES_STEP) * CANDIDATES_STEP
    chosen = torch.argsort(~kept, dim=1, stable=True)[:, :longest]  # candidates in order, then padding
    gt_index = chosen % targets.valid.shape[1]
    return Candidates(level[chosen], cell.gather(1, chosen), gt_index, valid.gather(1, chosen), fine.gather(1, chosen),
                      tuple(counts))


def power_of_two(table: Tensor) -> Tensor:
    """``[B, N, ...]`` with zeros behind, so that N is a power of two."""
    missing = (1 << max(table.shape[1] - 1, 0).bit_length()) - table.shape[1]
    return F.pad(table, (0, 0) * (table.ndim - 2) + (0, missing)) if missing else table


def _cells(size: LevelSize) -> int:
    anchors, height, width = size
    return anchors * height * width


def _level_candidates(objects: Tensor, present: Tensor, size: LevelSize, anchors: Tensor, stride: int,
                      anchor_ratio: float, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cell, valid and fine of one level's candidates: ``[B, K * A * G]`` each, of K neighbours."""
    num_anchors, height, width = size
    column, row, near, fine = _neighbour_cells(objects[..., :2] / stride, height, width, offset)  # [B, K, G]
    fits = _anchor_fits(objects[..., 2:], anchors, anchor_ratio) & present[:, None]  # [B, A, G]
    plane = torch.arange(num_anchors)[:, None] * (height * width)
    cell = plane + (row * width + column)[:, :, None]  # [B, K, A, G]
    return cell.flatten(1), (near[:, :, None] & fits[:, None]).flatten(1), (fine[:, :, None] & fits[:, None]).flatten(1)


def _neighbour_cells(centre: Tensor, height: int, width: int, offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Column, row and two masks of the K neighbours of centres in cells ``[B, G, 2]``: ``[B, K, G]`` each.

    The masks are the neighbours under ``offset``, and those whose cell is a candidate under `FINE` too. K is 5; with a
    larger ``offset`` it is 7, as right and down of a centre on a cell border are other cells under `FINE`: its own.
    """
    x, y = centre.unbind(-1)

    def cells(reach: float) -> list[tuple[Tensor, Tensor]]:
        # truncated as in the reference implementation
        return [((x + dx * reach).long().clamp(0, width - 1), (y + dy * reach).long().clamp(0, height - 1))
                for dx, dy in NEIGHBOURS]

    always, never = torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)
    found = [(*cells(offset)[0], always, always)]
    places = ((x, 0), (y, 0), (width - x, 1), (height - y, 1))  # and whether the border is beyond the centre's own cell
    for (position, beyond), (column, row), (fine_column, fine_row) in zip(
            places, cells(offset)[1:], cells(FINE)[1:], strict=True):
        rest, inside = position % 1, position > 1
        fine, same = (rest < FINE) & inside, (column == fine_column) & (row == fine_row)
        found.append((column, row, (rest < offset) & inside, fine & same))
        if beyond and offset > FINE:
            found.append((fine_column, fine_row, never, fine & ~same))
    columns, rows, near, fine = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
    return columns, rows, near, fine


def _anchor_fits(sizes: Tensor, anchors: Tensor, anchor_ratio: float) -> Tensor:
    """Whether sizes ``[B, G, 2]`` and anchors ``[A, 2]`` differ by less than ``anchor_ratio``: ``[B, A, G]``."""
    ratio = sizes[:, None] / anchors[:, None]  # [B, A, G, 2]
    worst = torch.maximum(ratio, 1 / ratio).amax(dim=-1)  # a side of zero is infinitely wrong
    return worst < anchor_ratio


def _drop_repetitions(cell: Tensor, valid: Tensor, num_cells: int) -> Tensor:
    """``valid`` ``[B, N]`` without candidates whose cell, an index over all levels, an earlier valid one proposes."""
    candidate = torch.arange(cell.shape[1]).expand_as(cell)
    unused = candidate.new_full((len(cell), num_cells), cell.shape[1])
    first = unused.scatter_reduce(1, cell, torch.where(valid, candidate, cell.shape[1]), "amin")
    return valid & (first.gather(1, cell) == candidate)


# --- predictions at candidate cells -------------------------------------------------------------------------------

OBJECTNESS = 4  # index in the last axis


def flat_rows(level: Tensor) -> Tensor:
    """A level ``[B, A, h, w, X]`` as rows ``[B * h * w * A, X]``: a view where the network ran in channels_last."""
    return level.permute(0, 2, 3, 1, 4).flatten(0, 3)


def row_index(level: Tensor, image: Tensor, anchor: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Indices into `flat_rows`: int64, of the broadcast shape."""
    _, anchors, height, width, _ = level.shape
    return ((image * height + row) * width + column) * anchors + anchor


def places_in_levels(image: Tensor, cell: Tensor, inside: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
    """Image, anchor, row and column of candidates in each level: int64 ``[4, ...]`` for each.

    ``cell`` is ``(anchor * h + row) * w + column`` in a candidate's own level; in levels that it is not ``inside`` of,
    the first cell takes its place.
    """
    places = []
    for mask, level in zip(inside, levels, strict=True):
        height, width = level.shape[2:4]
        own = torch.where(mask, cell, 0)
        places.append(torch.stack((image, own // (height * width), own // width % height, own % width)))
    return places


class _Gather(torch.autograd.Function):
    """(number of levels, labels, levels, indices, masks) -> boxes, rest, own class, objectness of each level."""

    @staticmethod
    def forward(ctx: Any, count: int, labels: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        levels, indices, inside = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        ctx.save_for_backward(labels, *indices, *inside)
        ctx.levels = [(level.shape, level.dtype, level.device) for level in levels]
        first = flat_rows(levels[0])
        boxes, rest = first[:, :4].index_select(0, indices[0]), first[:, 5:].index_select(0, indices[0])
        for level, index, mask in zip(levels[1:], indices[1:], inside[1:], strict=True):
            rows = flat_rows(level)
            boxes = torch.where(mask[:, None], rows[:, :4].index_select(0, index), boxes)
            rest = torch.where(mask[:, None], rows[:, 5:].index_select(0, index), rest)
        own = rest.gather(1, labels[:, None])[:, 0]
        return boxes, rest, own, *(level[..., OBJECTNESS].clone() for level in levels)

    @staticmethod
    def backward(ctx: Any, boxes: Tensor, rest: Tensor, own: Tensor, *objectness: Tensor) -> tuple[Tensor | None, ...]:
        """Add the gradients of candidates and objectness into one buffer for each level."""
        count, labels = len(ctx.levels), ctx.saved_tensors[0]
        indices, inside = ctx.saved_tensors[1 : count + 1], ctx.saved_tensors[count + 1 :]
        result: list[Tensor | None] = [None, None]
        for (shape, dtype, device), index, mask, gradient in zip(ctx.levels, indices, inside, objectness, strict=True):
            batch, anchors, height, width, size = shape
            buffer = torch.zeros(batch, height, width, anchors, size, dtype=dtype, device=device)
            level = buffer.permute(0, 3, 1, 2, 4)
            level[..., OBJECTNESS] = gradient
            rows, places = buffer.view(-1, size), index * size + 5 + labels
            rows[:, :4].index_add_(0, index, torch.where(mask[:, None], boxes, 0.0).to(dtype))
            rows[:, 5:].index_add_(0, index, torch.where(mask[:, None], rest, 0.0).to(dtype))
            buffer.view(-1).index_add_(0, places, torch.where(mask, own, 0.0).to(dtype))
            result.append(level)
        return (*result, *[None] * (2 * count))


class Gathered(NamedTuple):
    """Differentiable logits at candidate cells, in the number format of the levels; for padding those of any cell."""

    boxes: Tensor  # [S, 4]
    rest: Tensor  # [S, X - 5]: classes, then what a task adds
    own_class: Tensor  # [S], of the candidate's label: a copy with its own gradient
    objectness: list[Tensor]  # [B, A, h, w] for each level, of all predictions


def gather_predictions(levels: Sequence[Tensor], indices: Sequence[Tensor], inside: Sequence[Tensor],
                       labels: Tensor) -> Gathered:
    """The logits at candidate cells, and the objectness logits of every level.

    ``levels`` are ``[B, A, h, w, X]``. For each level ``indices`` are the candidates' rows in `flat_rows`, int64
    ``[S]``, and ``inside`` marks the candidates of this level, bool ``[S]``; indices of others may be any.
    """
    boxes, rest, own, *objectness = _Gather.apply(len(levels), labels, *levels, *indices, *inside)
    return Gathered(boxes, rest, own, objectness)
