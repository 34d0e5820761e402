"""The loss: box, objectness and class terms over assigned slots (spec of assignment and loss, section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import paired_iou
from yolov7.loss.candidates import find_candidates
from yolov7.loss.simota import assign, cell_column_row, gather_level
from yolov7.model.anchors import decode_boxes
from yolov7.options import LossConfig
from yolov7.structures import Assignment, HeadOutput, LossTerms, Targets

LEVEL_BALANCE = {3: (4.0, 1.0, 0.4)}  # weights of the levels' objectness
DEEP_LEVEL_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25
NEUTRAL_BOX = (0.0, 0.0, 1.0, 1.0)  # stands in for slots that are not positive, so that their gradient is finite


def scale_gains(config: LossConfig, levels: int, num_classes: int, image_size: int) -> LossConfig:
    """Gains of the recipe (3 levels, 80 classes, 640 px) for another network; a new object."""
    per_level = 3 / levels
    return dataclasses.replace(
        config, box=config.box * per_level, cls=config.cls * per_level * num_classes / 80,
        obj=config.obj * per_level * (image_size / 640) ** 2,
    )


class Criterion:
    """``criterion(output, targets) -> LossTerms`` for one head.

    ``anchors`` is ``[L, A, 2]`` in pixels, on the device of the predictions; the gains of ``config`` are used as
    they are (see `scale_gains`). With ``loss_ota`` off every candidate is a positive.
    """

    def __init__(self, config: LossConfig, anchors: Tensor, strides: Sequence[int], top_k: int = 10) -> None:
        self.config = config
        self.anchors = anchors
        self.strides = tuple(strides)
        self.top_k = top_k
        self.balance = LEVEL_BALANCE.get(len(self.strides), DEEP_LEVEL_BALANCE)

    def __call__(self, output: HeadOutput, targets: Targets) -> LossTerms:
        """Assign, then sum the terms; the mean over positives of each level, not yet times the batch size."""
        return self.terms(output, targets, self.assign(output, targets))

    def assign(self, output: HeadOutput, targets: Targets) -> Assignment:
        """Which slots learn which object (simOTA, or every candidate)."""
        candidates = find_candidates(output, targets, self.anchors, self.strides, self.config.anchor_t)
        if not self.config.loss_ota:
            return Assignment(candidates.cell, candidates.owner, candidates.valid)
        return assign(output, targets, candidates, self.anchors, self.strides, self.top_k)

    def terms(self, output: HeadOutput, targets: Targets, assignment: Assignment) -> LossTerms:
        """The terms for a given assignment."""
        box, objectness, classification = [], [], []
        for index, logits in enumerate(output.levels):
            cell, owner = assignment.cell[:, index], assignment.owner[:, index]  # [B, K]
            positive = assignment.positive[:, index]
            rows = gather_level(logits, cell).float()  # [B, K, 5 + C]
            ciou = self._ciou(rows, logits, cell, targets.boxes, owner, positive, index)
            count = positive.sum().clamp(min=1)
            box.append(torch.where(positive, 1 - ciou, 0.0).sum() / count)
            quality = 1 - self.config.gr + self.config.gr * ciou.detach().clamp(min=0)
            wanted = _last_written(quality, cell, positive, logits[0, ..., 0].numel())
            objectness.append(self._objectness(logits[..., 4].flatten(1).float(), wanted) * self.balance[index])
            classification.append(self._classification(rows, targets.labels, owner, positive) / count)
        gains = self.config
        return LossTerms(gains.box * torch.stack(box).sum(), gains.obj * torch.stack(objectness).sum(),
                         gains.cls * torch.stack(classification).sum())

    def _ciou(self, rows: Tensor, logits: Tensor, cell: Tensor, boxes: Tensor, owner: Tensor, positive: Tensor,
              index: int) -> Tensor:
        """CIoU of predicted and target boxes in cells, relative to the cell: ``[B, K]``."""
        height, width = logits.shape[2:4]
        stride = self.strides[index]
        anchors = self.anchors[index][cell // (height * width)] / stride
        predicted = decode_boxes(rows[..., :4], torch.zeros_like(rows[..., :2]), anchors, 1.0)
        corner = cell_column_row(cell, height, width).repeat(1, 1, 2)  # [B, K, 4]
        wanted = boxes.gather(1, owner[..., None].expand(-1, -1, 4)) / stride - corner
        neutral = predicted.new_tensor(NEUTRAL_BOX)
        predicted = torch.where(positive[..., None], predicted, neutral)
        return paired_iou(predicted, torch.where(positive[..., None], wanted, neutral), "ciou")

    def _objectness(self, logits: Tensor, quality: Tensor) -> Tensor:
        return self._bce(logits, quality, self.config.obj_pw).mean()

    def _classification(self, rows: Tensor, labels: Tensor, owner: Tensor, positive: Tensor) -> Tensor:
        """Sum over positives of the mean over classes; zero for one class (its score is the objectness)."""
        num_classes = rows.shape[-1] - 5
        if num_classes == 1:
            return rows.new_zeros(())
        on, off = 1 - 0.5 * self.config.label_smoothing, 0.5 * self.config.label_smoothing
        one_hot = F.one_hot(labels.gather(1, owner), num_classes)  # [B, K, C]
        loss = self._bce(rows[..., 5:], torch.where(one_hot.bool(), on, off), self.config.cls_pw)
        return torch.where(positive, loss.mean(dim=-1), 0.0).sum()

    def _bce(self, logits: Tensor, wanted: Tensor, positive_weight: float) -> Tensor:
        """Binary cross entropy by element, focal where ``fl_gamma`` says so."""
        weight = logits.new_tensor(positive_weight)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=weight)
        if not self.config.fl_gamma:
            return loss
        probability = logits.sigmoid()
        right = wanted * probability + (1 - wanted) * (1 - probability)
        alpha = wanted * FOCAL_ALPHA + (1 - wanted) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - right) ** self.config.fl_gamma


def _last_written(values: Tensor, cell: Tensor, positive: Tensor, num_cells: int) -> Tensor:
    """Scatter slot values ``[B, K]`` into cells ``[B, num_cells]``: the highest slot wins, the rest is 0."""
    slot = torch.arange(1, values.shape[1] + 1, device=values.device) * positive  # 0 = not written
    winner = slot.new_zeros(len(values), num_cells).scatter_reduce(1, cell, slot, "amax")
    padded = F.pad(values, (1, 0))
    return padded.gather(1, winner)
