"""Bounding boxes and labels on images."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from yolov7.data.images import cv2
from yolov7.inference.labels import place_labels
from yolov7.inference.lettering import Colour, Plate, plate_of
from yolov7.structures import Instances

# image uint8 [H, W, 3] RGB, instances in its pixels, class names, whether scores are written -> a copy with them drawn;
# a class whose name is '' has no label
Overlay = Callable[[np.ndarray, Instances, Sequence[str], bool], np.ndarray]

MIN_TEXT = 0.35  # font scale; smaller letters cannot be read
SMALLER = 0.7  # letters of labels that have no room
MIN_ROUNDED = 0.01  # lower scores are not written with two decimals
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, never come close to each other
_SHADES = ((0.95, 1.0), (0.55, 0.95), (0.9, 0.65), (0.45, 0.7), (0.75, 0.85))  # saturation, value


def class_colour(label: int) -> Colour:
    """The colour of a class, 0 ... 255 RGB: the same in every run, far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, *_SHADES[label // 3 % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def class_name(label: int, names: Sequence[str]) -> str:
    """The name of a class; its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def draw_instances(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
    """Detection's `Overlay`: bounding boxes with the names of their classes, the best in front."""
    boxes, scores, labels = (t.detach().cpu().numpy() for t in (found.boxes, found.scores, found.labels))
    return draw_boxes(image, boxes, labels, names, scores if with_scores else None)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None = None,
    min_line: int = 1,
) -> np.ndarray:
    """A copy of an image (uint8 ``[H, W, 3]`` RGB) with boxes and the names of their classes.

    ``boxes`` are ``[N, 4]`` xyxy pixels, ``labels`` ``[N]``, ``scores`` ``[N]``; the first box is in front. Boxes may
    leave the image. Lines are ``min_line`` pixels wide, or more in large images. Labels do not cover each other; what
    has no room is left out (`yolov7.inference.labels`).
    """
    canvas: np.ndarray = np.ascontiguousarray(image).copy()
    corners, shown = _corners(boxes, canvas.shape[:2])
    line = max(min_line, line_width(canvas.shape))
    for index in shown[::-1]:
        left, top, right, bottom = corners[index].tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), class_colour(int(labels[index])), line)
    _draw_labels(canvas, corners[shown], labels[shown], names, None if scores is None else scores[shown])
    return canvas


def line_width(shape: tuple[int, ...]) -> int:
    """Pixels of lines on an image (height, width, ...), in proportion to its sides."""
    return max(1, round(0.0017 * sum(shape[:2])))


def draw_labels(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str],
                scores: np.ndarray | None = None) -> np.ndarray:
    """As `draw_boxes`, without the boxes: for an image that has them already."""
    canvas: np.ndarray = np.ascontiguousarray(image).copy()
    corners, shown = _corners(boxes, canvas.shape[:2])
    _draw_labels(canvas, corners[shown], labels[shown], names, None if scores is None else scores[shown])
    return canvas


def _corners(boxes: np.ndarray, size: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners as whole pixels within the image ``[N, 4]``, and the indices of the boxes that it has a part of."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = size
    corners = np.round(np.clip(boxes, 0, (width - 1, height - 1) * 2)).astype(np.int64)
    inside = (boxes[:, 2:] >= 0).all(axis=1) & (boxes[:, :2] < (width, height)).all(axis=1)
    return corners, np.flatnonzero(inside)


def _draw_labels(canvas: np.ndarray, corners: NDArray[np.int64], labels: np.ndarray, names: Sequence[str],
                 scores: np.ndarray | None) -> None:
    height, width = canvas.shape[:2]
    scale = max(MIN_TEXT, 0.0004 * (height + width))  # in proportion to the sides, as is the stroke
    scales = sorted({scale, max(MIN_TEXT, SMALLER * scale)}, reverse=True)
    texts = [_text(int(label), names, None if scores is None else scores[row]) for row, label in enumerate(labels)]
    plates = {text: [plate_of(text, scale) for scale in scales] for text in set(texts) if text}
    choices: list[Sequence[Plate]] = [plates.get(text, ()) for text in texts]
    for label, place in zip(labels, place_labels(corners, choices, (height, width)), strict=True):
        if place:
            plate, left, top = place
            plate.draw(canvas, left, top, class_colour(int(label)))


def _text(label: int, names: Sequence[str], score: float | None) -> str:
    name = class_name(label, names)
    if not name or score is None:
        return name
    return f"{name} {score:.2f}" if score >= MIN_ROUNDED else f"{name} {score:.1g}"
