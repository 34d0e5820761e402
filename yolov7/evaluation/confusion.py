"""Which class is taken for which, what is missed and what is found where nothing is.

The right way round, unlike the reference implementation's (docs/reference.md, Confusion matrix): a row is what was
predicted, a column what it truly is, the last of each is background. Every detection above the confidence and every
object counts once, images without objects or without detections included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolov7.config import atomic_write
from yolov7.evaluation.comparison import OF_BOXES, Comparison, ImageJudge, Integers, Similarity
from yolov7.evaluation.plots import BACKGROUND, plot_confusion

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet

TABLE_CLASSES = 10  # up to here the matrix is a table that a terminal can show
CELL_EXAMPLES = 3  # of each cell
LISTED_ERRORS = 8  # with more classes, the most frequent ones of each kind


class ConfusionMatrix(ImageJudge):
    """The evaluator that counts what each object is taken for; `matrix` may be read at any time.

    ``matrix[predicted, true]`` is int64 ``[C + 1, C + 1]``; index C is background: row C holds missed objects, column
    C false detections, their corner stays 0. Detections count above ``confidence``, pairs above ``iou``, whatever
    their classes. Two detections of one place, for instance of two classes, are one match and one false detection.
    What is found in an iscrowd=1 annotation counts as false. The order of images does not matter.
    """

    def __init__(self, num_classes: int, confidence: float = 0.25, iou: float = 0.45,
                 similarity: Similarity = OF_BOXES) -> None:
        self.similarity, self.name = similarity, similarity.name("confusion")
        if num_classes < 1:
            raise ValueError(f"confusion matrix: {num_classes} classes; accepted: at least 1")
        self.num_classes, self.confidence, self.iou = self.rules = num_classes, confidence, iou
        self.matrix: Integers = np.zeros((num_classes + 1, num_classes + 1), np.int64)

    def update(self, image: Comparison) -> None:
        """Count an image; `ValueError` for classes that the matrix has no row for."""
        image = image.above(self.confidence)
        for labels in (image.labels, image.true_labels):
            if (outside := labels[(labels < 0) | (labels >= self.num_classes)]).size:
                raise ValueError(f"confusion matrix: class {outside[0]}; accepted: 0 to {self.num_classes - 1}")
        rows, columns = image.matches(self.iou, by_class=False).T
        truth = np.full(len(image.labels), self.num_classes)  # [N] background, unless matched
        truth[rows] = image.true_labels[columns]
        missed = np.delete(image.true_labels, columns)
        predicted = np.append(image.labels, np.full(len(missed), self.num_classes))
        np.add.at(self.matrix, (predicted, np.append(truth, missed)), 1)
        self.note(image, truth, columns)

    def note(self, image: Comparison, truth: Integers, columns: Integers) -> None:
        """Told of each image that was counted: the true class of its detections, int64 ``[N]``, which may be
        background, and the objects that are matched.
        """

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the images of another process; `ValueError` if that one counted by other rules."""
        if other.rules != self.rules:
            raise ValueError(f"confusion matrix: classes, confidence and IoU are {other.rules}; accepted: {self.rules}")
        self.matrix += other.matrix

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet | None = None) -> None:
        """Write ``confusion_matrix.png``, of masks ``confusion_matrix_segm.png``."""
        atomic_write(folder / f"{self.similarity.name('confusion_matrix')}.png", plot_confusion(self, names))

    def shares(self) -> NDArray[np.float64]:
        """The matrix normalised by truth, ``[C + 1, C + 1]``: columns add up to 1, those without entries are 0.

        The column of a class tells what becomes of its objects, the last one which classes are found in vain.
        """
        shares: NDArray[np.float64] = self.matrix / np.maximum(self.matrix.sum(0), 1)
        return shares

    def text(self, names: Sequence[str]) -> str:
        """For people: a table of up to `TABLE_CLASSES` classes, else a list of the most frequent errors."""
        title = f"confusion matrix at confidence {self.confidence:g} and {self.similarity.word} {self.iou:g}"
        if self.num_classes > TABLE_CLASSES:
            return "\n".join([f"{title}: the most frequent errors", "", *self._errors(names)])
        return "\n".join([f"{title}: rows are predicted, columns true", "", *self._table(names)])

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
            ("found where nothing is", self.matrix[:-1, -1:], lambda predicted, _: names[predicted]))
        return [line for kind in kinds for line in _most_frequent(*kind)]


class ConfusionExamples(ConfusionMatrix):
    """One that keeps examples of each cell that is an error: path, box and score, the highest scores first."""

    def __init__(self, num_classes: int, confidence: float = 0.25, iou: float = 0.45,
                 similarity: Similarity = OF_BOXES) -> None:
        super().__init__(num_classes, confidence, iou, similarity)
        self.examples: dict[tuple[int, int], list[tuple[float, str, tuple[float, ...]]]] = {}

    def note(self, image: Comparison, truth: Integers, columns: Integers) -> None:
        """See `ConfusionMatrix`."""
        for row in np.flatnonzero(image.labels != truth).tolist():
            self._keep((int(image.labels[row]), int(truth[row])),
                       (float(image.scores[row]), image.path, tuple(image.boxes[row].tolist())))
        for row in np.setdiff1d(np.arange(len(image.true_labels)), columns).tolist():
            area = float((image.true_boxes[row, 2:] - image.true_boxes[row, :2]).prod())
            self._keep((self.num_classes, int(image.true_labels[row])),
                       (area, image.path, tuple(image.true_boxes[row].tolist())))

    def _keep(self, cell: tuple[int, int], example: tuple[float, str, tuple[float, ...]]) -> None:
        kept = self.examples.setdefault(cell, [])
        kept.append(example)
        kept.sort(key=lambda one: (-one[0], *one[1:]))
        del kept[CELL_EXAMPLES:]

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the images of another process, and its examples."""
        super().merge(other)
        for cell, examples in getattr(other, "examples", {}).items():
            for example in examples:
                self._keep(cell, example)


def _most_frequent(kind: str, counts: Integers, name: Callable[[int, int], str]) -> list[str]:
    """A heading and the largest of the counts ``[predicted, true]``; equal ones in the order of the matrix."""
    order = np.argsort(-counts, axis=None, kind="stable")[:LISTED_ERRORS]
    cells = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    width = len(str(counts.max()))
    listed = [f"  {counts[cell]:>{width}}  {name(*cell)}" for cell in cells if counts[cell]]
    return [f"{kind}: {counts.sum()}", *listed]
