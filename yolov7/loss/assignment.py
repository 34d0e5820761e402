"""simOTA: positives are the candidates of lowest cost (paper, section 4.2; docs/reference.md, simOTA).

Every object selects its cheapest candidates, as many as the sum of its best IoUs (dynamic k); a candidate that several
objects select goes to the cheapest of them. All images and levels are matched at once, in padded lists of candidates:
no shape and no branch depends on a value, so nothing is read back from the device. The oracle in ``tests/loss`` does
the same object by object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import area
from yolov7.loss.candidates import Assignment, Candidates, flat_rows, places_in_levels, row_index
from yolov7.model.heads.base import CONSTRAINED, decode_boxes
from yolov7.structures import HeadOutput, Targets

IOU_COST = 3.0  # weight of the IoU term in the cost
MAX_PROBABILITY = 1 - 6e-8  # below 1 in float32: keeps log(1 - u) finite
INFINITE_BITS = 0x7FF0000000000000  # of a float64
MIN_AREA = 1e-30  # the IoU of boxes without area is 0
MAX_PAIRS = {"cpu": 1 << 18}  # elements of a matrix of objects and candidates: cache on a CPU, memory elsewhere
MAX_PAIRS_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class Pairs:
    """Some objects and the candidates of their images, for the cost that a task adds to each pair of them."""

    images: slice  # of the batch
    objects: slice  # of the padded targets
    rows: Tensor  # float32 [B, N, X], logits at the candidates
    cells: Tensor  # int64 [B, N, 2], column and row of the candidates
    strides: Tensor  # float32 [B, N]


PairCost = Callable[[Pairs], Tensor]  # -> float32 [B, G, N], finite and at least 0
PAIR_POINTS = 8  # matrices of pairs that a `PairCost` may hold at a time


@dataclass(frozen=True)
class Matching:
    """Parameters of the assignment; tensors are on the device of the predictions."""

    anchors: Tensor  # [L, A, 2] pixels
    strides: Tensor  # [L]
    top_k: int = 10
    scores_end: int | None = None  # end of the channels of objectness and classes; None: the last channel
    reach: float = CONSTRAINED  # of the decoder, in cells (see `decode_boxes`)
    max_pairs: int = 0  # 0: the default of the device
    task_cost: PairCost | None = None  # added to the cost of boxes and classes


@dataclass(frozen=True)
class _Costs:
    """Predictions at the candidates of some images and their costs, in the order of `Assignment.order`."""

    masks: tuple[Tensor | None, ...]  # bool [B, N], candidates of each assignment; None: all of finite `cost`
    boxes: Tensor  # [B, N, 4] xyxy pixels, without area where not valid
    cost: Tensor  # [B, N], of predicting no class at all; infinite where not valid
    gain: Tensor  # [B, C + 1, N], reduction of the cost for each class; the last row, of no object, is -inf
    task_cost: Callable[[slice], Tensor] | None = None  # of some objects: [B, G, N]


@torch.no_grad()
def assign(output: HeadOutput, targets: Targets, candidates: Candidates, matching: Matching,
           passes: Sequence[str] = ("fine",)) -> tuple[Assignment, ...]:
    """Match predictions to objects; all candidates of an image compete for all of its objects.

    Returns an assignment for each of ``passes``, which share predictions, IoUs and costs: ``valid`` considers all
    candidates, ``fine`` those that are fine. Of equal costs the lower candidate, or the lower object, wins.
    """
    groups = []
    budget = matching.max_pairs or _max_pairs(targets.boxes.device)
    if matching.task_cost is not None:
        budget = max(budget // PAIR_POINTS, 1)
    for start, stop, width, count in _groups(targets, candidates, budget):
        own = Targets(targets.boxes[start:stop, :width], targets.labels[start:stop, :width],
                      targets.valid[start:stop, :width])
        part = _cut(candidates, start, stop, count)
        group = HeadOutput(tuple(level[start:stop] for level in output.levels))
        costs = _predict(group, part, matching, passes, slice(start, stop))
        groups.append([_to_assignment(match, part, start) for match in _match(costs, own, matching.top_k, budget)])
    return tuple(_join(parts) for parts in zip(*groups, strict=True))


def _max_pairs(device: torch.device) -> int:
    """The default of the device; a compiled graph does not fit groups to a cache, as they differ between batches."""
    return MAX_PAIRS_ELSEWHERE if torch.compiler.is_compiling() else MAX_PAIRS.get(device.type, MAX_PAIRS_ELSEWHERE)


def _cut(candidates: Candidates, start: int, stop: int, count: int) -> Candidates:
    """The first candidates of some images, without their counts, which would become constants of a compiled graph."""
    parts = (candidates.level, candidates.cell, candidates.gt_index, candidates.valid, candidates.fine)
    level, cell, gt_index, valid, fine = (part[start:stop, :count] for part in parts)
    return Candidates(level, cell, gt_index, valid, fine, ())


def every_candidate(candidates: Candidates) -> Assignment:
    """The assignment of the plain loss: every candidate is a positive of the object that proposes it."""
    batch, count = candidates.cell.shape
    order = torch.arange(count, device=candidates.cell.device).expand(batch, -1)
    image = torch.arange(batch, device=candidates.cell.device)[:, None].expand(-1, count)
    parts = (image, candidates.level, candidates.cell, candidates.gt_index, order, candidates.valid)
    return Assignment(*(part.flatten() for part in parts))


def _groups(targets: Targets, candidates: Candidates, budget: int) -> Iterator[tuple[int, int, int, int]]:
    """Groups of images to match together: (first, last + 1, maximum of objects, maximum of candidates).

    A single group unless its matrices would exceed the budget; then a crowded image does not enlarge those of others.
    """
    batch, width = targets.valid.shape
    count = candidates.cell.shape[1]
    if batch * width * count <= budget:
        yield 0, batch, width, count
        return
    objects = targets.counts or (width,) * batch
    lengths = candidates.counts or (count,) * batch
    start, widest, longest = 0, 0, 0
    for index, (wide, long) in enumerate(zip(objects, lengths, strict=True)):
        if index > start and (index + 1 - start) * max(widest, wide) * max(longest, long) > budget:
            yield start, index, max(widest, 1), max(longest, 1)
            start, widest, longest = index, 0, 0
        widest, longest = max(widest, wide), max(longest, long)
    yield start, batch, max(widest, 1), max(longest, 1)


def _predict(output: HeadOutput, candidates: Candidates, matching: Matching, passes: Sequence[str],
             images: slice) -> _Costs:
    """Gather and decode the predictions, and compute the part of the cost that does not depend on the object."""
    batch, count = candidates.cell.shape
    image = torch.arange(batch, device=candidates.cell.device)[:, None].expand(-1, count)
    inside = [candidates.level == index for index in range(len(output.levels))]
    places = places_in_levels(image, candidates.cell, inside, output.levels)
    rows = flat_rows(output.levels[0]).index_select(0, row_index(output.levels[0], *places[0]).flatten())
    for level, place, mask in zip(output.levels[1:], places[1:], inside[1:], strict=True):
        found = flat_rows(level).index_select(0, row_index(level, *place).flatten())
        rows = torch.where(mask.flatten()[:, None], found, rows)
    rows = rows.view(batch, count, -1).float()  # half precision would move near-ties
    anchor, row, column = torch.stack(places).sum(dim=0)[1:]  # 0 in all levels but a candidate's own
    cells, strides = torch.stack((column, row), dim=-1), matching.strides[candidates.level]
    boxes = decode_boxes(rows[..., :4], cells, matching.anchors[candidates.level, anchor], strides[..., None],
                         matching.reach)
    cost, gain = _class_costs(rows[..., 4 : matching.scores_end])
    valid = candidates.valid | candidates.fine
    masks = tuple(getattr(candidates, name) for name in passes) if len(passes) > 1 else (None,)
    costs = _Costs(masks, torch.where(valid[..., None], boxes, 0.0), torch.where(valid, cost, torch.inf), gain)
    task_cost = matching.task_cost
    if task_cost is None:
        return costs
    return replace(costs, task_cost=lambda objects: task_cost(Pairs(images, objects, rows, cells, strides)))


def sum_of_costs(costs: Sequence[PairCost], weight: float) -> PairCost:
    """The costs of several terms together, times a weight."""
    return lambda pairs: torch.stack([cost(pairs) for cost in costs]).sum(dim=0) * weight


def _class_costs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The BCE of ``u = sqrt(class * objectness)`` summed over classes, without an axis of objects.

    The BCE against one class is that against no class, minus the gain ``ln u - ln(1 - u)`` of the class:
    ``[B, N, 1 + C]`` -> cost ``[B, N]`` and gain ``[B, C + 1, N]``.
    """
    log_score = (F.logsigmoid(scores[..., 1:]) + F.logsigmoid(scores[..., :1])) / 2  # ln u
    log_rest = torch.log1p(-log_score.exp().clamp(max=MAX_PROBABILITY))  # ln(1 - u), finite for saturated logits
    gain = F.pad(log_score - log_rest, (0, 1), value=-torch.inf)
    return -log_rest.sum(dim=-1), gain.transpose(1, 2).contiguous()


class _Matched(NamedTuple):
    """The selection of one pass: q candidates for every object."""

    candidate: Tensor  # int64 [B, G * q]
    gt_index: Tensor  # int64 [B, G * q]
    positive: Tensor  # bool [B, G * q]


def _match(costs: _Costs, targets: Targets, top_k: int, budget: int) -> list[_Matched]:
    """Select the cheapest candidates of every object and resolve conflicts, in chunks of objects."""
    batch, count = costs.cost.shape
    width = targets.valid.shape[1]
    whole = batch * width * count <= budget
    chunk = width if whole else max(budget // (batch * count), 1)
    selected: list[list[tuple[Tensor, Tensor]]] = [[] for _ in costs.masks]
    lowest, cheapest = [], []
    for start in (0,) if whole else range(0, width, chunk):  # the plain tuple keeps compiled shapes dynamic
        part = slice(start, min(start + chunk, width))
        cost, iou = _costs(costs, targets.boxes[:, part], targets.labels[:, part], targets.valid[:, part])
        if costs.task_cost is not None:
            cost += costs.task_cost(part)
        low = cost.min(dim=1)
        lowest.append(low.values)
        cheapest.append(low.indices + start)
        for mask, found in zip(costs.masks, selected, strict=True):
            own_iou, own_cost = (iou, cost) if mask is None else (
                iou * mask[:, None], torch.where(mask[:, None], cost, torch.inf))
            found.append(_select_dynamic_k(own_cost, own_iou, top_k))
    best = torch.stack(cheapest).gather(0, torch.stack(lowest).argmin(dim=0, keepdim=True))[0]  # [B, N]
    matched = []
    for found in selected:
        candidates, kept = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        matched.append(_resolve_conflicts(candidates, kept, best))
    return matched


def _costs(costs: _Costs, boxes: Tensor, labels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Cost and IoU of objects ``[B, G]`` and candidates: ``[B, G, N]``, infinite and 0 where either is padding."""
    iou = _pairwise_iou(boxes, costs.boxes)
    classes = torch.where(present, labels, costs.gain.shape[1] - 1)
    gain = costs.gain.gather(1, classes[..., None].expand(-1, -1, costs.cost.shape[1]))
    cost = costs.cost[:, None] - gain
    cost.sub_((iou + 1e-8).log_(), alpha=IOU_COST)
    return cost.clamp_(min=0), iou  # rounding below 0 would break the order of bits in `_select_dynamic_k`


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """`boxes.pairwise_iou` with in-place operations on the matrix ``[B, G, N]``."""
    left, top, right, bottom = first[..., None].unbind(-2)
    x1, y1, x2, y2 = second.transpose(1, 2)[:, :, None].unbind(1)
    width = torch.minimum(right, x2).sub_(torch.maximum(left, x1)).clamp_(min=0)
    height = torch.minimum(bottom, y2).sub_(torch.maximum(top, y1)).clamp_(min=0)
    shared = width.mul_(height)
    union = (area(first)[..., None] + (area(second) + MIN_AREA)[:, None]).sub_(shared)
    return shared.div_(union)


def _select_dynamic_k(cost: Tensor, iou: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Every object's cheapest candidates, and which of them it keeps (its dynamic k): int64 and bool ``[B, G, q]``.

    Ties are broken by the index of the candidate, in bits that are free in the float64 of a float32, so that every
    device selects the same.
    """
    count = min(top_k, cost.shape[2])
    dynamic_k = iou.topk(count, dim=2).values.sum(dim=2).long().clamp(min=1)  # [B, G]
    keys = cost.double().view(torch.int64).add_(torch.arange(cost.shape[2], device=cost.device))
    values, candidates = keys.topk(count, dim=2, largest=False)
    kept = torch.arange(count, device=cost.device) < dynamic_k[..., None]
    return candidates, kept & (values < INFINITE_BITS)


def _resolve_conflicts(candidates: Tensor, kept: Tensor, cheapest: Tensor) -> _Matched:
    """A candidate that several objects selected goes to its cheapest object ``[B, N]``, once."""
    batch, width, count = candidates.shape
    candidate, kept = candidates.flatten(1), kept.flatten(1)
    gt_index = torch.arange(width, device=candidate.device)[:, None].expand(-1, count).reshape(1, -1).expand(batch, -1)
    times = torch.zeros_like(cheapest).scatter_add(1, candidate, kept.long())
    first = torch.full_like(cheapest, width).scatter_reduce(1, candidate, torch.where(kept, gt_index, width), "amin")
    positive = kept & (first.gather(1, candidate) == gt_index)
    gt_index = torch.where(times.gather(1, candidate) > 1, cheapest.gather(1, candidate), gt_index)
    return _Matched(candidate, gt_index, positive)


def _to_assignment(matched: _Matched, candidates: Candidates, first_image: int) -> Assignment:
    batch, count = matched.candidate.shape
    image = first_image + torch.arange(batch, device=matched.candidate.device)[:, None].expand(-1, count)
    level, cell = (part.gather(1, matched.candidate) for part in (candidates.level, candidates.cell))
    return Assignment(*(value.flatten() for value in
                        (image, level, cell, matched.gt_index, matched.candidate, matched.positive)))


def _join(parts: Sequence[Assignment]) -> Assignment:
    return parts[0] if len(parts) == 1 else Assignment(*map(torch.cat, zip(*parts, strict=True)))
