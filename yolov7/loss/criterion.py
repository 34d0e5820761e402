"""The loss: box, objectness and class terms over assigned slots (spec of assignment and loss, sections 5 and 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import paired_iou
from yolov7.config import InputError
from yolov7.loss.candidates import COARSE, FINE, Candidates, find_candidates
from yolov7.loss.rows import SlotRows, gather_rows, places_in_levels, row_index
from yolov7.loss.simota import Matching, assign, every_candidate
from yolov7.model.anchors import CONSTRAINED, FREE, decode_boxes
from yolov7.options import LossConfig
from yolov7.structures import Assignment, HeadOutput, LossTerms, Targets

LEVEL_BALANCE = {3: (4.0, 1.0, 0.4)}  # weights of the levels' objectness
DEEP_LEVEL_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25
TOP_K, AUXILIARY_TOP_K = 10, 20
AUXILIARY_WEIGHT = 0.25
REACH = {"constrained": CONSTRAINED, "free": FREE}


def scale_gains(config: LossConfig, levels: int, num_classes: int, image_size: int) -> LossConfig:
    """Gains of the recipe (3 levels, 80 classes, 640 px) for another network; a new object."""
    per_level = 3 / levels
    return dataclasses.replace(
        config, box=config.box * per_level, cls=config.cls * per_level * num_classes / 80,
        obj=config.obj * per_level * (image_size / 640) ** 2,
    )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Targets and their candidates, on the device of the predictions."""

    targets: Targets
    candidates: Candidates


@dataclasses.dataclass(frozen=True)
class Means:
    """What sums of a head are divided by, of all processes together."""

    positives: tuple[Tensor, ...]  # L times [], at least 1
    share: Tensor  # [], of all images, those of this process: the weight of its mean over cells


class Criterion:
    """``criterion(output, targets) -> LossTerms``: assignment, then the terms of the lead and auxiliary heads.

    Two steps, of which the second never waits for the device: ``criterion.loss(output, criterion.prepare(output,
    targets))``, with the targets still on the host. ``anchors`` is ``[L, A, 2]`` in pixels, on the device of the
    predictions; the gains of ``config`` are used as they are (see `scale_gains`). With ``loss_ota`` off every
    candidate is a positive. Raises `InputError` where the class weights are not one for each of ``num_classes``.

    ``across`` adds a tensor up over all processes of a distributed training. The means are then those of the whole
    batch, and the terms are this process's share of them: their sum over the processes is what one process would get.
    """

    def __init__(self, config: LossConfig, anchors: Tensor, strides: Sequence[int], num_classes: int,
                 across: Callable[[Tensor], Tensor] | None = None) -> None:
        self.config, self.across = config, across
        self.anchors, self.host_anchors = anchors, anchors.cpu()
        self.strides = tuple(strides)
        self.stride_values = anchors.new_tensor(self.strides)
        self.balance = LEVEL_BALANCE.get(len(self.strides), DEEP_LEVEL_BALANCE)
        if config.class_weights and len(config.class_weights) != num_classes:
            raise InputError(f"loss.class_weights: found {len(config.class_weights)} weights; accepted: one for each "
                             f"of the {num_classes} classes, or none")
        self.class_weights = anchors.new_tensor(config.class_weights or (1.0,))

    def __call__(self, output: HeadOutput, targets: Targets) -> LossTerms:
        """Assign, then sum the terms; the mean over positives of each level, not yet times the batch size."""
        return self.loss(output, self.prepare(output, targets))

    def prepare(self, output: HeadOutput, targets: Targets) -> Prepared:
        """Targets of the host -> candidates, on the device of the predictions, of which only the shapes are read."""
        coarse = bool(output.auxiliary) and self.config.loss_ota and self.config.assignment == "coarse_to_fine"
        sizes = [(level.shape[1], level.shape[2], level.shape[3]) for level in output.levels]
        candidates = find_candidates(targets, sizes, self.host_anchors, self.strides, self.config.anchor_t,
                                     COARSE if coarse else FINE, self.config.deduplicate_candidates)
        device = output.levels[0].device
        if device.type == "cuda":  # a copy from pinned memory needs no waiting
            candidates, targets = candidates.each(Tensor.pin_memory), targets.pin_memory()
        return Prepared(targets.to(device), candidates.each(lambda tensor: tensor.to(device, non_blocking=True)))

    def loss(self, output: HeadOutput, prepared: Prepared) -> LossTerms:
        """The terms of all heads."""
        with torch.autocast(output.levels[0].device.type, enabled=False):  # costs and terms in float32
            assignments = self.assign(output, prepared)
            lead, *auxiliary = assignments
            means, *further = self._means(assignments, len(prepared.targets.labels))
            terms = self.terms(output, prepared.targets, lead, means)
            for head, assignment, own in zip(output.auxiliary, auxiliary, further, strict=True):
                extra = self.terms(head, prepared.targets, assignment, own, REACH[self.config.aux_decode])
                terms = terms.plus(extra, AUXILIARY_WEIGHT)
        return terms

    def _means(self, assignments: Sequence[Assignment], images: int) -> list[Means]:
        """What the sums of each head are divided by: one small reduction, of all heads and levels together."""
        levels = range(len(self.strides))
        counts = torch.stack([(a.positive & (a.level == index)).sum() for a in assignments for index in levels])
        share = counts.new_ones((), dtype=torch.float32)
        if self.across is not None:
            *total, all_images = self.across(torch.cat((counts, counts.new_tensor([images])))).unbind()
            counts, share = torch.stack(total), images / all_images
        counts = counts.clamp(min=1).view(len(assignments), -1)
        return [Means(tuple(own.unbind()), share) for own in counts]

    def assign(self, output: HeadOutput, prepared: Prepared) -> tuple[Assignment, ...]:
        """Which predictions learn which object: of the lead head, then of the auxiliary head where there is one."""
        config, targets, candidates = self.config, prepared.targets, prepared.candidates
        if not config.loss_ota:
            return (every_candidate(candidates),) * (1 + len(output.auxiliary))
        top_k = config.top_k or (AUXILIARY_TOP_K if output.auxiliary else TOP_K)
        matching = Matching(self.anchors, self.stride_values, top_k)
        if output.auxiliary and config.assignment == "coarse_to_fine":
            return assign(output, targets, candidates, matching, ("fine", "valid"))
        lead, = assign(output, targets, candidates, matching)
        if not output.auxiliary:
            return (lead,)
        if config.assignment == "lead_guided":
            return lead, lead
        free = dataclasses.replace(matching, reach=REACH[config.aux_decode])
        return lead, *assign(output.auxiliary[0], targets, candidates, free)

    def terms(self, output: HeadOutput, targets: Targets, assignment: Assignment, means: Means,
              reach: float = CONSTRAINED) -> LossTerms:
        """The terms of one head for a given assignment."""
        inside = [assignment.positive & (assignment.level == index) for index in range(len(self.strides))]
        positives = zip(inside, means.positives, strict=True)
        weight = torch.stack([mask / count for mask, count in positives]).sum(dim=0)  # [S]
        places = places_in_levels(assignment.image, assignment.cell, inside, output.levels)
        indices = [_spread(row_index(level, *place), mask, level) for level, place, mask in
                   zip(output.levels, places, inside, strict=True)]
        labels = targets.labels[assignment.image, assignment.owner]
        rows = gather_rows(output.levels, indices, inside, labels)
        own = targets.boxes[assignment.image, assignment.owner]  # [S, 4]
        ciou = self._ciou(rows.boxes.float(), own, assignment, inside, places, reach)
        quality = 1 - self.config.gr + self.config.gr * ciou.detach().clamp(min=0)
        wanted = _target_maps(quality, assignment, inside, rows.objectness)
        balanced = [self._bce(logits.float(), target, self.config.obj_pw).mean() * balance
                    for logits, target, balance in zip(rows.objectness, wanted, self.balance, strict=False)]
        gains = self.config
        return LossTerms(gains.box * ((1 - ciou) * weight).sum(), gains.obj * torch.stack(balanced).sum() * means.share,
                         gains.cls * (self._classification(rows, labels) * weight).sum())

    def _ciou(self, logits: Tensor, boxes: Tensor, assignment: Assignment, inside: Sequence[Tensor],
              places: Sequence[Tensor], reach: float) -> Tensor:
        """CIoU of predicted and target boxes in cells, relative to the cell: ``[S]``."""
        anchors = _choose(inside, [level[place[1]] / stride for level, place, stride in
                                   zip(self.anchors, places, self.strides, strict=True)])
        wanted = _choose(inside, [boxes / stride - place[2:].flip(0).T.repeat(1, 2) for place, stride in
                                  zip(places, self.strides, strict=True)])
        predicted = decode_boxes(logits, torch.zeros_like(logits[:, :2]), anchors, 1.0, reach)
        positive = assignment.positive[:, None]
        # slots that are not positive compare a box with itself, so that their gradient is finite
        neutral = F.pad(torch.ones_like(logits[:, :2]), (2, 0))
        return paired_iou(torch.where(positive, predicted, neutral), torch.where(positive, wanted, neutral), "ciou")

    def _classification(self, rows: SlotRows, labels: Tensor) -> Tensor:
        """Mean over classes, ``[S]``; zero for one class (its score is the objectness)."""
        num_classes = rows.classes.shape[-1]
        if num_classes == 1:
            return torch.zeros_like(rows.own_class)
        on, off = 1 - 0.5 * self.config.label_smoothing, 0.5 * self.config.label_smoothing
        weights = self.class_weights.expand(num_classes)
        logits, own = rows.classes.float(), rows.own_class.float()
        others = self._bce(logits, _constant(off, logits), self.config.cls_pw) @ weights  # as if no class were right
        change = self._bce(own, _constant(on, own), self.config.cls_pw) - self._bce(own, _constant(off, own),
                                                                                    self.config.cls_pw)
        return (others + change * weights[labels]) / num_classes

    def _bce(self, logits: Tensor, wanted: Tensor, positive_weight: float) -> Tensor:
        """Binary cross entropy by element, focal where ``fl_gamma`` says so."""
        weight = None if positive_weight == 1 else torch.full((), positive_weight, device=logits.device)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=weight)
        if not self.config.fl_gamma:
            return loss
        probability = logits.sigmoid()
        right = wanted * probability + (1 - wanted) * (1 - probability)
        alpha = wanted * FOCAL_ALPHA + (1 - wanted) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - right) ** self.config.fl_gamma


def _constant(value: float, like: Tensor) -> Tensor:
    """``value`` in the shape of a tensor, without its memory."""
    return torch.full((), value, dtype=like.dtype, device=like.device).expand_as(like)


def _spread(index: Tensor, inside: Tensor, level: Tensor) -> Tensor:
    """Indices of rows, those of slots outside the level one after the other: they add nothing to the gradient, but
    on a GPU all additions to one row would wait for each other."""
    rows = level.numel() // level.shape[-1]
    return torch.where(inside, index, torch.arange(index.shape[0], device=index.device) % rows)


def _choose(inside: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """For every slot the value of its level: L times ``[S]`` and ``[S, X]`` -> ``[S, X]``, zero where in none."""
    chosen = torch.where(inside[0][:, None], values[0], 0.0)
    for mask, value in zip(inside[1:], values[1:], strict=True):
        chosen = torch.where(mask[:, None], value, chosen)
    return chosen


def _target_maps(quality: Tensor, assignment: Assignment, inside: Sequence[Tensor],
                 levels: Sequence[Tensor]) -> list[Tensor]:
    """Slot values written into their cells, ``[B, A, h, w]`` a level: the highest slot wins, the rest is 0."""
    maps = []
    for mask, level in zip(inside, levels, strict=True):
        place = assignment.image * level[0].numel() + torch.where(mask, assignment.cell, 0)
        order = torch.where(mask, assignment.order + 1, 0)
        highest = order.new_zeros(level.numel()).scatter_reduce(0, place, order, "amax")
        last = mask & (highest[place] == order)
        values = torch.where(last, quality, 0.0)  # one writer a cell, so that the largest is its value
        maps.append(values.new_zeros(level.numel()).scatter_reduce(0, place, values, "amax").view(level.shape))
    return maps
