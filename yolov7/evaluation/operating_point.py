"""Precision, recall and F1 at the one confidence where F1, averaged over classes, is best.

Detections are matched at IoU 0.50 as by the v7 metric (`v7_metric`), whose curves these are, but with the objects where
they truly lie. AP says how well a model ranks; this says what a user of it may expect, and which threshold to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolov7.evaluation.comparison import Comparison, Floats, ImageEvaluator, Integers
from yolov7.evaluation.v7_metric import V7Metric

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet


@dataclass(frozen=True, eq=False)
class OperatingPointResult:
    """Means over the K classes with objects, and each of these; all 0 for a class of which nothing right is found."""

    fitness = None

    confidence: float  # 0..1
    precision: float
    recall: float
    F1: float  # noqa: N815 - the metric's name; the mean of the classes' F1
    classes: Integers  # [K] indices, rising
    class_precision: Floats  # [K]
    class_recall: Floats  # [K]
    class_F1: Floats  # noqa: N815 - [K]

    def metrics(self) -> dict[str, float]:
        """The numbers that are followed over a run."""
        return {"precision": self.precision, "recall": self.recall, "F1": self.F1, "confidence": self.confidence}

    def text(self, names: Sequence[str]) -> str:
        """One line."""
        return (f"precision {self.precision:.3f}, recall {self.recall:.3f} and F1 {self.F1:.3f} at confidence "
                f"{self.confidence:.3f} (where F1 is best, IoU 0.50)")

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet | None = None) -> None:
        """It has no files."""

    def of_class(self, index: int) -> tuple[float, float, float] | None:
        """Precision, recall and F1 of a class; nothing where it has no objects."""
        (place,) = (self.classes == index).nonzero()
        if not place.size:
            return None
        return tuple(float(column[place[0]]) for column in (  # type: ignore[return-value]
            self.class_precision, self.class_recall, self.class_F1))


class OperatingPoint(ImageEvaluator):
    """The evaluator of it; the order of images does not matter, but where scores are equal."""

    name = "operating_point"

    def __init__(self) -> None:
        self._matches = V7Metric()

    def update(self, image: Comparison) -> None:
        """Match an image."""
        self._matches.update(image)

    def merge(self, other: OperatingPoint) -> None:
        """Add the images of another process."""
        self._matches.merge(other._matches)

    def result(self, image_set: ImageSet | None = None) -> OperatingPointResult:
        """Of all images so far."""
        found = self._matches.result()
        f1 = float(found.class_f1.mean()) if found.class_f1.size else 0.0
        # a curve's precision is 1 where nothing is found at all, which says nothing of a class
        precision = np.where(found.class_recall > 0, found.class_precision, 0)
        return OperatingPointResult(found.confidence if f1 > 0 else 0.0, float(precision.mean()) if f1 > 0 else 0.0,
                                    found.recall, f1, found.classes, precision, found.class_recall, found.class_f1)
