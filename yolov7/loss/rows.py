"""Rows of predictions out of the levels of a head, with their gradient written into one buffer a level.

Autograd by itself would make one dense zero tensor a level for the gathered rows, another for the objectness, and
add them: at 640 px that traffic costs more than the rest of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

OBJECTNESS = 4  # place in the last axis


def flat_rows(level: Tensor) -> Tensor:
    """A level ``[B, A, h, w, X]`` as rows ``[B * h * w * A, X]``: a view where the network ran in channels_last."""
    return level.permute(0, 2, 3, 1, 4).flatten(0, 3)


def row_index(level: Tensor, image: Tensor, anchor: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Indices into `flat_rows`: int64, of the broadcast shape."""
    _, anchors, height, width, _ = level.shape
    return ((image * height + row) * width + column) * anchors + anchor


def places_in_levels(image: Tensor, cell: Tensor, inside: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
    """Image, anchor, row and column of slots in each level, the first cell where a slot is not ``inside`` it.

    ``cell`` is ``(anchor * h + row) * w + column`` in a slot's own level. Returns int64 ``[4, ...]`` for each level.
    """
    places = []
    for mask, level in zip(inside, levels, strict=True):
        height, width = level.shape[2:4]
        own = torch.where(mask, cell, 0)
        places.append(torch.stack((image, own // (height * width), own // width % height, own % width)))
    return places


class _Rows(torch.autograd.Function):
    """(count, labels, levels, indices and masks of the slots in each) -> boxes, classes, own class, objectness."""

    @staticmethod
    def forward(ctx: Any, count: int, labels: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        levels, indices, inside = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        ctx.save_for_backward(labels, *indices, *inside)
        ctx.levels = [(level.shape, level.dtype, level.device) for level in levels]
        first = flat_rows(levels[0])
        boxes, classes = first[:, :4].index_select(0, indices[0]), first[:, 5:].index_select(0, indices[0])
        for level, index, mask in zip(levels[1:], indices[1:], inside[1:], strict=True):
            rows = flat_rows(level)
            boxes = torch.where(mask[:, None], rows[:, :4].index_select(0, index), boxes)
            classes = torch.where(mask[:, None], rows[:, 5:].index_select(0, index), classes)
        own = classes.gather(1, labels[:, None])[:, 0]
        return boxes, classes, own, *(level[..., OBJECTNESS].clone() for level in levels)

    @staticmethod
    def backward(ctx: Any, boxes: Tensor, classes: Tensor, own: Tensor,
                 *objectness: Tensor) -> tuple[Tensor | None, ...]:
        """Add the gradients of slots and objectness into one buffer a level."""
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
            rows[:, 5:].index_add_(0, index, torch.where(mask[:, None], classes, 0.0).to(dtype))
            buffer.view(-1).index_add_(0, places, torch.where(mask, own, 0.0).to(dtype))
            result.append(level)
        return (*result, *[None] * (2 * count))


class SlotRows(NamedTuple):
    """Predictions of slots, differentiable, in the levels' type; of a slot in no level those of any row."""

    boxes: Tensor  # [S, 4]
    classes: Tensor  # [S, C]
    own_class: Tensor  # [S], of the slot's label: a copy with a gradient of its own
    objectness: list[Tensor]  # [B, A, h, w] for each level, of all predictions


def gather_rows(levels: Sequence[Tensor], indices: Sequence[Tensor], inside: Sequence[Tensor],
                labels: Tensor) -> SlotRows:
    """The logits of slots, and the objectness logits of every level.

    ``levels`` are ``[B, A, h, w, 5 + C]``. Of each level ``indices`` are the slots' places in `flat_rows`, int64
    ``[S]``, and ``inside`` says which slots are there, bool ``[S]``; the others may point anywhere.
    """
    boxes, classes, own, *objectness = _Rows.apply(len(levels), labels, *levels, *indices, *inside)
    return SlotRows(boxes, classes, own, objectness)
