"""The reference implementation's own average precision, the "v7 metric" (docs/reference.md, v7 metric).

It is near the official COCO score (`coco`) but not equal to it: a detection is matched with its best object only,
iscrowd=1 annotations and the limit of 100 detections are unknown, and the end of the recall axis is treated in another
way. It stands here to compare with numbers that the reference implementation printed; the COCO score is the reference.

K is the number of classes with objects, D that of detections in all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolov7.config import atomic_write
from yolov7.evaluation.coco import class_table
from yolov7.evaluation.comparison import OF_BOXES, Comparison, Floats, ImageEvaluator, Integers, Similarity
from yolov7.evaluation.plots import plot_confidence, plot_precision_recall

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.structures import Instances

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10, dtype=np.float32)  # as IoUs are: one that equals a threshold is below it
POINTS = np.linspace(0, 1, 1000)  # confidences and recalls at which the curves are given
RECALLS = np.linspace(0, 1, 101)  # of the integral
EPSILON = 1e-16  # of the reference implementation's F1
BEYOND = 0.01  # where precision reaches 0, above the last recall


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and objects of some images, once matched: all that average precision needs."""

    correct: NDArray[np.bool_]  # [D, 10] right at each of `IOU_THRESHOLDS`
    scores: Floats  # [D] 0..1
    labels: Integers  # [D]
    true_labels: Integers  # [T] one for each object
    images: int  # seen, those without objects and detections included


@dataclass(frozen=True, eq=False)
class V7Curves:
    """Curves at IoU 0.50, class by class, for drawing; zeros where a class has no detection."""

    points: Floats  # [1000] 0..1: confidences, of the last curve recalls
    precision: Floats  # [K, 1000] over confidence
    recall: Floats  # [K, 1000] over confidence
    f1: Floats  # [K, 1000] over confidence
    precision_at_recall: Floats  # [K, 1000] over recall, never rising


@dataclass(frozen=True, eq=False)
class V7Result:
    """The v7 metric of a split; 0 where there is nothing to measure on.

    Arrays have a row for each class with objects, K of them; the single numbers are means over these.
    """

    fitness = None

    images: int  # seen
    confidence: float  # 0..1, where F1 averaged over classes is best
    precision: float  # at `confidence` and IoU 0.50
    recall: float  # likewise
    AP: float  # mean over IoU 0.50:0.95
    AP50: float  # at IoU 0.50
    classes: Integers  # [K] indices, rising
    objects: Integers  # [K]
    class_precision: Floats  # [K] at `confidence` and IoU 0.50
    class_recall: Floats  # [K] likewise
    class_f1: Floats  # [K] likewise
    class_AP: Floats  # noqa: N815 - the metric's name. [K] mean over IoU 0.50:0.95
    class_AP50: Floats  # noqa: N815 - likewise. [K] at IoU 0.50
    class_average_precision: Floats  # [K, 10] at each of `IOU_THRESHOLDS`
    curves: V7Curves
    name: str = "v7"  # of its evaluator
    word: str = "IoU"  # what says which detections are right

    @property
    def f1(self) -> float:
        """The mean of the classes' F1 at `confidence`: the highest of all confidences."""
        return _mean(self.class_f1)

    def metrics(self) -> dict[str, float]:
        """The numbers that are followed over a run."""
        return {"precision": self.precision, "recall": self.recall, "AP50": self.AP50, "AP": self.AP}

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet | None = None) -> None:
        """Write the curves: ``precision_recall.png`` and ``confidence.png``, of masks ``precision_recall_segm.png``."""
        kind = self.name.removeprefix("v7")
        atomic_write(folder / f"precision_recall{kind}.png", plot_precision_recall(self, names))
        atomic_write(folder / f"confidence{kind}.png", plot_confidence(self, names))

    def text(self, names: Sequence[str]) -> str:
        """A table by class, for people; ``names[i]`` is that of class ``i``."""
        summary = [f"v7 metric: {self.images} images, P and R at confidence {self.confidence:.3f} and {self.word} 0.50"]
        summary.append("AP and AP50 by this metric differ a little from COCO's: docs/reference.md, v7 metric")
        if not self.objects.size:
            summary.append("The images have no objects: nothing to measure.")
        return "\n".join([*summary, "", *_table(self, names)])


class V7Metric(ImageEvaluator):
    """The evaluator of this metric; `result` may be asked for at any time.

    The order of images matters only where scores are equal: the earlier row comes first. With ``each_threshold`` it is
    that of the reference implementation's segmentation (docs/reference.md, v7 metric): matched anew at each threshold,
    and the curve ends at recall 1.
    """

    name = "v7"

    def __init__(self, similarity: Similarity = OF_BOXES, each_threshold: bool = False) -> None:
        self.similarity, self.name = similarity, similarity.name("v7")
        self.each_threshold = each_threshold
        self._parts: list[Matches] = []

    def add(self, found: Instances, image_set: ImageSet, index: int, stretch: float = 1.0) -> None:
        """The native detections of an image, whose objects are stretched as its detections were.

        The reference implementation maps objects to the native image as it does detections, by the height's gain on
        both axes (docs/reference.md, Height's gain on both axes).
        """
        truth, (height, width) = image_set.objects_of(index), image_set.sizes[index].tolist()
        boxes = (truth.boxes * np.array((stretch, 1, stretch, 1))).clip(0, (width, height, width, height))
        image = self.similarity.compare(found, image_set, index)
        self.update(replace(image, true_boxes=boxes.astype(np.float32)))

    def update(self, image: Comparison) -> None:
        """Match an image."""
        match = match_at_each_threshold if self.each_threshold else match_detections
        self._parts.append(Matches(match(image), image.scores, image.labels, image.true_labels, images=1))

    def merge(self, other: V7Metric) -> None:
        """Add the images of another process behind those of this one."""
        self._parts.append(other.matches())

    def matches(self) -> Matches:
        """All that was collected, in order."""
        parts = [_NOTHING, *self._parts]
        correct, scores, labels, true_labels = (np.concatenate([getattr(part, name) for part in parts])
                                                for name in ("correct", "scores", "labels", "true_labels"))
        return Matches(correct, scores, labels, true_labels, images=sum(part.images for part in parts))

    def result(self, image_set: ImageSet | None = None, v5_metric: bool = False) -> V7Result:
        """The metric of all images so far; see `average_precision`."""
        found = average_precision(self.matches(), v5_metric or self.each_threshold)
        return replace(found, name=self.name, word=self.similarity.word)


def match_detections(image: Comparison) -> NDArray[np.bool_]:
    """Which detections of an image are right: ``[N, 10]``, at each of `IOU_THRESHOLDS`.

    By falling score, each detection claims the object of its class with the highest IoU if that is above 0.5. The first
    to claim an object gets it and is right at all thresholds below the IoU; later ones are wrong, even if another
    object would fit (docs/reference.md, Best object only). Equal scores and equal IoUs: the earlier row comes first.
    """
    correct = np.zeros((len(image.boxes), len(IOU_THRESHOLDS)), bool)
    if not image.true_boxes.size:
        return correct
    iou = np.where(image.same_class, image.iou, 0)
    gt_index, overlap = iou.argmax(1), iou.max(1)  # [N] the object each would claim
    order = np.argsort(-image.scores, kind="stable")
    claims = order[overlap[order] > IOU_THRESHOLDS[0]]
    _, first = np.unique(gt_index[claims], return_index=True)  # the first claim of each object
    winners = claims[first]
    correct[winners] = overlap[winners, None] > IOU_THRESHOLDS
    return correct


def match_at_each_threshold(image: Comparison) -> NDArray[np.bool_]:
    """As `match_detections`, with the claims of each threshold apart, which an IoU may also equal: ``[N, 10]``.

    An object that a better detection claims at a low threshold is free for another one at a high threshold.
    """
    correct = np.zeros((len(image.boxes), len(IOU_THRESHOLDS)), bool)
    if not image.true_boxes.size:
        return correct
    iou = np.where(image.same_class, image.iou, 0)
    gt_index, overlap = iou.argmax(1), iou.max(1)  # [N] the object each would claim
    order = np.argsort(-image.scores, kind="stable")
    for column, threshold in enumerate(IOU_THRESHOLDS):
        claims = order[overlap[order] >= threshold]
        _, first = np.unique(gt_index[claims], return_index=True)
        correct[claims[first], column] = True
    return correct


def average_precision(matches: Matches, v5_metric: bool = False) -> V7Result:
    """Average precision over 101 recalls, and precision and recall where F1 averaged over classes is best.

    Precision falls to 0 at 0.01 above the last recall (docs/reference.md, End of the recall axis), with ``v5_metric``
    along a line down to recall 1. Without any right detection all numbers and curves are 0.
    """
    classes, objects = np.unique(matches.true_labels, return_counts=True)
    ap = np.zeros((len(classes), len(IOU_THRESHOLDS)))
    precision, recall, precision_at_recall = np.zeros((3, len(classes), len(POINTS)))
    if matches.correct.any():
        order = np.lexsort((-matches.scores, matches.labels))  # by class, then falling score, then row
        labels = matches.labels[order]
        ranges = zip(np.searchsorted(labels, classes), np.searchsorted(labels, classes, "right"), strict=True)
        for k, (start, stop) in enumerate(ranges):
            if start < stop:
                rows = order[start:stop]
                ranked = _Ranked(matches.correct[rows], matches.scores[rows], int(objects[k]))
                precision[k], recall[k] = ranked.over_confidence()
                ap[k] = ranked.average_precision(v5_metric)
                precision_at_recall[k] = ranked.precision_at(POINTS, 0, v5_metric)
    f1 = 2 * precision * recall / (precision + recall + EPSILON)
    best = int(f1.mean(0).argmax()) if len(classes) else 0
    return V7Result(
        matches.images, confidence=float(POINTS[best]), classes=classes, objects=objects,
        precision=_mean(precision[:, best]), recall=_mean(recall[:, best]), AP=_mean(ap.mean(1)), AP50=_mean(ap[:, 0]),
        class_precision=precision[:, best], class_recall=recall[:, best], class_f1=f1[:, best],
        class_AP=ap.mean(1), class_AP50=ap[:, 0], class_average_precision=ap,
        curves=V7Curves(POINTS, precision, recall, f1, precision_at_recall))


class _Ranked:
    """One class: precision and recall if the list of its detections, best first, were cut behind each of them."""

    def __init__(self, correct: NDArray[np.bool_], scores: Floats, objects: int) -> None:
        right = correct.cumsum(0)
        self.scores = scores  # [D] falling
        self.precision: Floats = right / np.arange(1, len(right) + 1)[:, None]  # [D, 10]
        self.recall: Floats = right / objects  # [D, 10]

    def over_confidence(self) -> tuple[Floats, Floats]:
        """Precision and recall at IoU 0.50 ``[1000]``; above the highest score nothing is found, and nothing wrong."""
        precision = np.interp(-POINTS, -self.scores, self.precision[:, 0], left=1)  # `interp` needs rising places
        recall = np.interp(-POINTS, -self.scores, self.recall[:, 0], left=0)
        return precision, recall

    def precision_at(self, recalls: Floats, threshold: int, v5_metric: bool) -> Floats:
        """Highest precision at these recalls or beyond, at IoU ``IOU_THRESHOLDS[threshold]``."""
        recall, precision = self.recall[:, threshold], self.precision[:, threshold]
        end = 1.0 if v5_metric else recall[-1] + BEYOND
        envelope = np.maximum.accumulate(np.concatenate(([1.0], precision, [0.0]))[::-1])[::-1]
        return np.interp(recalls, np.concatenate(([0.0], recall, [end])), envelope)

    def average_precision(self, v5_metric: bool) -> Floats:
        """Area below the curve ``[10]`` by the trapezoid rule, which NumPy has under two names."""
        curves = np.stack([self.precision_at(RECALLS, t, v5_metric) for t in range(len(IOU_THRESHOLDS))])
        area: Floats = (np.diff(RECALLS) * (curves[:, 1:] + curves[:, :-1]) / 2).sum(1)
        return area


_NOTHING = Matches(
    np.zeros((0, len(IOU_THRESHOLDS)), bool), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), images=0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _table(result: V7Result, names: Sequence[str]) -> list[str]:
    total = ("all", result.objects.sum(), result.precision, result.recall, result.AP, result.AP50)
    rows = zip((names[index] for index in result.classes), result.objects, result.class_precision, result.class_recall,
               result.class_AP, result.class_AP50, strict=True)
    absent = [name for index, name in enumerate(names) if index not in result.classes]
    return class_table(("objects", "P", "R", "AP", "AP50"), [total, *rows], absent)
