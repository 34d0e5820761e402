"""The loss: named terms over the assigned predictions (docs/reference.md, Loss terms).

A task names its terms (see `terms`); those of a detector are here: box, objectness and classification.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import paired_iou
from yolov7.config import InputError
from yolov7.config.recipe import LossConfig
from yolov7.loss.assignment import Matching, assign, every_candidate, sum_of_costs
from yolov7.loss.candidates import (
    COARSE,
    FINE,
    Assignment,
    find_candidates,
    gather_predictions,
    places_in_levels,
    power_of_two,
    row_index,
)
from yolov7.loss.terms import Matched, Means, Prepared, Term, of_own_level
from yolov7.model.heads.base import CONSTRAINED, FREE, Channels, decode_boxes
from yolov7.structures import HeadOutput, Targets

LEVEL_BALANCE = {3: (4.0, 1.0, 0.4)}  # weights of the objectness of each level, by the number of levels
DEEP_LEVEL_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25
TOP_K, AUXILIARY_TOP_K = 10, 20
AUXILIARY_WEIGHT = 0.25
REACH = {"constrained": CONSTRAINED, "free": FREE}

Losses = dict[str, Tensor]  # named terms, weighted by their gains: means, not yet times the batch size


def total_loss(losses: Losses) -> Tensor:
    """Sum of the terms: ``[]``."""
    return reduce(add, losses.values())


def scale_gains(config: LossConfig, levels: int, num_classes: int, image_size: int) -> LossConfig:
    """Gains of the recipe (3 levels, 80 classes, 640 px) for another network; a new object."""
    per_level = 3 / levels
    return dataclasses.replace(
        config, box=config.box * per_level, cls=config.cls * per_level * num_classes / 80,
        obj=config.obj * per_level * (image_size / 640) ** 2)


Assigner = Callable[["Criterion", HeadOutput, Prepared], tuple[Assignment, ...]]  # for the lead, then auxiliary head


class Criterion:
    """``criterion(output, targets) -> Losses``: assignment, then the terms of the lead and auxiliary heads.

    It is ``criterion.loss(output, criterion.prepare(output, targets))``: the first step runs on the host, where the
    targets are, the second never waits for the device. ``anchors`` is ``[L, A, 2]`` in pixels, on the device of the
    predictions; the gains of ``config`` are used unchanged (see `scale_gains`). Without ``loss_ota`` every candidate is
    a positive. Raises `InputError` unless there is one class weight for each of ``num_classes``, or none.

    ``across`` sums a tensor over all processes of a distributed training. The means are then those of the whole batch,
    and the terms are this process's share of them: their sum over the processes equals the terms of a single process.
    """

    def __init__(self, config: LossConfig, anchors: Tensor, strides: Sequence[int], num_classes: int,
                 across: Callable[[Tensor], Tensor] | None = None, *, terms: Sequence[Term] = (),
                 channels: Channels | None = None, assigner: Assigner | None = None) -> None:
        self.config, self.across = config, across
        self.anchors, self.host_anchors = anchors, anchors.cpu()
        self.strides = tuple(strides)
        self.stride_values = anchors.new_tensor(self.strides)
        self.terms = tuple(terms) or DETECTION_TERMS
        self.channels = channels or Channels.of(num_classes, {})
        self.assigner = assigner or assign_positives
        if config.class_weights and len(config.class_weights) != num_classes:
            raise InputError(f"loss.class_weights: found {len(config.class_weights)} weights; accepted: one for each "
                             f"of the {num_classes} classes, or none")
        self.class_weights = anchors.new_tensor(config.class_weights or (1.0,))
        if config.task_cost and not (config.loss_ota and any(term.cost for term in self.terms)):
            raise InputError(f"loss.task_cost: found {config.task_cost}; accepted: 0 for a model without masks and key "
                             "points, and for loss.loss_ota=false")
        used = {key for term in self.terms for key in term.keys}
        for entry in (entry for entry in dataclasses.fields(config) if entry.name not in used):
            if "model" in entry.metadata and (found := getattr(config, entry.name)) != entry.default:
                raise InputError(f"loss.{entry.name}: found {found}; no term of this model's loss reads it; accepted: "
                                 f"{entry.default}, or a model like {entry.metadata['model']}")

    def __call__(self, output: HeadOutput, targets: Targets) -> Losses:
        """Assign, then compute the terms: means over the positives of each level, not yet times the batch size."""
        return self.loss(output, self.prepare(output, targets))

    def prepare(self, output: HeadOutput, targets: Targets, key: Sequence[int] = ()) -> Prepared:
        """`find`, then all of it moved to the device of the predictions."""
        device = output.levels[0].device

        def move(tensor: Tensor) -> Tensor:
            if device.type == "cuda":  # a copy from pinned memory needs no waiting
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        return self.find(output, targets, key).map(move)

    def find(self, output: HeadOutput, targets: Targets, key: Sequence[int] = (), few_shapes: bool = False) -> Prepared:
        """Targets on the host -> targets and candidates there; of the predictions only shapes are read.

        What a term draws at random follows from the ``key``: of training (seed, epoch, batch, rank). With
        ``few_shapes`` all lists are padded to powers of two, and nothing of what is left depends on their lengths.
        """
        coarse = bool(output.auxiliary) and self.config.loss_ota and self.config.assignment == "coarse_to_fine"
        sizes = [(level.shape[1], level.shape[2], level.shape[3]) for level in output.levels]
        if few_shapes:
            targets = targets.map_objects(power_of_two)
        candidates = find_candidates(targets, sizes, self.host_anchors, self.strides, self.config.anchor_t,
                                     COARSE if coarse else FINE, self.config.deduplicate_candidates)
        if few_shapes:
            candidates = candidates.map(power_of_two)
        tables: dict[str, Tensor] = {}
        for term in self.terms:
            if term.prepare is not None:
                tables |= term.prepare(self, output, Prepared(targets, candidates, key=tuple(key)))
        if few_shapes:
            targets = dataclasses.replace(targets, counts=())
            candidates = dataclasses.replace(candidates, counts=())
        return Prepared(targets, candidates, tables)

    def loss(self, output: HeadOutput, prepared: Prepared) -> Losses:
        """The terms of the lead head, plus those of the auxiliary head times `AUXILIARY_WEIGHT`."""
        assignments, counts = self.match(output, prepared)
        return self.weigh(output, prepared, assignments, counts if self.across is None else self.across(counts))

    def match(self, output: HeadOutput, prepared: Prepared) -> tuple[tuple[Assignment, ...], Tensor]:
        """The assignments, and all counts that processes add up: int64 ``[K]``, the images last."""
        with torch.autocast(output.levels[0].device.type, enabled=False):  # costs in float32
            assignments = self.assign(output, prepared)
            inside = [(a, a.positive & (a.level == index)) for a in assignments for index in range(len(self.strides))]
            found = [mask.sum() for _, mask in inside]
            found += [torch.where(mask, count(prepared, a), 0).sum() for count in self._counting().values()
                      for a, mask in inside]
            counts = torch.stack(found)
            return assignments, torch.cat((counts, counts.new_full((1,), len(prepared.targets.labels))))

    def number_of_counts(self, output: HeadOutput) -> int:
        """How many `match` gives."""
        return (1 + len(self._counting())) * (1 + len(output.auxiliary)) * len(self.strides) + 1

    def weigh(self, output: HeadOutput, prepared: Prepared, assignments: Sequence[Assignment],
              counts: Tensor) -> Losses:
        """The terms for given assignments and counts over all processes, see `loss`."""
        with torch.autocast(output.levels[0].device.type, enabled=False):  # terms in float32
            lead, *auxiliary = assignments
            means, *further = self._means(len(assignments), counts, len(prepared.targets.labels))
            losses = self.head_losses(output, prepared, lead, means)
            for head, assignment, own in zip(output.auxiliary, auxiliary, further, strict=True):
                of_head = HeadOutput(head.levels, maps=output.maps)
                extra = self.head_losses(of_head, prepared, assignment, own, self.reach_of_auxiliary())
                losses = {name: value + AUXILIARY_WEIGHT * extra[name] for name, value in losses.items()}
        return losses

    def assign(self, output: HeadOutput, prepared: Prepared) -> tuple[Assignment, ...]:
        """Which prediction learns which object: for the lead head, then for the auxiliary head."""
        return self.assigner(self, output, prepared)

    def _counting(self) -> dict[str, Callable[[Prepared, Assignment], Tensor]]:
        return {term.name: term.count for term in self.terms if term.count is not None}

    def _means(self, heads: int, counts: Tensor, images: int) -> list[Means]:
        """The divisors of each head; this process has so many of all ``images``."""
        counting, share = self._counting(), torch.full_like(counts[-1], images) / counts[-1]
        counts = counts[:-1].clamp(min=1).view(1 + len(counting), heads, -1)
        return [Means(tuple(own[0].unbind()), share, dict(zip(counting, own[1:].unbind(), strict=True)))
                for own in counts.unbind(1)]

    def head_losses(self, output: HeadOutput, prepared: Prepared, assignment: Assignment, means: Means,
                    reach: float | None = None) -> Losses:
        """The terms of one head for a given assignment; centres of the lead head reach as far as its channels say."""
        matched = self._match(output, prepared, assignment, means, self.channels.reach if reach is None else reach)
        return {term.name: term.weight(self.config) * term.value(matched) for term in self.terms}

    def _match(self, output: HeadOutput, prepared: Prepared, assignment: Assignment, means: Means,
               reach: float) -> Matched:
        targets = prepared.targets
        inside = [assignment.positive & (assignment.level == index) for index in range(len(self.strides))]
        positives = zip(inside, means.positives, strict=True)
        weight = torch.stack([mask / count for mask, count in positives]).sum(dim=0)  # [S]
        places = places_in_levels(assignment.image, assignment.cell, inside, output.levels)
        indices = [_scatter_others(row_index(level, *place), mask, level) for level, place, mask in
                   zip(output.levels, places, inside, strict=True)]
        labels = targets.labels[assignment.image, assignment.gt_index]
        gathered = gather_predictions(output.levels, indices, inside, labels)
        boxes = targets.boxes[assignment.image, assignment.gt_index]  # [S, 4]
        ciou = self._ciou(gathered.boxes.float(), boxes, assignment, inside, places, reach)
        quality = 1 - self.config.gr + self.config.gr * ciou.detach().clamp(min=0)
        objectness = _target_maps(quality, assignment, inside, gathered.objectness)
        return Matched(self.config, self.channels, gathered, targets, assignment, labels, inside, places, self.strides,
                       weight, ciou, objectness, means.share, self.class_weights, output.maps, self.input_size(output),
                       prepared.tables, means.counts)

    def input_size(self, output: HeadOutput) -> tuple[int, int]:
        """Height and width of the network input."""
        height, width = output.levels[0].shape[2:4]
        return height * self.strides[0], width * self.strides[0]

    def reach_of_auxiliary(self) -> float:
        """At least that of the lead head."""
        return max(REACH[self.config.aux_decode], self.channels.reach)

    def top_k(self, output: HeadOutput) -> int:
        """How many candidates an object selects at most."""
        return self.config.top_k or (AUXILIARY_TOP_K if output.auxiliary else TOP_K)

    def _ciou(self, logits: Tensor, boxes: Tensor, assignment: Assignment, inside: Sequence[Tensor],
              places: Sequence[Tensor], reach: float) -> Tensor:
        """CIoU of predicted and target boxes in cells, relative to the cell: ``[S]``."""
        anchors = of_own_level(inside, [level[place[1]] / stride for level, place, stride in
                                        zip(self.anchors, places, self.strides, strict=True)])
        truth = of_own_level(inside, [boxes / stride - place[2:].flip(0).T.repeat(1, 2) for place, stride in
                                      zip(places, self.strides, strict=True)])
        predicted = decode_boxes(logits, torch.zeros_like(logits[:, :2]), anchors, 1.0, reach)
        positive = assignment.positive[:, None]
        # others compare a box with itself, so that their gradient is finite
        neutral = F.pad(torch.ones_like(logits[:, :2]), (2, 0))
        return paired_iou(torch.where(positive, predicted, neutral), torch.where(positive, truth, neutral), "ciou")


def assign_positives(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> tuple[Assignment, ...]:
    """The assignment of the recipe (simOTA, or every candidate): for the lead head, then for the auxiliary head."""
    config, targets, candidates = criterion.config, prepared.targets, prepared.candidates
    if not config.loss_ota:
        return (every_candidate(candidates),) * (1 + len(output.auxiliary))
    task_cost = None
    if config.task_cost:
        costs = [term.cost(criterion, output, prepared) for term in criterion.terms if term.cost is not None]
        task_cost = sum_of_costs(costs, config.task_cost)
    matching = Matching(criterion.anchors, criterion.stride_values, criterion.top_k(output),
                        scores_end=criterion.channels.scores.stop, reach=criterion.channels.reach,
                        task_cost=task_cost)
    if output.auxiliary and config.assignment == "coarse_to_fine":
        return assign(output, targets, candidates, matching, ("fine", "valid"))
    lead, = assign(output, targets, candidates, matching)
    if not output.auxiliary:
        return (lead,)
    if config.assignment == "lead_guided":
        return lead, lead
    free = dataclasses.replace(matching, reach=criterion.reach_of_auxiliary())
    return lead, *assign(output.auxiliary[0], targets, candidates, free)


# --- the terms of a detector -------------------------------------------------------------------------------------


def box_term(matched: Matched) -> Tensor:
    """1 - CIoU of predicted and target boxes."""
    return matched.mean(1 - matched.ciou)


def objectness_term(matched: Matched) -> Tensor:
    """BCE of every cell against the CIoU of its positive, weighted by level."""
    config = matched.config
    balance = LEVEL_BALANCE.get(len(matched.strides), DEEP_LEVEL_BALANCE)
    levels = zip(matched.gathered.objectness, matched.objectness, balance, strict=False)
    balanced = [bce(logits.float(), truth, config, config.obj_pw).mean() * weight for logits, truth, weight in levels]
    return torch.stack(balanced).sum() * matched.share


def classification_term(matched: Matched) -> Tensor:
    """BCE averaged over classes; zero for one class (its score is the objectness)."""
    config, gathered = matched.config, matched.gathered
    num_classes = matched.channels.widths["classes"]
    if num_classes == 1:
        return matched.mean(torch.zeros_like(gathered.own_class))
    on, off = 1 - 0.5 * config.label_smoothing, 0.5 * config.label_smoothing
    weights = matched.class_weights.expand(num_classes)
    logits = gathered.rest[:, :num_classes] if matched.channels.extra else gathered.rest
    logits, own = logits.float(), gathered.own_class.float()
    others = bce(logits, _constant(off, logits), config, config.cls_pw) @ weights  # against no class
    change = (bce(own, _constant(on, own), config, config.cls_pw)
              - bce(own, _constant(off, own), config, config.cls_pw))
    return matched.mean((others + change * weights[matched.labels]) / num_classes)


DETECTION_TERMS = (
    Term("box", box_term, lambda config: config.box),
    Term("objectness", objectness_term, lambda config: config.obj, "obj"),
    Term("classification", classification_term, lambda config: config.cls, "cls"))


def bce(logits: Tensor, truth: Tensor, config: LossConfig, positive_weight: float) -> Tensor:
    """Binary cross entropy by element, focal where ``fl_gamma`` says so."""
    weight = None if positive_weight == 1 else torch.full((), positive_weight, device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weight)
    if not config.fl_gamma:
        return loss
    probability = logits.sigmoid()
    right = truth * probability + (1 - truth) * (1 - probability)
    alpha = truth * FOCAL_ALPHA + (1 - truth) * (1 - FOCAL_ALPHA)
    return loss * alpha * (1 - right) ** config.fl_gamma


# --- helpers -----------------------------------------------------------------------------------------------------


def _constant(value: float, like: Tensor) -> Tensor:
    """``value`` expanded to the shape of a tensor, without memory of its own."""
    return torch.full((), value, dtype=like.dtype, device=like.device).expand_as(like)


def _scatter_others(index: Tensor, inside: Tensor, level: Tensor) -> Tensor:
    """Indices of rows; candidates outside the level get different ones, one after the other.

    They add nothing to the gradient, but on a GPU all additions to one row would wait for each other.
    """
    rows = level.numel() // level.shape[-1]
    return torch.where(inside, index, torch.arange(index.shape[0], device=index.device) % rows)


def _target_maps(quality: Tensor, assignment: Assignment, inside: Sequence[Tensor],
                 levels: Sequence[Tensor]) -> list[Tensor]:
    """Candidates' values in their cells, ``[B, A, h, w]`` for each level: the highest order wins, others are 0."""
    maps = []
    for mask, level in zip(inside, levels, strict=True):
        place = assignment.image * level[0].numel() + torch.where(mask, assignment.cell, 0)
        order = torch.where(mask, assignment.order + 1, 0)
        highest = order.new_zeros(level.numel()).scatter_reduce(0, place, order, "amax")
        last = mask & (highest[place] == order)
        values = torch.where(last, quality, 0.0)  # one per cell, so that the maximum is its value
        maps.append(values.new_zeros(level.numel()).scatter_reduce(0, place, values, "amax").view(level.shape))
    return maps
