"""Which images are drawn more often: those of rare and badly found classes (docs/reference.md, Image weights)."""

from __future__ import annotations

import numpy as np

from yolov7.data.image_set import ImageSet
from yolov7.evaluation.coco import CocoResult


def image_weights(image_set: ImageSet, scores: np.ndarray) -> np.ndarray:
    """How likely each image is to be drawn (docs/reference.md, Image weights): float64 ``[I]``, sum 1.

    The sum over its objects of ``(1 - AP)^2 / frequency`` of their classes; ``scores`` ``[C]`` are the APs of the last
    evaluation, 0 before the first.
    """
    labels = image_set.objects.labels
    counts = np.bincount(labels, minlength=len(image_set.names))
    of_class = (1 - scores) ** 2 / np.maximum(counts, 1)
    weights = np.bincount(image_set.image_index, of_class[labels], minlength=len(image_set))
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(image_set), 1 / len(image_set))


def class_scores(result: CocoResult) -> np.ndarray:
    """AP of each class ``[C]``; the mean over all where a class has no objects."""
    return np.array([row.AP if row.AP >= 0 else result.AP for row in result.per_class])
