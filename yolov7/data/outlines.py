"""Outlines of masks, and outlines as COCO JSON writes them: polygons, or run lengths where there are holes."""

from __future__ import annotations

from typing import Any

import numpy as np

from yolov7.data.images import cv2
from yolov7.data.rasterize import fill_outline, rings_of

# Pixels by which the outline of a mask runs inside of the edges of its pixels: truncated, its vertices lie in pixels of
# the mask, also when it is mirrored; boxes and areas are those of the mask. float32 holds it up to 65,536 px.
INSET = 1 / 256
COCO_DECIMALS = 6  # of pixels: x + width is off by at most 1e-6


def outline_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Rings float32 ``[K, 2]`` around the parts and holes of a mask ``[H, W]``, along the edges of its pixels.

    Filled by `fill_outline` they are exactly the mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    doubled = window.repeat(2, axis=0).repeat(2, axis=1)  # each pixel has four corners, none is only a line
    contours = cv2.findContours(doubled, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    corner = (columns[0], rows[0])
    return [(points // 2 + corner + np.where(points % 2, 1 - INSET, INSET)).astype(np.float32)
            for points in (contour[:, 0] for contour in contours)]


# --- parts and holes -------------------------------------------------------------------------------------------


def hole_mask(rings: list[np.ndarray]) -> list[bool]:
    """Which of the rings of an object are holes: those within an odd number of others."""
    depths = (sum(_contains(other, ring) for other in rings if other is not ring) for ring in rings)
    return [depth % 2 == 1 for depth in depths] if len(rings) > 1 else [False] * len(rings)


def _contains(outer: np.ndarray, inner: np.ndarray) -> bool:
    if (inner.min(0) < outer.min(0)).any() or (inner.max(0) > outer.max(0)).any():
        return False
    sides = [cv2.pointPolygonTest(outer, point, False) for point in inner.tolist()]  # 1 inside, 0 on the edge
    return min(sides) >= 0 and max(sides) > 0


def polygon_area(polygon: np.ndarray) -> float:
    """The area in a polygon ``[K, 2]``, which may be several parts and holes that are joined there and back.

    The parts turn either way, so the formula for one polygon would subtract some: each is taken out where it returns
    to its first point.
    """
    loops: list[np.ndarray] = []
    path: list[Any] = []
    place: dict[Any, int] = {}  # of the points of the path
    for point in map(tuple, [*polygon.tolist(), polygon[0].tolist()]):
        if point in place:
            start = place[point]
            loops.append(np.array(path[start:], np.float32))
            for passed in path[start + 1 :]:
                del place[passed]
            del path[start + 1 :]
        else:
            place[point] = len(path)
            path.append(point)
    loops = [loop for loop in loops if len(loop) > 2]
    return sum(-_loop_area(loop) if is_hole else _loop_area(loop)
               for loop, is_hole in zip(loops, hole_mask(loops), strict=True))


def _loop_area(points: np.ndarray) -> float:
    x, y = (points.astype(np.float64) - points[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


# --- COCO JSON -------------------------------------------------------------------------------------------------


def segmentation_of(line: np.ndarray, size: tuple[int, int]) -> tuple[Any, float]:
    """COCO's ``segmentation`` and area of an outline in an image of this height and width.

    A polygon for each part. COCO's polygons cannot be holes: an outline with holes is written as run lengths where it
    is that of a mask, so that nothing is lost, else as it is, with its bridges, which add no area.
    """
    rings = rings_of(line)
    if not any(hole_mask(rings)):
        return [_numbers(ring) for ring in rings], polygon_area(line)
    mask = fill_outline(line, size)
    if np.array_equal(_sorted(outline_rings(mask)), _sorted(rings)):
        return {"size": list(size), "counts": compressed(run_lengths(mask))}, float(mask.sum())
    return [_numbers(line)], polygon_area(line)


def _numbers(points: np.ndarray) -> list[float]:
    return [round(value, COCO_DECIMALS) for value in points.ravel().tolist()]


def _sorted(rings: list[np.ndarray]) -> np.ndarray:
    points = np.concatenate([np.zeros((0, 2)), *rings])
    found: np.ndarray = np.sort(points[:, 0] + 1j * points[:, 1])
    return found


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's counts of a mask ``[H, W]``: runs of zeros and ones in turn, down the columns."""
    flat = np.concatenate(([0], mask.T.ravel(), [2]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs: list[int] = np.diff(edges, prepend=0).tolist()
    return runs


def compressed(runs: list[int]) -> str:
    """Counts as COCO's text: 5 bits a character, lowest first; from the fourth on differences to the last but one."""
    text = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(text)
