"""Samples with one red rectangle, for the tests of augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from image_records import NO_POLYGON, polygons_of

from yolov7.data.objects import Sample, no_objects
from yolov7.structures import ImageMeta

RED = np.array((220, 30, 30))


def make_sample(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, polygons: Sequence[np.ndarray], path: str = "x"
) -> Sample:
    """A sample without key points."""
    return Sample(image, no_objects().like(boxes, labels, polygons=polygons_of(polygons)), ImageMeta(path))


def rectangle_sample(
    box: tuple[int, int, int, int], size: tuple[int, int] = (100, 120), with_polygon: bool = True
) -> Sample:
    """One red rectangle on black."""
    image = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = RED
    polygon = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float32) if with_polygon else NO_POLYGON
    return make_sample(image, np.array([box], np.float32), np.array([1]), (polygon,))


def box_of_red(image: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(np.abs(image.astype(int) - RED).max(-1) < 60)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
