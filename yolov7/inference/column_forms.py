"""How the columns of tasks are written: in JSON, in tables, in label files, in COCO's results.

Masks are COCO's run lengths in JSON, a polygon in label files, and their area in tables, which have no room for them.
Key points have x, y and a score each. Any other column is its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.data.coco_annotations import ShapeError, join_parts
from yolov7.inference.draw_skeletons import SHOWN_POINT
from yolov7.keypoints import layout_of
from yolov7.masks import Masks
from yolov7.structures import Instances

TRACK = "track"  # the column of objects that are followed
VISIBLE, NOT_LABELLED = (2.0,), (0.0, 0.0, 0.0)
MAX_LINES = 500  # of the polygon of one mask; the longest ones stay


def json_values(found: Instances) -> dict[str, list[Any]]:
    """Of each column its key in JSON and the values of all detections."""
    values: dict[str, list[Any]] = {}
    for name, column in found.extra.items():
        if isinstance(column, Masks):
            values["segmentation" if name == "masks" else name] = column.rles
        elif name == "keypoints":
            values[name] = [[[round(x, 2), round(y, 2), round(score, 5)] for x, y, score in points]
                            for points in column.tolist()]
        else:
            values[name] = [rounded(value) for value in column.tolist()]
    return values


def coco_values(found: Instances) -> list[dict[str, Any]]:
    """What COCO's results have beside the box of each detection: ``segmentation``, ``keypoints``."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(found))]
    if isinstance(masks := found.extra.get("masks"), Masks):
        for row, rle in zip(rows, masks.rles, strict=True):
            row["segmentation"] = rle
    if TRACK in found.extra:
        for row, track in zip(rows, found.extra[TRACK].tolist(), strict=True):
            row["track_id"] = track
    if "keypoints" in found.extra:
        for row, points in zip(rows, found.extra["keypoints"].flatten(1).tolist(), strict=True):
            row["keypoints"] = [round(value, 3) for value in points]
    return rows


def table_columns(found: Instances) -> dict[str, list[float]]:
    """The columns of a table, one number a detection.

    ``NAME_area`` of masks, in pixels; ``POINT_x``, ``POINT_y``, ``POINT_score`` of key points; else ``NAME_0``, ...
    """
    table: dict[str, list[float]] = {}
    for name, column in found.extra.items():
        if isinstance(column, Masks):
            table[f"{name}_area"] = column.area.tolist()
            continue
        if name == TRACK:
            table[name] = column.tolist()
            continue
        width = math.prod(column.shape[1:])
        heads = [f"{name}_{index}" for index in range(width)]
        if name == "keypoints":
            points = layout_of(found.facts, column.shape[1]).names
            heads = [f"{point}_{kind}" for point in points for kind in ("x", "y", "score")]
        numbers = column.reshape(len(column), width).tolist()
        table |= {head: [rounded(row[index]) for row in numbers] for index, head in enumerate(heads)}
    return table


def rounded(value: Any) -> Any:
    """A number, or numbers in lists, to 5 decimals."""
    return [rounded(part) for part in value] if isinstance(value, list) else round(value, 5)


# --- label files -----------------------------------------------------------------------------------------------


def label_values(found: Instances, size: tuple[int, int]) -> list[list[float]]:
    """The numbers behind the class of each detection in a label file, by the image's ``size`` (height, width).

    Box ``cx cy w h`` and, with key points, ``x y v`` of each, v 2 where it is seen and all three 0 where not; with
    masks a polygon ``x y x y ...`` instead of the box, unless the mask is empty.
    """
    height, width = size
    scale = found.boxes.new_tensor([width, height, width, height])
    rows: list[list[float]] = (xyxy_to_cxcywh(found.boxes) / scale).tolist()
    masks = found.extra.get("masks")
    if "keypoints" in found.extra:
        rows = [[*row, *_labelled(points, size)] for row, points in zip(rows, found.extra["keypoints"], strict=True)]
    elif isinstance(masks, Masks):
        lines = [polygon_of(masks, index) / (width, height) for index in range(len(masks))]
        rows = [line.reshape(-1).tolist() or row for line, row in zip(lines, rows, strict=True)]
    return rows


def tracks_of(found: Instances) -> list[list[int]]:
    """The number of each detection, alone in a list; empty lists where objects are not followed."""
    return [[track] for track in found.extra[TRACK].tolist()] if TRACK in found.extra else [[]] * len(found)


def _labelled(points: torch.Tensor, size: tuple[int, int]) -> list[float]:
    """Key points ``[K, 3]`` of one object as labels have them."""
    height, width = size
    numbers: list[float] = []
    for x, y, score in points.tolist():
        is_seen = score >= SHOWN_POINT and 0 <= x <= width and 0 <= y <= height
        numbers += (x / width, y / height, *VISIBLE) if is_seen else NOT_LABELLED
    return numbers


def polygon_of(masks: Masks, index: int) -> np.ndarray:
    """One mask as a single closed line ``[K, 2]`` in pixels: parts and holes are joined by going there and back."""
    lines = [line for outer, holes in masks.polygons(index) for line in (outer, *holes)]
    if len(lines) > MAX_LINES:
        lines = _longest(lines, MAX_LINES)
    try:
        return join_parts(lines) if lines else np.zeros((0, 2), np.float32)
    except ShapeError:  # of tens of thousands of points
        return _longest(lines, 1)[0]


def _longest(lines: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    order = sorted(range(len(lines)), key=lambda index: -len(lines[index]))[:count]
    return [lines[index] for index in sorted(order)]
