"""Facts of the boxes of a split that a look at it should show: sizes, places, and objects that are odd."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from yolov7.boxes import pairwise_iou
from yolov7.data.anchor_fit import TINY, native_sizes, object_sizes
from yolov7.data.image_set import ImageSet

HUGE = 0.9  # of the image
LONG = 20.0  # ratio of sides, from which on warped objects are dropped in training
DOUBLED = 0.85  # IoU of two boxes of one class
MAX_COMPARED = 2000  # objects of an image that are compared with each other
GRID = 32  # cells of a map of places


@dataclass(frozen=True)
class OddObjects:
    """Objects of one kind of oddness, by their rows in the split's table."""

    kind: str
    meaning: str
    rows: np.ndarray  # int64 [K], the oddest first


def places(image_set: ImageSet) -> np.ndarray:
    """How many objects have their centre in each cell of a grid over all images: int64 ``[GRID, GRID]``, top first."""
    corners = image_set.objects.boxes.astype(np.float64)
    limits = image_set.sizes[image_set.image_index][:, ::-1]  # width, height
    cells = np.clip((corners[:, :2] + corners[:, 2:]) / 2 / np.maximum(limits, 1) * GRID, 0, GRID - 1).astype(int)
    return np.bincount(cells[:, 1] * GRID + cells[:, 0], minlength=GRID * GRID).reshape(GRID, GRID)


def odd_objects(image_set: ImageSet, image_size: int) -> list[OddObjects]:
    """Objects that are tiny at ``image_size``, huge, long, or doubled; kinds without one are left out. No crowds."""
    sizes, limits = native_sizes(image_set), image_set.sizes[image_set.image_index][:, ::-1]
    seen = object_sizes(image_set, image_size).min(1)
    shorter, longer = sizes.min(1), sizes.max(1)
    shares = sizes.prod(1) / np.maximum(limits.prod(1), 1)
    ratios = longer / np.maximum(shorter, 1e-9)
    single = ~image_set.objects.crowd
    overlap = _overlap_in_class(image_set)
    found = [
        OddObjects("tiny", f"a side under {TINY:g} px at {image_size} px: hardly ever found",
                   _ranked(single & (seen < TINY), seen)),
        OddObjects("huge", f"more than {HUGE:.0%} of the image", _ranked(single & (shares > HUGE), -shares)),
        OddObjects("long", f"one side more than {LONG:g} times the other", _ranked(single & (ratios > LONG), -ratios)),
        OddObjects("doubled", f"an IoU above {DOUBLED:g} with another object of its class: labelled twice?",
                   _ranked(single & (overlap > DOUBLED), -overlap))]
    return [odd for odd in found if len(odd.rows)]


def _ranked(chosen: np.ndarray, order: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(chosen)
    ranked: np.ndarray = rows[np.argsort(order[rows], kind="stable")]
    return ranked


def _overlap_in_class(image_set: ImageSet) -> np.ndarray:
    """The highest IoU of each object with an earlier one of its image and class: float64 ``[T]``."""
    found = np.zeros(len(image_set.objects))
    offsets = image_set.offsets.tolist()
    for first, end in zip(offsets[:-1], offsets[1:], strict=True):
        if not 1 < end - first <= MAX_COMPARED:
            continue
        boxes = torch.from_numpy(image_set.objects.boxes[first:end].astype(np.float64))
        labels, crowd = image_set.objects.labels[first:end], image_set.objects.crowd[first:end]
        iou = pairwise_iou(boxes, boxes).numpy()
        iou *= (labels[:, None] == labels) & ~crowd & np.tri(end - first, k=-1, dtype=bool)
        found[first:end] = iou.max(1)
    return found
