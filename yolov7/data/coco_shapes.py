"""What a COCO annotation says beyond its box: outlines (polygons, run-length masks) and keypoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import no_outline
from yolov7.data.images import cv2

_NUMBERS = frozenset((int, float))
_COUNT_CHARACTERS = frozenset(map(chr, range(48, 112)))  # the alphabet of compressed counts
_LONGEST_COUNT = 6  # characters for any number below 2 ** 29; longer ones shift bits out of pycocotools' integers
_MOST_PIXELS = 1 << 28


class ShapeError(Exception):
    """Why an outline or keypoints cannot be used, without their place."""


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers. (JSON as Python reads it may hold NaN.)"""
    if not isinstance(values, list) or not _NUMBERS.issuperset(map(type, values)):
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number of hundreds of digits
        return False


# --- outlines --------------------------------------------------------------------------------------------------


def read_outline(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The outline of one object in a picture of this height and width: float32 ``[K, 2]`` pixels, maybe without points.

    Polygons as `join_polygons` reads them, run-length masks as `outline_of_mask` does.
    """
    return outline_of_mask(segmentation, size) if isinstance(segmentation, dict) else join_polygons(segmentation)


def join_polygons(segmentation: Any) -> np.ndarray:
    """COCO's polygons of one object as a single outline: float32 ``[K, 2]`` pixels.

    Parts are joined by going there and back between their closest vertices, so that the area stays the same.
    Polygons that are none (fewer than 3 points, odd or invalid numbers) give no outline: the object is a box then.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return no_outline()
    if not all(are_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in segmentation):
        return no_outline()
    return join_parts([np.array(part, np.float32).reshape(-1, 2) for part in segmentation])


def join_parts(outlines: list[np.ndarray]) -> np.ndarray:
    """Outlines ``[K, 2]`` of the parts of one object as a single one (see `join_polygons`)."""
    joined, *parts = outlines
    for part in parts:
        squared = np.square(joined[:, None] - part[None]).sum(-1)  # [K, J]
        here, there = np.unravel_index(squared.argmin(), squared.shape)
        loop = np.concatenate((part[there:], part[: there + 1]))  # from the closest vertex around to itself
        joined = np.concatenate((joined[: here + 1], loop, joined[here:]))
    return joined


def outline_of_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """The outline of a run-length mask, counts compressed or not: float32 ``[K, 2]`` pixels, along pixel edges.

    Holes are filled; a mask without pixels has no outline. Raises `ShapeError` for one that is broken or not of the
    picture's ``size`` (height, width).
    """
    counts, height_width = (mask.get("counts"), mask.get("size")) if isinstance(mask, dict) else (None, None)
    if height_width != list(size):
        raise ShapeError(f"a run-length mask of the size {height_width!r}; accepted: [{size[0]}, {size[1]}]")
    pixels = np.ascontiguousarray(_decode(counts, size))  # [H, W]
    doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
    contours = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    # doubled pixels 2x and 2x + 1 stand for the edges x and x + 1 of pixel x
    parts = [((contour[:, 0] + 1) // 2).astype(np.float32) for contour in contours]
    return join_parts(parts) if parts else no_outline()


def _decode(counts: Any, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if height * width > _MOST_PIXELS:
        raise ShapeError(f"a run-length mask of {width} x {height} px; accepted: up to {_MOST_PIXELS} px")
    runs = _runs(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != height * width:
        raise ShapeError(f"a run-length mask whose counts do not fill {width} x {height} px")
    kinds = (np.arange(len(runs)) % 2).astype(np.uint8)  # runs of zeros and ones in turn, down the columns
    return np.repeat(kinds, runs).reshape(width, height).T


def _runs(text: str) -> list[int]:
    """COCO's compressed counts as numbers: 5 bits a character, lowest first, from the third on as differences.

    (pycocotools would take a broken text as it is, and write beyond its memory.)
    """
    runs: list[int] = []
    if not _COUNT_CHARACTERS.issuperset(text):
        raise ShapeError("a run-length mask with characters that no count has")
    value = shift = 0
    for code in text.encode():
        code -= 48  # noqa: PLW2901
        value |= (code & 31) << shift
        shift += 5
        if shift > 5 * _LONGEST_COUNT:
            break
        if not code & 32:
            value -= (code & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ShapeError("a run-length mask that ends within a count")
    return runs


# --- keypoints -------------------------------------------------------------------------------------------------


def keypoint_names(categories: list[dict[str, Any]], file: Path) -> tuple[str, ...]:
    """The names of the keypoints that categories have, none where none has. They must be the same for all."""
    lists = {category["name"]: category["keypoints"] for category in categories if category.get("keypoints")}
    for name, found in lists.items():
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise InputError(f"{file}, category {name!r}: found the keypoints {found!r}; accepted: a list of names")
    if not lists:
        return ()
    (first, names), *others = lists.items()
    for name, found in others:
        if found != names:
            raise InputError(
                f"{file}, categories: {name!r} has the keypoints {', '.join(found)}, but {first!r} has "
                f"{', '.join(names)}; accepted: the same in all categories that have some"
            )
    return tuple(names)


def read_keypoints(values: Any, count: int, size: tuple[int, int]) -> np.ndarray:
    """``x1, y1, v1, ...`` of one object in a picture of this height and width: float32 ``[count, 3]``.

    Points that are not labelled are zeros. Raises `ShapeError` for anything else than ``count`` points inside the
    picture with a visibility of 0, 1 or 2.
    """
    if not are_numbers(values) or len(values) != 3 * count:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise ShapeError(f"keypoints: found {found}; accepted: {3 * count} numbers (x, y, visibility for each)")
    points = np.array(values, np.float64).reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ShapeError("keypoints: found a visibility other than 0, 1 and 2")
    points[points[:, 2] == 0] = 0
    if (points[:, :2] < 0).any() or (points[:, :2] > size[::-1]).any():
        raise ShapeError(f"keypoints: a labelled point outside the picture of {size[1]} x {size[0]} px")
    return points.astype(np.float32)
