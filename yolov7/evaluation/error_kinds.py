"""What kinds of errors a model makes, and how much AP each kind costs (Bolya et al., TIDE, ECCV 2020).

At IoU 0.50 a detection that is not right is of the first of these kinds that fits:

- place: the object of its class that it overlaps most is near (IoU 0.10 to 0.50);
- class: it lies on an object of another class (at least 0.50);
- duplicate: it lies on an object of its class that a detection of a higher score has;
- background: nothing is there (below 0.10);
- both: an object of another class is near.

An object is missed where nothing found it, nor would an error of class or place if it were mended. What a kind costs is
how much AP50 rises when its errors are mended alone: those of class and place become right, but one of each object at
most, the others go away, and missed objects do not count. The costs do not add up to what is missing.

AP50 is COCO's (101 points of recall) over at most 100 detections of each image; regions that are marked as crowds are
no objects here, so that it may differ a little from the official one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolov7.evaluation.comparison import OF_BOXES, Comparison, Floats, ImageEvaluator, Integers, Similarity

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet

IOU, NEAR = 0.5, 0.1
MAX_DETECTIONS = 100  # of an image, the best ones, as in COCO's AP
RIGHT, PLACE, CLASS, DUPLICATE, BACKGROUND, BOTH = range(6)
KINDS = ("place", "class", "duplicate", "background", "both", "missed")  # the first five in the order of their numbers
POINTS = np.linspace(0, 1, 101)
EXAMPLES = 8  # of each kind: the most confident ones


class Example(NamedTuple):
    """An error that can be looked at."""

    path: str
    box: tuple[float, ...]  # what was found, or the object that was missed; native pixels
    label: int
    score: float  # of a missed object its area
    true_label: int  # of the object that it overlaps most; -1: none


@dataclass(eq=False)
class _Rows:
    """Of all images: detections, then objects."""

    labels: list[Integers] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)
    kinds: list[Integers] = field(default_factory=list)
    targets: list[Integers] = field(default_factory=list)  # the object that is found, or would be if mended; -1
    true_labels: list[Integers] = field(default_factory=list)
    true_sizes: list[Floats] = field(default_factory=list)  # root of the area of each object, pixels
    sizes: list[Floats] = field(default_factory=list)  # that of each detection


class ErrorKinds(ImageEvaluator):
    """The evaluator that sorts errors by their kinds; the order of images does not matter but for equal scores."""

    def __init__(self, num_classes: int, similarity: Similarity = OF_BOXES) -> None:
        self.similarity, self.name = similarity, similarity.name("kinds")
        self.num_classes = num_classes
        self._rows, self._objects = _Rows(), 0
        self.examples: dict[str, list[Example]] = {kind: [] for kind in KINDS}

    def update(self, image: Comparison) -> None:
        """Sort the detections of an image."""
        order = np.argsort(-image.scores, kind="stable")[:MAX_DETECTIONS]
        iou = image.iou[order].astype(np.float64)
        labels, scores, boxes = image.labels[order], image.scores[order], image.boxes[order]
        same = labels[:, None] == image.true_labels
        found = _matched(iou, same)  # [N] object of each right detection, or -1
        kinds, targets = _sorted_errors(iou, same, found)
        rows = self._rows
        rows.labels.append(labels)
        rows.scores.append(scores)
        rows.kinds.append(kinds)
        rows.targets.append(np.where(targets >= 0, targets + self._objects, -1))
        rows.true_labels.append(image.true_labels)
        rows.true_sizes.append(_roots(image.true_boxes))
        rows.sizes.append(_roots(boxes))
        self._objects += len(image.true_labels)
        self._show(image, order, kinds, targets, iou)

    def _show(self, image: Comparison, order: Integers, kinds: Integers, targets: Integers, iou: Floats) -> None:
        """Keep the examples that are better than those so far."""
        nearest = iou.argmax(1) if iou.shape[1] else np.zeros(len(iou), np.int64)
        for row in np.flatnonzero(kinds != RIGHT).tolist():
            place = int(order[row])
            near = bool(iou.shape[1]) and iou[row, nearest[row]] >= NEAR
            self._keep(KINDS[int(kinds[row]) - 1], Example(
                image.path, tuple(image.boxes[place].tolist()), int(image.labels[place]), float(image.scores[place]),
                int(image.true_labels[nearest[row]]) if near else -1))
        missed = np.setdiff1d(np.arange(len(image.true_labels)), targets)
        areas = _roots(image.true_boxes)
        for row in missed.tolist():
            self._keep("missed", Example(image.path, tuple(image.true_boxes[row].tolist()),
                                         int(image.true_labels[row]), float(areas[row]), int(image.true_labels[row])))

    def _keep(self, kind: str, example: Example) -> None:
        kept = self.examples[kind]
        if len(kept) < EXAMPLES or example.score > kept[-1].score:
            kept.append(example)
            kept.sort(key=lambda one: (-one.score, one.path, one.box))
            del kept[EXAMPLES:]

    def merge(self, other: ErrorKinds) -> None:
        """Add the images of another process."""
        mine, theirs = self._rows, other._rows
        mine.targets += [np.where(targets >= 0, targets + self._objects, -1) for targets in theirs.targets]
        for name in ("labels", "scores", "kinds", "true_labels", "true_sizes", "sizes"):
            getattr(mine, name).extend(getattr(theirs, name))
        self._objects += other._objects
        for kind, examples in other.examples.items():
            for example in examples:
                self._keep(kind, example)

    def result(self, image_set: ImageSet | None = None) -> ErrorKindsResult:
        """What each kind costs."""
        rows = self._rows
        return ErrorKindsResult(
            _whole(rows.labels), _real(rows.scores), _whole(rows.kinds), _whole(rows.targets), _whole(rows.true_labels),
            _real(rows.true_sizes), _real(rows.sizes), self.num_classes, self.examples, self.similarity.word)


@dataclass(frozen=True, eq=False)
class ErrorKindsResult:
    """N detections and M objects of all images, and what follows from them."""

    fitness = None

    labels: Integers  # [N]
    scores: Floats  # [N]
    kinds: Integers  # [N] 0 is right, then as `KINDS`
    targets: Integers  # [N] the object that is found, or would be if the error were mended; -1: none
    true_labels: Integers  # [M]
    true_sizes: Floats  # [M] root of the area, pixels
    sizes: Floats  # [N]
    num_classes: int
    examples: dict[str, list[Example]]
    word: str = "IoU"

    @property
    def missed(self) -> NDArray[np.bool_]:
        """``[M]``: objects that nothing found, nor would if it were mended."""
        missed = np.ones(len(self.true_labels), bool)
        missed[self.targets[self.targets >= 0]] = False
        return missed

    @property
    def counts(self) -> dict[str, int]:
        """Errors of each kind, those of low scores included."""
        return {**{kind: int((self.kinds == number).sum()) for number, kind in enumerate(KINDS[:-1], 1)},
                "missed": int(self.missed.sum())}

    @property
    def AP50(self) -> float:  # noqa: N802 - the metric's name
        """Of all classes with objects, 0..1."""
        return self._average_precision(self.labels, self.kinds == RIGHT, np.ones(len(self.scores), bool),
                                       self._positives(np.ones(len(self.true_labels), bool)))

    def costs(self) -> dict[str, float]:
        """How much AP50 rises when the errors of a kind are mended alone, 0..1."""
        before, right = self.AP50, self.kinds == RIGHT
        everything = self._positives(np.ones(len(self.true_labels), bool))
        found = {}
        for number, kind in enumerate(KINDS[:-1], 1):
            is_kind = self.kinds == number
            if number in (CLASS, PLACE):
                kept = self._one_for_each_object(right | is_kind) | ~(right | is_kind)
                labels = self.labels.copy()
                labels[is_kind] = self.true_labels[self.targets[is_kind]]
                after = self._average_precision(labels, right | is_kind, kept, everything)
            else:
                after = self._average_precision(self.labels, right, ~is_kind, everything)
            found[kind] = after - before
        ones = np.ones(len(self.scores), bool)
        found["missed"] = self._average_precision(self.labels, right, ones, self._positives(~self.missed)) - before
        return found

    def _positives(self, counted: NDArray[np.bool_]) -> Integers:
        positives: Integers = np.bincount(self.true_labels[counted], minlength=self.num_classes)
        return positives

    def _one_for_each_object(self, claims: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of the detections that claim an object the one of the highest score for each: bool ``[N]``."""
        rows = np.flatnonzero(claims)
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        _, first = np.unique(self.targets[rows], return_index=True)
        kept = np.zeros(len(self.scores), bool)
        kept[rows[first]] = True
        return kept

    def _average_precision(self, labels: Integers, right: NDArray[np.bool_], kept: NDArray[np.bool_],
                           positives: Integers) -> float:
        """The mean over the classes with objects."""
        values = [average_precision(self.scores[rows], right[rows], int(count))
                  for label, count in enumerate(positives) if count
                  for rows in (np.flatnonzero(kept & (labels == label)),)]
        return float(np.mean(values)) if values else 0.0

    def metrics(self) -> dict[str, float]:
        """What each kind costs."""
        return {f"cost_of_{kind}": cost for kind, cost in self.costs().items()}

    def text(self, names: Sequence[str]) -> str:
        """For people: a line for each kind."""
        counts = self.counts
        lines = [f"  {kind:11}{counts[kind]:7,}   {100 * cost:5.1f}" for kind, cost in self.costs().items()]
        return "\n".join([f"errors at {self.word} {IOU:.2f} by their kind, and how much AP50 (now "
                          f"{100 * self.AP50:.1f}) rises without them:", *lines])

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet | None = None) -> None:
        """It has no files."""


def average_precision(scores: Floats, right: NDArray[np.bool_], positives: int) -> float:
    """COCO's AP of one class at one IoU, 0..1: the mean precision at 101 values of recall."""
    if not positives or not len(scores):
        return 0.0
    hits = right[np.argsort(-scores, kind="stable")].astype(np.int64)
    found = hits.cumsum()
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(found / positives, POINTS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def _matched(iou: Floats, same: NDArray[np.bool_]) -> Integers:
    """The object of each detection, the best first: the free one of its class with the highest IoU of at least 0.50."""
    found = np.full(len(iou), -1)
    free = np.ones(iou.shape[1], bool)
    for row in np.flatnonzero((same & (iou >= IOU)).any(1)).tolist():
        fits = np.where(same[row] & free & (iou[row] >= IOU), iou[row], -1.0)
        best = int(fits.argmax())
        if fits[best] >= IOU:
            found[row], free[best] = best, False
    return found


def _sorted_errors(iou: Floats, same: NDArray[np.bool_], found: Integers) -> tuple[Integers, Integers]:
    """The kind of each detection, and the object that it has or would have if its error were mended."""
    count, objects = iou.shape
    own = np.where(same, iou, 0.0).max(1) if objects else np.zeros(count)
    other = np.where(same, 0.0, iou).max(1) if objects else np.zeros(count)
    kinds = np.select([found >= 0, (own >= NEAR) & (own < IOU), other >= IOU, own >= IOU, other < NEAR],
                      [RIGHT, PLACE, CLASS, DUPLICATE, BACKGROUND], BOTH)
    targets = found.copy()
    if objects:
        targets = np.where(kinds == CLASS, np.where(same, -1.0, iou).argmax(1), targets)
        targets = np.where(kinds == PLACE, np.where(same, iou, -1.0).argmax(1), targets)
    return kinds, targets


def _roots(boxes: NDArray[np.float32]) -> Floats:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    roots: Floats = np.sqrt(np.clip(sides, 0, None).prod(1))
    return roots


def _whole(parts: Sequence[Integers]) -> Integers:
    return np.concatenate([*parts, np.zeros(0, np.int64)])


def _real(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([*parts, np.zeros(0)])
