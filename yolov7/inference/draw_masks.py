"""Masks on images: each object filled half-transparently in the colour of its class, with a line along its edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from yolov7.data.images import cv2
from yolov7.inference.draw import class_colour, draw_boxes, draw_instances, draw_labels, line_width
from yolov7.inference.lettering import Colour
from yolov7.masks import Masks
from yolov7.structures import Instances

OPACITY = 0.45  # of what fills a mask
_SHADES = (0.0, 0.4, -0.4)  # of the objects of a class in turn: how much of white, or of black, their filling has


def draw_masks(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
    """Instance segmentation's `Overlay`: masks with the names of their classes, small objects in front of large ones.

    An object whose mask has no pixel is drawn as its bounding box, and so are instances without masks.
    """
    masks = found.extra.get("masks")
    if not isinstance(masks, Masks):
        return draw_instances(image, found, names, with_scores)
    masks = masks.to("cpu")
    areas = masks.area.numpy()
    painted = _painted(image, masks, found.labels.tolist(), np.argsort(-areas, kind="stable"))
    boxes, scores, labels = (column.detach().cpu().numpy() for column in (found.boxes, found.scores, found.labels))
    painted = draw_boxes(painted, boxes[areas == 0], labels[areas == 0], ("",) * len(names))
    return draw_labels(painted, boxes, labels, names, scores if with_scores else None)


def _painted(image: np.ndarray, masks: Masks, labels: Sequence[int], order: np.ndarray) -> np.ndarray:
    """A copy of the image with masks, those that come later in ``order`` in front."""
    canvas: np.ndarray = np.ascontiguousarray(image).copy()
    codes = np.zeros(canvas.shape[:2], np.uint16)  # 1 + 2 i inside of mask i, 2 + 2 i on its edge
    palette = np.zeros((1 + 2 * len(masks), 3), np.uint8)
    parts, line, seen = list(masks), line_width(canvas.shape), Counter[int]()
    for index in order.tolist():
        (left, top, right, bottom), pixels = parts[index]
        window, colour = codes[top:bottom, left:right], class_colour(labels[index])
        np.copyto(window, 1 + 2 * index, where=pixels)
        np.copyto(window, 2 + 2 * index, where=_edge(pixels, line))
        palette[1 + 2 * index] = _shaded(colour, _SHADES[seen[labels[index]] % len(_SHADES)])
        palette[2 + 2 * index] = colour
        seen[labels[index]] += 1
    paint = palette[codes]
    blended = cv2.addWeighted(canvas, 1 - OPACITY, paint, OPACITY, 0)
    cv2.copyTo(blended, (codes & 1).astype(np.uint8), canvas)
    cv2.copyTo(paint, ((codes > 0) & (codes & 1 == 0)).view(np.uint8), canvas)
    return canvas


def _shaded(colour: Colour, share: float) -> Colour:
    """A colour with a share of white, or of black where it is negative."""
    red, green, blue = (round((1 - abs(share)) * value + max(share, 0) * 255) for value in colour)
    return red, green, blue


def _edge(pixels: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask within ``width`` of its edge, and of that of its window."""
    if not pixels.size:
        return pixels
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(pixels.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    edge: np.ndarray = pixels & (inner == 0)
    return edge
