"""The loss as the paper tells it, image by image and object by object: the oracle of `yolov7.loss`.

Vectorised inside an image only, with the class axis of the cost written out; golden-correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import cxcywh_to_xyxy, paired_iou, pairwise_iou, xyxy_to_cxcywh
from yolov7.config.recipe import LossConfig
from yolov7.loss.criterion import AUXILIARY_TOP_K, AUXILIARY_WEIGHT, DEEP_LEVEL_BALANCE, LEVEL_BALANCE, TOP_K, Losses
from yolov7.structures import HeadOutput, Targets

OFFSETS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # centre, left, up, right, down


@dataclass(frozen=True)
class Positives:
    """Entries of one level, in the order in which they are written."""

    image: Tensor  # int64 [P]
    anchor: Tensor
    row: Tensor
    column: Tensor
    gt_index: Tensor  # index of the object in the padded targets

    def places(self) -> tuple[Tensor, ...]:
        """Indices into ``[B, A, h, w]``."""
        return self.image, self.anchor, self.row, self.column

    def corner(self) -> Tensor:
        """Column and row ``[P, 2]``."""
        return torch.stack((self.column, self.row), dim=1)

    def take(self, mask: Tensor) -> Positives:
        """The entries under a mask or index."""
        return Positives(self.image[mask], self.anchor[mask], self.row[mask], self.column[mask], self.gt_index[mask])


class SimpleCriterion:
    """`yolov7.loss.criterion.Criterion`, written plainly."""

    def __init__(self, config: LossConfig, anchors: Tensor, strides: tuple[int, ...]) -> None:
        self.config, self.anchors, self.strides = config, anchors, tuple(strides)
        self.balance = LEVEL_BALANCE.get(len(strides), DEEP_LEVEL_BALANCE)

    def __call__(self, output: HeadOutput, targets: Targets) -> Losses:
        lead, *auxiliary = self.assign(output, targets)
        losses = self.head_losses(output, targets, lead, 0.5)
        for head, assignment in zip(output.auxiliary, auxiliary, strict=True):
            reach = {"constrained": 0.5, "free": 1.0}[self.config.aux_decode]
            extra = self.head_losses(head, targets, assignment, reach)
            losses = {name: value + AUXILIARY_WEIGHT * extra[name] for name, value in losses.items()}
        return losses

    def assign(self, output: HeadOutput, targets: Targets) -> list[list[Positives]]:
        """Positives by level, of the lead head and of the auxiliary head."""
        heads = 1 + len(output.auxiliary)
        fine = self.candidates(output, targets, 0.5)
        if not self.config.loss_ota:
            return [fine] * heads
        top_k = self.config.top_k or (AUXILIARY_TOP_K if output.auxiliary else TOP_K)
        lead = self.match(output, targets, fine, top_k, 0.5)
        if heads == 1:
            return [lead]
        if self.config.assignment == "lead_guided":
            return [lead, lead]
        if self.config.assignment == "independent":
            reach = {"constrained": 0.5, "free": 1.0}[self.config.aux_decode]
            return [lead, self.match(output.auxiliary[0], targets, fine, top_k, reach)]
        return [lead, self.match(output, targets, self.candidates(output, targets, 1.0), top_k, 0.5)]

    def candidates(self, output: HeadOutput, targets: Targets, offset: float) -> list[Positives]:
        """Level by level (docs/reference.md, Candidates); at exact integers cells repeat the centre's."""
        levels = []
        for logits, anchors, stride in zip(output.levels, self.anchors, self.strides, strict=True):
            height, width = logits.shape[2:4]
            image, gt_index = targets.valid.nonzero(as_tuple=True)
            boxes = xyxy_to_cxcywh(targets.boxes[image, gt_index])  # [T, 4]
            ratio = boxes[None, :, 2:] / anchors[:, None]  # [A, T, 2]
            fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < self.config.anchor_t
            x, y = (boxes[:, :2] / stride).unbind(-1)
            near = [torch.ones_like(x, dtype=torch.bool)]
            near += [(value % 1 < offset) & (value > 1) for value in (x, y, width - x, height - y)]
            entries = []
            for (dx, dy), mask in zip(OFFSETS, near, strict=True):
                anchor, target = (fits & mask).nonzero(as_tuple=True)
                column = (x + dx * offset).long().clamp(0, width - 1)[target]
                row = (y + dy * offset).long().clamp(0, height - 1)[target]
                entries.append(torch.stack((image[target], anchor, row, column, gt_index[target])))
            level = Positives(*torch.cat(entries, dim=1))
            if self.config.deduplicate_candidates:
                level = level.take(_first_of_each(level))
            levels.append(level)
        return levels

    @torch.no_grad()
    def match(self, output: HeadOutput, targets: Targets, candidates: list[Positives], top_k: int,
              reach: float) -> list[Positives]:
        """Image by image (docs/reference.md, simOTA)."""
        chosen: list[list[Positives]] = [[] for _ in candidates]
        for image in range(len(targets.valid)):
            own = [level.take(level.image == image) for level in candidates]
            objects = targets.valid[image].nonzero()[:, 0]
            if not len(objects) or not sum(len(level.image) for level in own):
                continue
            rows = [output.levels[index][level.places()].float() for index, level in enumerate(own)]
            boxes = [self.decode(row, level, index, level.corner(), self.strides[index], reach)
                     for index, (row, level) in enumerate(zip(rows, own, strict=True))]
            logits = torch.cat(rows)
            cost, iou = matching_cost(logits[:, : self.scores_end], torch.cat(boxes), targets.boxes[image, objects],
                                      targets.labels[image, objects])
            cost = cost + self.task_cost(targets, image, objects, own, logits)
            matched = match(cost, iou, top_k).split([len(level.image) for level in own])
            for index, (level, gt_index) in enumerate(zip(own, matched, strict=True)):
                taken = gt_index >= 0
                part = level.take(taken)
                own_objects = objects[gt_index[taken]]
                chosen[index].append(Positives(part.image, part.anchor, part.row, part.column, own_objects))
        return [Positives(*(torch.cat([getattr(part, name) for part in parts]) for name in Positives.__annotations__))
                if parts else candidates[index].take(torch.zeros(0, dtype=torch.long))
                for index, parts in enumerate(chosen)]

    scores_end: int | None = None  # of the channels

    def task_cost(self, targets: Targets, image: int, objects: Tensor, candidates: list[Positives],
                  logits: Tensor) -> Tensor | float:
        """What a task adds to the cost of objects ``[G]`` and candidates ``[N]``: ``[G, N]``."""
        return 0.0

    def decode(self, rows: Tensor, entries: Positives, index: int, corner: Tensor | float, scale: float,
               reach: float) -> Tensor:
        """Boxes ``[N, 4]`` of a level: in pixels for its stride as scale, relative to the cell for 1 and no corner."""
        centre = (rows[:, :2].sigmoid() * (1 + 2 * reach) - reach + corner) * scale
        size = (2 * rows[:, 2:4].sigmoid()) ** 2 * self.anchors[index][entries.anchor] * (scale / self.strides[index])
        return cxcywh_to_xyxy(torch.cat((centre, size), dim=1))

    def head_losses(self, output: HeadOutput, targets: Targets, assignment: list[Positives], reach: float) -> Losses:
        """Level by level (docs/reference.md, Loss terms)."""
        config = self.config
        zero = output.levels[0].sum() * 0
        box, objectness, classification = zero, zero, zero
        for index, (logits, entries) in enumerate(zip(output.levels, assignment, strict=True)):
            truth = torch.zeros(logits.shape[:4], device=logits.device)
            if len(entries.image):
                rows = logits[entries.places()].float()
                predicted = self.decode(rows, entries, index, 0.0, 1.0, reach)
                own = targets.boxes[entries.image, entries.gt_index] / self.strides[index]
                ciou = paired_iou(predicted, own - entries.corner().repeat(1, 2), "ciou")
                box = box + (1 - ciou).mean()
                quality = 1 - config.gr + config.gr * ciou.detach().clamp(min=0)
                places, held = tuple(index.cpu().numpy() for index in entries.places()), truth.cpu().numpy()
                held[places] = quality.cpu().numpy()  # of repeated places NumPy keeps the last value
                truth = torch.from_numpy(held).to(logits.device)
                classification = classification + self.class_term(rows, targets.labels[entries.image, entries.gt_index])
            loss = self.bce(logits[..., 4].float(), truth, config.obj_pw)
            objectness = objectness + self.balance[index] * loss.mean()
        return {"box": config.box * box, "objectness": config.obj * objectness,
                "classification": config.cls * classification}

    def class_term(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Mean over entries and classes."""
        classes = rows.shape[1] - 5
        if classes == 1:
            return rows.sum() * 0
        smooth = self.config.label_smoothing
        truth = F.one_hot(labels, classes) * (1 - smooth) + 0.5 * smooth
        weights = rows.new_tensor(self.config.class_weights or (1.0,) * classes)
        return (self.bce(rows[:, 5:], truth, self.config.cls_pw) * weights).mean()

    def bce(self, logits: Tensor, truth: Tensor, positive_weight: float) -> Tensor:
        """By element, with the focal factor."""
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none",
                                                  pos_weight=logits.new_tensor(positive_weight))
        if self.config.fl_gamma:
            p = logits.sigmoid()
            right = truth * p + (1 - truth) * (1 - p)
            loss = loss * (truth * 0.25 + (1 - truth) * 0.75) * (1 - right) ** self.config.fl_gamma
        return loss


def _first_of_each(entries: Positives) -> Tensor:
    """Indices of the entries whose cell no earlier one has."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    cells = zip(entries.image.tolist(), entries.anchor.tolist(), entries.row.tolist(), entries.column.tolist(),
                strict=True)
    for index, cell in enumerate(cells):
        if cell not in seen:
            kept.append(index)
            seen.add(cell)
    return torch.tensor(kept, dtype=torch.long)


def matching_cost(logits: Tensor, boxes: Tensor, object_boxes: Tensor, object_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cost and IoU ``[G, N]`` of predictions ``[N, 5 + C]``, ``[N, 4]`` for objects ``[G, 4]``, ``[G]`` of one image.

    Cost = BCE of ``sqrt(class * objectness)`` against the object's class, summed over classes, - 3 ln(IoU).
    """
    iou = pairwise_iou(object_boxes, boxes)
    log_score = (F.logsigmoid(logits[:, 5:]) + F.logsigmoid(logits[:, 4:5])) / 2  # [N, C], ln u
    log_rest = torch.log1p(-log_score.exp().clamp(max=1 - 6e-8))
    one_hot = F.one_hot(object_labels, logits.shape[1] - 5)[:, None].to(logits.dtype)  # [G, 1, C]
    class_cost = -(one_hot * log_score + (1 - one_hot) * log_rest).sum(dim=-1)
    return class_cost - 3 * (iou + 1e-8).log(), iou


def match(cost: Tensor, iou: Tensor, top_k: int) -> Tensor:
    """The object of every candidate, -1 for none: costs and IoUs ``[G, N]`` -> int64 ``[N]``.

    Equal costs: the lower candidate is taken first; between objects, the first one wins.
    """
    if not len(cost):
        return torch.full((cost.shape[1],), -1, device=cost.device)
    dynamic_k = iou.topk(min(top_k, iou.shape[1]), dim=1).values.sum(dim=1).long().clamp(min=1)  # [G]
    gt_index = torch.full((cost.shape[1],), -1, device=cost.device)
    marks = torch.zeros_like(gt_index)
    for index in range(len(cost)):
        taken = cost[index].sort(stable=True).indices[: int(dynamic_k[index])]
        gt_index[taken] = torch.where(marks[taken] == 0, index, gt_index[taken])
        marks[taken] += 1
    shared = marks > 1  # over all objects, also those that did not take it
    gt_index[shared] = cost[:, shared].argmin(dim=0)
    return gt_index
