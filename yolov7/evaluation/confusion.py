"""Which class is taken for which, what is missed and what is found where nothing is (spec of evaluation, section 4).

The right way round, unlike the original's (quirk E6): a row is what was predicted, a column what it truly is, the
last of each is background. Every detection above the confidence and every object counts once, pictures without
objects or without detections included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from yolov7.boxes import pairwise_iou
from yolov7.evaluation.v7_metric import boxes_of, check_lengths

BACKGROUND = "background"
TABLE_CLASSES = 10  # up to here the matrix is a table that a terminal can show
LISTED_ERRORS = 8  # with more classes, the most frequent ones of each kind

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


# --- matching --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Picture:
    """N detections above a confidence, in the order in which they were given, and M objects of one picture."""

    boxes: Floats  # [N, 4] xyxy native pixels
    scores: Floats  # [N] 0..1
    labels: Integers  # [N]
    true_boxes: Floats  # [M, 4] xyxy native pixels
    true_labels: Integers  # [M]

    @staticmethod
    def of(boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike, true_labels: ArrayLike,
           confidence: float) -> Picture:
        """Copies, without detections of a score up to ``confidence``; `ValueError` for unequal lengths."""
        found, score, label = boxes_of(boxes), np.asarray(scores, np.float32), np.asarray(labels, np.int64)
        truth, true_label = boxes_of(true_boxes), np.asarray(true_labels, np.int64)
        check_lengths("a picture with", boxes=len(found), scores=len(score), labels=len(label))
        check_lengths("a picture with", true_boxes=len(truth), true_labels=len(true_label))
        sure = score > np.float32(confidence)  # in float32, as scores are: equal is not above
        return Picture(found[sure], score[sure], label[sure], truth.copy(), true_label.copy())

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """``[N, M]``, for each detection and object."""
        return self.labels[:, None] == self.true_labels

    def matches(self, iou: float, by_class: bool) -> Integers:
        """Pairs of a detection and an object, ``[P, 2]`` rows of each: the highest IoU first, each row at most once.

        Pairs need an IoU above ``iou`` and, with ``by_class``, the same class. Equal IoUs: the higher score first,
        then a pair of one class, then the earlier detection, then the earlier object.
        """
        if not (self.boxes.size and self.true_boxes.size):
            return np.zeros((0, 2), np.int64)
        overlap = pairwise_iou(torch.from_numpy(self.boxes), torch.from_numpy(self.true_boxes)).numpy()  # [N, M]
        same = self.same_class
        fits = overlap > np.float32(iou)
        rows, columns = np.nonzero(fits & same if by_class else fits)
        order = np.lexsort((columns, rows, ~same[rows, columns], -self.scores[rows], -overlap[rows, columns]))
        found: dict[int, int] = {}
        taken: set[int] = set()
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if row not in found and column not in taken:
                found[row] = column
                taken.add(column)
        return np.array(list(found.items()), np.int64).reshape(-1, 2)


# --- matrix ----------------------------------------------------------------------------------------------------


class ConfusionMatrix:
    """Collects pictures one at a time; `matrix` may be read at any time.

    ``matrix[predicted, true]`` is int64 ``[C + 1, C + 1]``; index C is background: row C holds missed objects, column
    C false detections, their corner stays 0. Detections count above ``confidence``, pairs above ``iou``, whatever
    their classes. Two detections of one place, for instance of two classes, are one match and one false detection.
    Crowds are no objects: what is found in them counts as false.

    To share the work among processes give each its own collector, send the collectors (they pickle) to one place and
    `merge` them there; the order of pictures does not matter.
    """

    def __init__(self, num_classes: int, confidence: float = 0.25, iou: float = 0.45) -> None:
        if num_classes < 1:
            raise ValueError(f"confusion matrix: {num_classes} classes; accepted: at least 1")
        self.num_classes = num_classes
        self.confidence = confidence
        self.iou = iou
        self.matrix: Integers = np.zeros((num_classes + 1, num_classes + 1), np.int64)

    def add(
        self, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike, true_labels: ArrayLike
    ) -> None:
        """Add a picture: N detections and M objects, arrays or tensors in memory of the host.

        ``boxes [N, 4]`` and ``true_boxes [M, 4]`` are xyxy in native pixels, ``scores [N]`` 0..1, ``labels [N]`` and
        ``true_labels [M]`` class indices; zero rows where there are none. Raises `ValueError` for unequal lengths and
        for classes that the matrix has no row for.
        """
        picture = Picture.of(boxes, scores, labels, true_boxes, true_labels, self.confidence)
        self._check_classes(picture.labels)
        self._check_classes(picture.true_labels)
        rows, columns = picture.matches(self.iou, by_class=False).T
        truth = np.full(len(picture.labels), self.num_classes)  # [N] background, unless matched
        truth[rows] = picture.true_labels[columns]
        missed = np.delete(picture.true_labels, columns)
        predicted = np.append(picture.labels, np.full(len(missed), self.num_classes))
        np.add.at(self.matrix, (predicted, np.append(truth, missed)), 1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the pictures of another collector; `ValueError` if that one counts by other rules."""
        rules = [(m.num_classes, m.confidence, m.iou) for m in (self, other)]
        if rules[0] != rules[1]:
            raise ValueError(f"confusion matrix: classes, confidence and IoU are {rules[1]}; accepted: {rules[0]}")
        self.matrix += other.matrix

    def shares(self) -> NDArray[np.float64]:
        """The matrix normalised by truth, ``[C + 1, C + 1]``: columns add up to 1, those without entries are 0.

        The column of a class tells what becomes of its objects, the last one which classes are found in vain.
        """
        return self.matrix / np.maximum(self.matrix.sum(0), 1)

    def text(self, names: Sequence[str]) -> str:
        """For people: a table of up to `TABLE_CLASSES` classes, else a list of the most frequent errors."""
        title = f"confusion matrix at confidence {self.confidence:g} and IoU {self.iou:g}"
        if self.num_classes > TABLE_CLASSES:
            return "\n".join([f"{title}: the most frequent errors", "", *self._errors(names)])
        return "\n".join([f"{title}: rows are predicted, columns true", "", *self._table(names)])

    def _check_classes(self, labels: Integers) -> None:
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if outside.size:
            raise ValueError(f"confusion matrix: class {outside[0]}; accepted: 0 to {self.num_classes - 1}")

    def _table(self, names: Sequence[str]) -> list[str]:
        head = [*names[: self.num_classes], BACKGROUND]
        cells = [[str(count) for count in row] for row in self.matrix.tolist()]
        cells[-1][-1] = "-"  # cannot be counted
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        first = max(map(len, head))
        rows = zip(("", *head), (head, *cells), strict=True)
        return [f"{name:<{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row, widths, strict=True))
                for name, row in rows]

    def _errors(self, names: Sequence[str]) -> list[str]:
        swapped = self.matrix[:-1, :-1].copy()
        np.fill_diagonal(swapped, 0)
        kinds: tuple[tuple[str, Integers, Callable[[int, int], str]], ...] = (
            ("found as another class", swapped, lambda predicted, true: f"{names[true]} as {names[predicted]}"),
            ("missed", self.matrix[-1:, :-1], lambda _, true: names[true]),
            ("found where nothing is", self.matrix[:-1, -1:], lambda predicted, _: names[predicted]),
        )
        return [line for kind in kinds for line in _most_frequent(*kind)]


def _most_frequent(kind: str, counts: Integers, name: Callable[[int, int], str]) -> list[str]:
    """A heading and the largest of the counts ``[predicted, true]``; equal ones in the order of the matrix."""
    order = np.argsort(-counts, axis=None, kind="stable")[:LISTED_ERRORS]
    cells = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    width = len(str(counts.max()))
    listed = [f"  {counts[cell]:>{width}}  {name(*cell)}" for cell in cells if counts[cell]]
    return [f"{kind}: {counts.sum()}", *listed]
