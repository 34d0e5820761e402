"""Masks and key points on the sheet of the worst images: wrong ones in the colour of their class, others in white."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov7.data.images import cv2
from yolov7.evaluation.coco_scoring import KEYPOINTS, MASKS
from yolov7.inference.draw import class_colour
from yolov7.inference.lettering import Colour
from yolov7.inference.sheet import PAPER
from yolov7.masks import Masks, Rle, masks_of_rles

SHOWN_VISIBILITY = 0.5  # of key points that were found; those of objects have 0, 1 or 2
Ratio = tuple[float, float]  # pixels of the canvas for a native one: x, y
# canvas, masks or key points of N instances, labels [N], which are wrong [N], ratio: drawn on the canvas
Mark = Callable[[np.ndarray, Any, NDArray[np.int64], NDArray[np.bool_], Ratio], None]


def find_mark(kind: str, limbs: Sequence[tuple[int, int]]) -> Mark | None:
    """What draws instances of a kind beside their boxes; nothing for boxes themselves."""
    if kind == KEYPOINTS:
        return partial(mark_skeletons, limbs=limbs)
    return mark_masks if kind == MASKS else None


def mark_masks(canvas: np.ndarray, masks: Masks | Sequence[Rle], labels: NDArray[np.int64], wrong: NDArray[np.bool_],
               ratio: Ratio) -> None:
    """Outlines of masks, those of holes too."""
    if not isinstance(masks, Masks):
        masks = masks_of_rles(masks, tuple(masks[0]["size"]) if masks else (0, 0))
    for index, (label, is_wrong) in enumerate(zip(labels.tolist(), wrong.tolist(), strict=True)):
        rings = [ring for outer, holes in masks.polygons(index) for ring in (outer, *holes)]
        scaled = [np.round(ring * np.array(ratio)).astype(np.int32) for ring in rings]
        cv2.polylines(canvas, scaled, True, *_pen(label, is_wrong), lineType=cv2.LINE_AA)


def mark_skeletons(canvas: np.ndarray, keypoints: Any, labels: NDArray[np.int64], wrong: NDArray[np.bool_],
                   ratio: Ratio, limbs: Sequence[tuple[int, int]] = ()) -> None:
    """Limbs between key points that are visible enough, and the points themselves."""
    for points, label, is_wrong in zip(np.asarray(keypoints), labels.tolist(), wrong.tolist(), strict=True):
        colour, line = _pen(label, is_wrong)
        places = np.round(points[:, :2] * np.array(ratio)).astype(int).tolist()
        shown = (points[:, 2] >= SHOWN_VISIBILITY).tolist()
        for start, end in limbs:
            if shown[start] and shown[end]:
                cv2.line(canvas, places[start], places[end], colour, line, cv2.LINE_AA)
        for place, is_shown in zip(places, shown, strict=True):
            if is_shown:
                cv2.circle(canvas, place, 1 + line, colour, cv2.FILLED, cv2.LINE_AA)


def _pen(label: int, is_wrong: bool) -> tuple[Colour, int]:
    return (class_colour(label), 2) if is_wrong else (PAPER, 1)
