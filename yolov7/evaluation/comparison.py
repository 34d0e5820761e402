"""What was found in an image beside what is there: what the evaluators of single images begin with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from yolov7.boxes import pairwise_iou
from yolov7.evaluation.coco_scoring import BOXES

if TYPE_CHECKING:
    from typing_extensions import Self

    from yolov7.data.image_set import ImageSet
    from yolov7.structures import Instances

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """N detections of an image, in the order in which they were given, beside its M objects."""

    boxes: NDArray[np.float32]  # [N, 4] xyxy native pixels
    scores: Floats  # [N] 0..1
    labels: Integers  # [N]
    true_boxes: NDArray[np.float32]  # [M, 4] xyxy native pixels
    true_labels: Integers  # [M]
    path: str = ""
    similarity: NDArray[np.float32] | None = None  # [N, M] 0..1 where it is not the IoU of the boxes
    shapes: tuple[Any, Any] | None = None  # masks or key points of the detections and of the objects, to be drawn

    @staticmethod
    def of(boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike, true_labels: ArrayLike,
           path: str = "") -> Comparison:
        """Copies of arrays, or of tensors in memory of the host; `ValueError` for unequal lengths."""
        found, truth = (np.asarray(rows, np.float32).reshape(-1, 4).copy() for rows in (boxes, true_boxes))
        score = np.asarray(scores, np.float64).copy()
        label, true_label = (np.asarray(column, np.int64).copy() for column in (labels, true_labels))
        _check_lengths(boxes=len(found), scores=len(score), labels=len(label))
        _check_lengths(true_boxes=len(truth), true_labels=len(true_label))
        return Comparison(found, score, label, truth, true_label, path)

    def above(self, confidence: float) -> Comparison:
        """Without detections of a score up to ``confidence``."""
        sure = self.scores.astype(np.float32) > np.float32(confidence)  # in float32, as scores are: equal is not above
        rows = {name: None if value is None else value[sure] for name, value in (
            ("boxes", self.boxes), ("scores", self.scores), ("labels", self.labels), ("similarity", self.similarity))}
        shapes = None if self.shapes is None else (self.shapes[0][torch.from_numpy(sure)], self.shapes[1])
        return replace(self, **rows, shapes=shapes)  # type: ignore[arg-type]

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """``[N, M]``, for each detection and object."""
        same: NDArray[np.bool_] = self.labels[:, None] == self.true_labels
        return same

    @property
    def iou(self) -> NDArray[np.float32]:
        """``[N, M]``, of each detection and object: of boxes, or what stands for it."""
        if self.similarity is not None:
            return self.similarity
        iou: NDArray[np.float32] = pairwise_iou(*map(torch.from_numpy, (self.boxes, self.true_boxes))).numpy()
        return iou

    def matches(self, iou: float, by_class: bool) -> Integers:
        """Pairs of a detection and an object, ``[P, 2]`` rows of each: the highest IoU first, each row at most once.

        Pairs need an IoU above ``iou`` and, with ``by_class``, the same class. Equal IoUs: the higher score first,
        then a pair of one class, then the earlier detection, then the earlier object.
        """
        overlap, same = self.iou, self.same_class
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


class Similarity:
    """How alike detections and objects are: the IoU of their boxes, unless another class says otherwise."""

    kind = BOXES  # one of `coco_scoring.KINDS`
    word = "IoU"

    def compare(self, found: Instances, image_set: ImageSet, index: int) -> Comparison:
        """The native detections of an image beside its objects."""
        truth = image_set.objects_of(index)
        return Comparison.of(found.boxes, found.scores, found.labels, truth.boxes, truth.labels, image_set.paths[index])

    def name(self, word: str) -> str:
        """What something of boxes is called where it is of this: ``confusion_segm``."""
        return word if self.kind == BOXES else f"{word}_{self.kind}"


OF_BOXES = Similarity()


class ImageEvaluator:
    """An evaluator that looks at one image after the other, with a method ``update`` for each."""

    similarity = OF_BOXES  # what is compared

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        """The native detections of an image."""
        self.update(self.similarity.compare(found, image_set, index))

    def update(self, image: Comparison) -> None:
        """Take in an image."""
        raise NotImplementedError


class ImageJudge(ImageEvaluator):
    """One whose result is to be looked at: it is the evaluator itself and has no numbers."""

    fitness = None

    def result(self, image_set: ImageSet | None = None) -> Self:
        """It may be asked for at any time."""
        return self

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}


def _check_lengths(**lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"an image with {found}; accepted: one for each box")
