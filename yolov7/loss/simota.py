"""simOTA: the candidates that learn, chosen by cost (paper, section 4.2; spec of assignment and loss, sections 4, 9).

Every object takes as many of its cheapest candidates as its best IoUs add up to; a candidate wanted by several goes
to the cheapest of them. All images and levels at once, in padded lists of candidates: no shape and no branch depends
on a value, so nothing is read back from the device. Its oracle, object by object, is in ``tests/loss``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import area
from yolov7.loss.candidates import Candidates
from yolov7.loss.rows import flat_rows, places_in_levels, row_index
from yolov7.model.anchors import CONSTRAINED, decode_boxes
from yolov7.structures import Assignment, HeadOutput, Targets

IOU_COST = 3.0  # weight of the IoU term in the cost
LARGEST = 1 - 6e-8  # largest probability below 1 in float32: keeps log(1 - u) finite
INFINITE_BITS = 0x7FF0000000000000  # of a float64
TINY = 1e-30  # of areas: boxes without area share nothing
PAIRS = {"cpu": 1 << 18}  # largest matrix of objects and candidates, in elements: cache on a CPU, memory elsewhere
PAIRS_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class Matching:
    """Parameters of the assignment; tensors are on the device of the predictions."""

    anchors: Tensor  # [L, A, 2] pixels
    strides: Tensor  # [L]
    top_k: int = 10
    reach: float = CONSTRAINED  # of the decoder, in cells (see `decode_boxes`)
    max_pairs: int = 0  # 0: the default of the device


@dataclass(frozen=True)
class _Slots:
    """Candidates of some images with what their predictions cost, in the order of `Assignment.order`."""

    masks: tuple[Tensor | None, ...]  # bool [B, N], the slots of each assignment; None: all that are finite in `cost`
    boxes: Tensor  # [B, N, 4] xyxy pixels, without area where not valid
    cost: Tensor  # [B, N], of predicting no class at all; infinite where not valid
    gain: Tensor  # [B, C + 1, N], what predicting the class takes off; the last row, of no object, is -inf


@torch.no_grad()
def assign(output: HeadOutput, targets: Targets, candidates: Candidates, matching: Matching,
           passes: Sequence[str] = ("fine",)) -> tuple[Assignment, ...]:
    """Match predictions to objects; all candidates of an image compete for all of its objects.

    Returns an assignment for each of ``passes``: ``valid`` takes all candidates, ``fine`` those that are fine; passes
    share predictions, IoUs and costs. Equal costs: the lower slot is taken first; between objects, the first one wins.
    """
    groups = []
    budget = matching.max_pairs or _pairs(targets.boxes.device)
    for start, stop, width, count in _groups(targets, candidates, budget):
        own = Targets(targets.boxes[start:stop, :width], targets.labels[start:stop, :width],
                      targets.valid[start:stop, :width])
        part = _cut(candidates, start, stop, count)
        group = HeadOutput(tuple(level[start:stop] for level in output.levels))
        slots = _predict(group, part, matching, passes)
        groups.append([_place(match, part, start) for match in _match(slots, own, matching.top_k, budget)])
    return tuple(_join(parts) for parts in zip(*groups, strict=True))


def _pairs(device: torch.device) -> int:
    """Groups that fit into a CPU's cache follow from the counts of objects: compiled, each batch would be another."""
    return PAIRS_ELSEWHERE if torch.compiler.is_compiling() else PAIRS.get(device.type, PAIRS_ELSEWHERE)


def _cut(candidates: Candidates, start: int, stop: int, count: int) -> Candidates:
    """The first slots of some images; their counts are not needed any more (and would be compiled in)."""
    parts = (candidates.level, candidates.cell, candidates.owner, candidates.valid, candidates.fine)
    level, cell, owner, valid, fine = (part[start:stop, :count] for part in parts)
    return Candidates(level, cell, owner, valid, fine, ())


def every_candidate(candidates: Candidates) -> Assignment:
    """The assignment of the plain loss: each candidate learns the object that proposes it."""
    batch, count = candidates.cell.shape
    order = torch.arange(count, device=candidates.cell.device).expand(batch, -1)
    image = torch.arange(batch, device=candidates.cell.device)[:, None].expand(-1, count)
    parts = (image, candidates.level, candidates.cell, candidates.owner, order, candidates.valid)
    return Assignment(*(part.flatten() for part in parts))


def _groups(targets: Targets, candidates: Candidates, budget: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of images (first, behind the last) that are matched together, and their most objects and candidates.

    One group, whatever the counts, unless its matrices would be too large: then a crowded image does not blow up
    those of its neighbours.
    """
    batch, width = targets.valid.shape
    count = candidates.cell.shape[1]
    if batch * width * count <= budget:
        yield 0, batch, width, count
        return
    objects = targets.counts or (width,) * batch
    start, widest, longest = 0, 0, 0
    for index, (wide, long) in enumerate(zip(objects, candidates.counts, strict=True)):
        if index > start and (index + 1 - start) * max(widest, wide) * max(longest, long) > budget:
            yield start, index, max(widest, 1), max(longest, 1)
            start, widest, longest = index, 0, 0
        widest, longest = max(widest, wide), max(longest, long)
    yield start, batch, max(widest, 1), max(longest, 1)


def _predict(output: HeadOutput, candidates: Candidates, matching: Matching, passes: Sequence[str]) -> _Slots:
    """Gather and decode the candidates, and the part of the cost that does not depend on the object."""
    batch, count = candidates.cell.shape
    image = torch.arange(batch, device=candidates.cell.device)[:, None].expand(-1, count)
    inside = [candidates.level == index for index in range(len(output.levels))]
    places = places_in_levels(image, candidates.cell, inside, output.levels)
    rows = flat_rows(output.levels[0]).index_select(0, row_index(output.levels[0], *places[0]).flatten())
    for level, place, mask in zip(output.levels[1:], places[1:], inside[1:], strict=True):
        found = flat_rows(level).index_select(0, row_index(level, *place).flatten())
        rows = torch.where(mask.flatten()[:, None], found, rows)
    rows = rows.view(batch, count, -1).float()  # half precision would move near-ties
    anchor, row, column = torch.stack(places).sum(dim=0)[1:]  # 0 in all levels but a slot's own
    boxes = decode_boxes(rows[..., :4], torch.stack((column, row), dim=-1), matching.anchors[candidates.level, anchor],
                         matching.strides[candidates.level][..., None], matching.reach)
    cost, gain = _class_costs(rows)
    valid = candidates.valid | candidates.fine
    masks = tuple(getattr(candidates, name) for name in passes) if len(passes) > 1 else (None,)
    return _Slots(masks, torch.where(valid[..., None], boxes, 0.0), torch.where(valid, cost, torch.inf), gain)


def _class_costs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """BCE of ``u = sqrt(class * objectness)``, summed over classes, without an axis of objects.

    BCE against one class is that against none, minus ``ln u - ln(1 - u)`` of the class: ``[B, N, 5 + C]`` ->
    ``[B, N]`` and ``[B, C + 1, N]``.
    """
    log_score = (F.logsigmoid(rows[..., 5:]) + F.logsigmoid(rows[..., 4:5])) / 2  # ln u
    log_rest = torch.log1p(-log_score.exp().clamp(max=LARGEST))  # ln(1 - u), finite for saturated logits
    gain = F.pad(log_score - log_rest, (0, 1), value=-torch.inf)
    return -log_rest.sum(dim=-1), gain.transpose(1, 2).contiguous()


@dataclass(frozen=True)
class _Matched:
    """What one pass of the matching took: q slots for every object."""

    slot: Tensor  # int64 [B, G * q]
    owner: Tensor  # int64 [B, G * q]
    positive: Tensor  # bool [B, G * q]


def _match(slots: _Slots, targets: Targets, top_k: int, budget: int) -> list[_Matched]:
    """Cheapest candidates of every object, and their conflicts resolved; object by chunk of objects."""
    batch, count = slots.cost.shape
    width = targets.valid.shape[1]
    whole = batch * width * count <= budget
    chunk = width if whole else max(budget // (batch * count), 1)
    taken: list[list[tuple[Tensor, Tensor]]] = [[] for _ in slots.masks]
    lowest, cheapest = [], []
    for start in (0,) if whole else range(0, width, chunk):  # the plain tuple keeps compiled shapes dynamic
        part = slice(start, min(start + chunk, width))
        cost, iou = _costs(slots, targets.boxes[:, part], targets.labels[:, part], targets.valid[:, part])
        low = cost.min(dim=1)
        lowest.append(low.values)
        cheapest.append(low.indices + start)
        for mask, found in zip(slots.masks, taken, strict=True):
            own_iou, own_cost = (iou, cost) if mask is None else (
                iou * mask[:, None], torch.where(mask[:, None], cost, torch.inf))
            found.append(_take(own_cost, own_iou, top_k))
    best = torch.stack(cheapest).gather(0, torch.stack(lowest).argmin(dim=0, keepdim=True))[0]  # [B, N]
    return [_resolve(torch.cat([slot for slot, _ in found], dim=1), torch.cat([kept for _, kept in found], dim=1), best)
            for found in taken]


def _costs(slots: _Slots, boxes: Tensor, labels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Cost and IoU of objects ``[B, G]`` and slots: ``[B, G, N]``, infinite and 0 where either is not there."""
    iou = _pairwise_iou(boxes, slots.boxes)
    classes = torch.where(present, labels, slots.gain.shape[1] - 1)
    gain = slots.gain.gather(1, classes[..., None].expand(-1, -1, slots.cost.shape[1]))
    cost = slots.cost[:, None] - gain
    cost.sub_((iou + 1e-8).log_(), alpha=IOU_COST)
    return cost.clamp_(min=0), iou  # rounding below 0 would break the order of bits in `_take`


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """`boxes.pairwise_iou` with few passes over the matrix ``[B, G, N]``."""
    left, top, right, bottom = first[..., None].unbind(-2)
    x1, y1, x2, y2 = second.transpose(1, 2)[:, :, None].unbind(1)
    width = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    height = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    shared = width.mul_(height)
    union = (area(first)[..., None] + (area(second) + TINY)[:, None]).sub_(shared)
    return shared.div_(union)


def _take(cost: Tensor, iou: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The cheapest slots of every object, as many as its best IoUs add up to: int64 and bool ``[B, G, q]``.

    Costs are made unique by their slot, in bits that a float64 of a float32 leaves free, so that every device takes
    the same ones.
    """
    count = min(top_k, cost.shape[2])
    wanted = iou.topk(count, dim=2).values.sum(dim=2).long().clamp(min=1)  # [B, G]
    keys = cost.double().view(torch.int64).add_(torch.arange(cost.shape[2], device=cost.device))
    values, slots = keys.topk(count, dim=2, largest=False)
    kept = torch.arange(count, device=cost.device) < wanted[..., None]
    return slots, kept & (values < INFINITE_BITS)


def _resolve(slots: Tensor, kept: Tensor, cheapest: Tensor) -> _Matched:
    """A slot that several objects took goes to the cheapest of all objects ``[B, N]``, once."""
    batch, width, count = slots.shape
    slot, kept = slots.flatten(1), kept.flatten(1)
    owner = torch.arange(width, device=slot.device)[:, None].expand(-1, count).reshape(1, -1).expand(batch, -1)
    takers = torch.zeros_like(cheapest).scatter_add(1, slot, kept.long())
    first = torch.full_like(cheapest, width).scatter_reduce(1, slot, torch.where(kept, owner, width), "amin")
    positive = kept & (first.gather(1, slot) == owner)
    owner = torch.where(takers.gather(1, slot) > 1, cheapest.gather(1, slot), owner)
    return _Matched(slot, owner, positive)


def _place(matched: _Matched, candidates: Candidates, first_image: int) -> Assignment:
    batch, count = matched.slot.shape
    image = first_image + torch.arange(batch, device=matched.slot.device)[:, None].expand(-1, count)
    level, cell = (part.gather(1, matched.slot) for part in (candidates.level, candidates.cell))
    return Assignment(*(value.flatten() for value in
                        (image, level, cell, matched.owner, matched.slot, matched.positive)))


def _join(parts: Sequence[Assignment]) -> Assignment:
    if len(parts) == 1:
        return parts[0]
    names = ("image", "level", "cell", "owner", "order", "positive")
    return Assignment(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
