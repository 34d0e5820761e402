"""The original's own average precision, the "v7 metric" (spec of evaluation, section 3).

It is near the official COCO score (`coco`) but not equal to it: a detection is matched with its best object only,
crowds and the limit of 100 detections are unknown, and the end of the recall axis is treated in another way. It
stands here to compare with numbers that the original printed; the COCO score is the reference.

K is the number of classes with objects, D that of detections in all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from yolov7.boxes import pairwise_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10, dtype=np.float32)  # as IoUs are: one that equals a threshold is below it
POINTS = np.linspace(0, 1, 1000)  # confidences and recalls at which the curves are given
RECALLS = np.linspace(0, 1, 101)  # of the integral
EPSILON = 1e-16  # of the original's F1
BEYOND = 0.01  # where precision reaches 0, above the last recall

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and objects of some pictures, once matched: all that average precision needs."""

    correct: NDArray[np.bool_]  # [D, 10] right at each of `IOU_THRESHOLDS`
    scores: Floats  # [D] 0..1
    labels: Integers  # [D]
    true_labels: Integers  # [T] one for each object
    images: int  # pictures seen, those without objects and detections included


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

    images: int  # pictures seen
    confidence: float  # 0..1, where F1 averaged over classes is best
    classes: Integers  # [K] indices, rising
    objects: Integers  # [K]
    class_precision: Floats  # [K] at `confidence` and IoU 0.50
    class_recall: Floats  # [K] likewise
    class_f1: Floats  # [K] likewise
    class_average_precision: Floats  # [K, 10] at each of `IOU_THRESHOLDS`
    curves: V7Curves

    @property
    def class_AP(self) -> Floats:  # noqa: N802 - the metric's name
        """``[K]``, mean over IoU 0.50:0.95."""
        return self.class_average_precision.mean(1)

    @property
    def class_AP50(self) -> Floats:  # noqa: N802
        """``[K]``, at IoU 0.50."""
        return self.class_average_precision[:, 0]

    @property
    def precision(self) -> float:
        """At `confidence` and IoU 0.50."""
        return _mean(self.class_precision)

    @property
    def recall(self) -> float:
        """At `confidence` and IoU 0.50."""
        return _mean(self.class_recall)

    @property
    def AP(self) -> float:  # noqa: N802
        """Mean over IoU 0.50:0.95."""
        return _mean(self.class_AP)

    @property
    def AP50(self) -> float:  # noqa: N802
        """At IoU 0.50."""
        return _mean(self.class_AP50)

    def text(self, names: Sequence[str]) -> str:
        """A table by class, for people; ``names[i]`` is that of class ``i``."""
        summary = [f"v7 metric: {self.images} pictures, P and R at confidence {self.confidence:.3f} and IoU 0.50"]
        if not self.objects.size:
            summary.append("The pictures have no objects: nothing to measure.")
        return "\n".join([*summary, "", *_table(self, names)])


class V7Metric:
    """Collects pictures one at a time; `result` may be asked for at any time.

    To share the work among processes give each its own collector, send the collectors (they pickle) to one place and
    `merge` them there. The order of pictures matters only where scores are equal: the earlier row comes first.
    """

    def __init__(self) -> None:
        self._parts: list[Matches] = []

    def add(
        self, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike, true_labels: ArrayLike
    ) -> None:
        """Add a picture: N detections and M objects, arrays or tensors in memory of the host.

        ``boxes [N, 4]`` and ``true_boxes [M, 4]`` are xyxy in native pixels, ``scores [N]`` 0..1, ``labels [N]`` and
        ``true_labels [M]`` class indices; zero rows where there are none. Raises `ValueError` for unequal lengths.
        """
        found = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
        truth = np.asarray(true_labels, np.int64)
        correct = match_detections(boxes, *found, true_boxes, truth)
        self._parts.append(Matches(correct, *found, truth, images=1))

    def merge(self, other: V7Metric) -> None:
        """Add the pictures of another collector behind those of this one."""
        self._parts.append(other.matches())

    def matches(self) -> Matches:
        """All that was collected, in order."""
        parts = [_NOTHING, *self._parts]
        return Matches(
            correct=np.concatenate([part.correct for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            true_labels=np.concatenate([part.true_labels for part in parts]),
            images=sum(part.images for part in parts),
        )

    def result(self, v5_metric: bool = False) -> V7Result:
        """The metric of all pictures so far; see `average_precision`."""
        return average_precision(self.matches(), v5_metric)


def match_detections(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike, true_labels: ArrayLike
) -> NDArray[np.bool_]:
    """Which detections of a picture are right, ``[N, 10]`` at each of `IOU_THRESHOLDS`; arguments as in `V7Metric.add`.

    By falling score, each detection claims the object of its class with the highest IoU if that is above 0.5. The first
    to claim an object gets it and is right at all thresholds below the IoU; later ones are wrong, even if another
    object would fit (quirk E22, kept). Equal scores and equal IoUs: the earlier row comes first.
    """
    found, truth = boxes_of(boxes), boxes_of(true_boxes)
    score, label, true_label = np.asarray(scores), np.asarray(labels), np.asarray(true_labels)
    check_lengths("v7 metric:", boxes=len(found), scores=len(score), labels=len(label))
    check_lengths("v7 metric:", true_boxes=len(truth), true_labels=len(true_label))
    correct = np.zeros((len(found), len(IOU_THRESHOLDS)), bool)
    if not (found.size and truth.size):
        return correct
    iou = pairwise_iou(torch.from_numpy(found), torch.from_numpy(truth)).numpy()  # [N, M]
    iou = np.where(label[:, None] == true_label, iou, 0)
    wanted, overlap = iou.argmax(1), iou.max(1)  # [N] the object each would claim
    order = np.argsort(-score, kind="stable")
    claims = order[overlap[order] > IOU_THRESHOLDS[0]]
    _, first = np.unique(wanted[claims], return_index=True)  # the first claim of each object
    winners = claims[first]
    correct[winners] = overlap[winners, None] > IOU_THRESHOLDS
    return correct


def average_precision(matches: Matches, v5_metric: bool = False) -> V7Result:
    """Average precision over 101 recalls, and precision and recall where F1 averaged over classes is best.

    Precision falls to 0 at 0.01 above the last recall (quirk E23, kept), with ``v5_metric`` along a line down to
    recall 1. Without any right detection all numbers and curves are 0.
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
                ranked = _Ranked.of(matches.correct[rows], matches.scores[rows], int(objects[k]))
                precision[k], recall[k] = ranked.over_confidence()
                ap[k] = ranked.average_precision(v5_metric)
                precision_at_recall[k] = ranked.precision_at(POINTS, 0, v5_metric)
    f1 = 2 * precision * recall / (precision + recall + EPSILON)
    best = int(f1.mean(0).argmax()) if len(classes) else 0
    return V7Result(
        images=matches.images,
        confidence=float(POINTS[best]),
        classes=classes,
        objects=objects,
        class_precision=precision[:, best],
        class_recall=recall[:, best],
        class_f1=f1[:, best],
        class_average_precision=ap,
        curves=V7Curves(POINTS, precision, recall, f1, precision_at_recall),
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """One class: precision and recall if the list of its detections, best first, were cut behind each of them."""

    scores: Floats  # [D] falling
    precision: Floats  # [D, 10]
    recall: Floats  # [D, 10]

    @staticmethod
    def of(correct: NDArray[np.bool_], scores: Floats, objects: int) -> _Ranked:
        right = correct.cumsum(0)
        return _Ranked(scores, right / np.arange(1, len(right) + 1)[:, None], right / objects)

    def over_confidence(self) -> tuple[Floats, Floats]:
        """Precision and recall at IoU 0.50 ``[1000]``; above the highest score nothing is found, and nothing wrong."""
        precision = np.interp(-POINTS, -self.scores, self.precision[:, 0], left=1)  # `interp` wants rising places
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
        return (np.diff(RECALLS) * (curves[:, 1:] + curves[:, :-1]) / 2).sum(1)


_NOTHING = Matches(
    np.zeros((0, len(IOU_THRESHOLDS)), bool), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), images=0
)


def boxes_of(boxes: ArrayLike) -> NDArray[np.float32]:
    """``[N, 4]``, a copy: torch warns of arrays that it may not write to."""
    return np.asarray(boxes, np.float32).reshape(-1, 4).copy()


def check_lengths(what: str, **lengths: int) -> None:
    """Raise `ValueError`, which begins with ``what``, unless all lengths are the same."""
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"{what} {found}; accepted: one for each box")


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _table(result: V7Result, names: Sequence[str]) -> list[str]:
    present = [names[index] for index in result.classes]
    absent = [name for index, name in enumerate(names) if index not in result.classes]
    width = max(len(name) for name in ("class", "all", *present))
    columns = (result.class_precision, result.class_recall, result.class_AP, result.class_AP50)
    total = (result.precision, result.recall, result.AP, result.AP50)
    rows = zip(("all", *present), (result.objects.sum(), *result.objects), (total, *zip(*columns, strict=True)),
               strict=True)
    lines = [f"{'class':<{width}}{'objects':>9}{'P':>7}{'R':>7}{'AP':>7}{'AP50':>7}"]
    lines += [f"{name:<{width}}{objects:>9}" + "".join(f"{v:7.3f}" for v in scores) for name, objects, scores in rows]
    if absent:
        lines.append(f"without objects, not counted ({len(absent)}): {', '.join(absent)}")
    return lines
