"""Skeletons on images: the key points of each object and the limbs between them, in its own bounding box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yolov7.data.images import cv2
from yolov7.inference.draw import draw_boxes, draw_instances, draw_labels, line_width
from yolov7.inference.lettering import Colour
from yolov7.keypoints import KeypointLayout, layout_of
from yolov7.structures import Instances

SHOWN_POINT = 0.5  # the score from which on a key point is seen
LEFT, RIGHT, MIDDLE, BORDER = (0, 190, 255), (255, 130, 0), (90, 225, 60), (20, 20, 20)  # of the object's own sides
MAX_SHARE = 0.02  # of the long side of an object, for the width of lines: small ones have thinner lines


def draw_skeletons(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
    """Pose's `Overlay`: key points of a score of 0.5 or more, the limbs between them, boxes and labels.

    The left side of an object (by the names of its points) is blue, its right side orange. The best is in front.
    Instances without key points are drawn as bounding boxes.
    """
    column = found.extra.get("keypoints")
    if column is None:
        return draw_instances(image, found, names, with_scores)
    points = column.detach().cpu().numpy().astype(np.float64)  # [N, K, 3]
    boxes, scores, labels = (part.detach().cpu().numpy() for part in (found.boxes, found.scores, found.labels))
    canvas = draw_boxes(image, boxes, labels, ("",) * len(names))
    layout = layout_of(found.facts, points.shape[1])
    line = round(1.5 * line_width(canvas.shape))
    for row in range(len(points))[::-1]:
        side = float((boxes[row, 2:] - boxes[row, :2]).max())
        _draw_skeleton(canvas, points[row], layout, max(1, min(line, round(MAX_SHARE * side))))
    return draw_labels(canvas, boxes, labels, names, scores if with_scores else None)


def _draw_skeleton(canvas: np.ndarray, points: NDArray[np.float64], layout: KeypointLayout, line: int) -> None:
    """One object's, with lines of that many pixels."""
    limits = np.array(canvas.shape[1::-1])
    shown = (points[:, 2] >= SHOWN_POINT) & np.isfinite(points[:, :2]).all(axis=1)
    places = np.clip(np.nan_to_num(points[:, :2]), -limits, 2 * limits).round().astype(int).tolist()
    sides = [side_of(name) for name in layout.names]
    limbs = [(places[a], places[b], _colour(sides[a], sides[b])) for a, b in layout.limbs if shown[a] and shown[b]]
    dots = [(places[k], _colour(sides[k], sides[k])) for k in np.flatnonzero(shown).tolist()]
    radius, border = line + (line > 1), max(1, round(line / 2))
    for start, end, _ in limbs:
        cv2.line(canvas, start, end, BORDER, line + 2 * border, cv2.LINE_AA)
    for place, _ in dots:
        cv2.circle(canvas, place, radius + border, BORDER, cv2.FILLED, cv2.LINE_AA)
    for start, end, colour in limbs:
        cv2.line(canvas, start, end, colour, line, cv2.LINE_AA)
    for place, colour in dots:
        cv2.circle(canvas, place, radius, colour, cv2.FILLED, cv2.LINE_AA)


def side_of(name: str) -> str:
    """``left``, ``right`` or '': the side of its object that a key point's name tells."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    for side in ("left", "right"):
        if side in words or side[0] in (words[0], words[-1]):
            return side
    return ""


def _colour(side: str, other: str) -> Colour:
    """Of a limb between points of two sides; one that belongs to none goes with the other."""
    both = {side, other} - {""}
    return {"left": LEFT, "right": RIGHT}.get(both.pop(), MIDDLE) if len(both) == 1 else MIDDLE
