"""Decoded predictions -> `Instances`: thresholds, non-maximum suppression, and the way back to the native image.

Exact where speed would tempt to approximate: classes never touch each other, equal scores keep the order of the
predictions, no time limit cuts a batch short, and the input is left as it was (docs/reference.md, Non-maximum
suppression).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from yolov7.boxes import clip
from yolov7.model.heads.base import Predictions
from yolov7.structures import ImageMeta, Instances

LIKELY_ENOUGH = 8  # candidates for a detection
SEARCHED = 8  # times as many scores are not sorted
SAMPLE = 32768  # scores that stand for all

# what follows NMS in a task: instances in pixels of the network input (on the CPU), the maps of their image by name
# (on the network's device), where the image lies in the input -> instances in native pixels (on the CPU)
Finish = Callable[[Instances, dict[str, Tensor], ImageMeta], Instances]
Select = Callable[[Predictions, "NMSOptions"], Instances]  # a task's NMS of one image, such as `nms_image`


@dataclass(frozen=True)
class NMSOptions:
    """What to keep. The defaults are those of detection; the COCO protocol has 0.001, 0.65 and multi-label."""

    confidence: float = 0.25  # objectness and score must exceed it
    iou: float = 0.45  # a box goes when its IoU with a better one exceeds it
    max_detections: int = 300  # of an image
    multi_label: bool = False  # every class above the threshold, not only the best one of a box
    agnostic: bool = False  # NMS across classes
    classes: tuple[int, ...] | None = None  # keep only these; None keeps all
    max_candidates: int = 30000  # boxes of an image that enter NMS


def non_maximum_suppression(boxes: Tensor, objectness: Tensor, classes: Tensor, options: NMSOptions) -> list[Instances]:
    """`nms_image` for each image of a batch: ``[B, M, 4]`` xyxy pixels, ``[B, M]`` and ``[B, M, C]`` in 0..1."""
    return [nms_image(image, options) for image in Predictions(boxes, objectness, classes).images()]


@torch.no_grad()
def nms_image(predictions: Predictions, options: NMSOptions) -> Instances:
    """Greedy NMS of one image, class by class; every column follows the boxes that are kept.

    The score is objectness times class, with one class the objectness alone (the class branch of such a model is
    untrained; see `Head.class_score` for published weights). Boxes come out best first, equal scores in the order of
    their rows, then of their classes; they are not clipped. Rows whose box is not finite are no candidates.
    """
    row, labels, scores = _scores(predictions, options)
    every, columns = scores.flatten(), max(scores.shape[1], 1)
    for threshold in _thresholds(every, options):
        index = (every > threshold).nonzero().flatten()  # in the order of the rows, then of the classes
        index = index[_best_first(every[index], options.max_candidates)]
        place = index // columns, index % columns
        boxes, label = predictions.boxes[row[place[0]]], labels[place]
        kept = _kept(boxes, label, options)
        if len(kept) >= options.max_detections:
            break
    extra = {name: column[row[place[0][kept]]] for name, column in predictions.extra.items()}
    return Instances(boxes[kept].float(), every[index[kept]], label[kept], extra=extra)


def to_native(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """Detection's `Finish`: boxes in pixels of the native image, clipped to it; other columns stay as they are."""
    pad = found.boxes.new_tensor(meta.pad * 2)  # [4] x, y, x, y
    gain = found.boxes.new_tensor(meta.gain * 2)
    height, width = meta.size
    return replace(found, boxes=clip((found.boxes - pad) / gain, height, width))


@dataclass(frozen=True)
class After:
    """What a task does behind its network: predictions -> instances in native pixels."""

    select: Select = nms_image
    finish: Finish = to_native


def _scores(predictions: Predictions, options: NMSOptions) -> tuple[Tensor, Tensor, Tensor]:
    """R rows that may be detections, and of each of them K labels and scores: int64 ``[R]``, ``[R, K]``, ``[R, K]``."""
    boxes, objectness, classes = predictions.boxes, predictions.objectness, predictions.classes
    # most rows end here, before anything is computed for them
    row = ((objectness > options.confidence) & boxes.isfinite().all(-1)).nonzero().flatten()
    scores = objectness[row, None]
    accepted = torch.arange(classes.shape[-1], device=row.device)
    if options.multi_label and options.classes is not None:
        accepted = accepted[torch.isin(accepted, accepted.new_tensor(options.classes))]
    if classes.shape[-1] > 1:
        chosen = classes[row] if len(accepted) == classes.shape[-1] else classes[row[:, None], accepted]
        scores = scores * chosen  # in the format of its factors
    scores = scores.float()
    labels = accepted.expand(len(row), -1)
    if options.multi_label:
        return row, labels[:, : scores.shape[1]], scores[:, : labels.shape[1]]
    scores, labels = scores.max(dim=1, keepdim=True)
    if options.classes is not None:
        scores = scores.masked_fill(~torch.isin(labels, labels.new_tensor(options.classes)), -1)
    return row, labels, scores


def _thresholds(scores: Tensor, options: NMSOptions) -> list[Tensor | float]:
    """Scores to exceed, in turn: with very many, first one that about `LIKELY_ENOUGH` times as many exceed as there
    can be detections. What is kept of the best is the start of what is kept of all, so the first is mostly enough."""
    likely = LIKELY_ENOUGH * options.max_detections
    if len(scores) < SEARCHED * likely:
        return [options.confidence]
    sample = scores[:: max(len(scores) // SAMPLE, 1)]
    guess = sample.topk(max(likely * len(sample) // len(scores), 1)).values[-1]
    return [guess.clamp(min=options.confidence), options.confidence]


def _best_first(scores: Tensor, limit: int) -> Tensor:
    """Indices of the ``limit`` highest scores, best first; equal scores stay in their order, also at the cut."""
    index = torch.arange(len(scores), device=scores.device)
    if len(scores) > limit:  # sorting millions of rows to drop nearly all of them is slow
        lowest = scores.topk(limit, sorted=False).values.min()
        index = (scores >= lowest).nonzero().flatten()
    return index[scores[index].argsort(descending=True, stable=True)][:limit]


def _kept(boxes: Tensor, labels: Tensor, options: NMSOptions) -> Tensor:
    """Indices of the boxes that stay, at most ``max_detections``; ``boxes`` ``[N, 4]`` come best first.

    Only a better box removes another, so what stays of the first n boxes is the start of what stays of all: the
    search ends as soon as it has enough.
    """
    separated = boxes.double()  # exact under the shift; float32 would lose pixels' fractions
    if len(boxes) and not options.agnostic:
        extent = (separated.max() - separated.min()).ceil() + 1
        separated = separated + (extent * labels)[:, None]
    rank = torch.arange(len(boxes), 0, -1, dtype=separated.dtype, device=boxes.device)  # instead of tied scores
    threshold, size = _strict(options.iou), 4 * options.max_detections
    while True:
        kept: Tensor = nms(separated[:size], rank[:size], threshold)
        if len(kept) >= options.max_detections or size >= len(boxes):
            return kept[: options.max_detections]
        size *= 4


def _strict(threshold: float) -> float:
    """The lowest float32 that is not below: CUDA's kernel rounds to float32, and an IoU that equals the threshold
    must not exceed it on any device."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) >= threshold else np.nextafter(rounded, np.float32(math.inf)))
