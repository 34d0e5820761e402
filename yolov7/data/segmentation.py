"""The one closed line of an object -> the rings of its parts and holes -> COCO's `segmentation`.

Several parts and holes of an object are one line, joined by going there and back along an edge. Edges that are walked
in both directions cancel, which leaves the rings.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from yolov7.data.images import cv2
from yolov7.masks import Rle, masks_from, pixels_of_runs, runs_of_text

Point = tuple[float, float]


def rings_of_line(points: np.ndarray) -> list[np.ndarray]:
    """The rings of a closed line ``[K, 2]``, each ``[J, 2]`` of at least three points, in its order."""
    if len(np.unique(points, axis=0)) == len(points):
        return [points] if len(points) > 2 else []
    line: list[Point] = [(x, y) for x, y in points.tolist()]
    edges = [(a, b) for a, b in zip(line, [*line[1:], line[0]], strict=True) if a != b]
    left = Counter(edges)
    for a, b in edges:
        both = min(left[a, b], left[b, a])
        left[a, b] -= both
        left[b, a] -= both
    follow: dict[Point, list[Point]] = defaultdict(list)
    for edge in edges:
        if left[edge]:
            left[edge] -= 1
            follow[edge[0]].append(edge[1])
    rings = [_walk(follow, start) for start, _ in edges]
    return [np.array(ring, points.dtype) for ring in rings if len(ring) > 2]


def _walk(follow: dict[Point, list[Point]], start: Point) -> list[Point]:
    """The points from a start around to itself, whose edges are used up; none where no edge is left."""
    ring, here = [], start
    while follow[here]:
        ring.append(here)
        here = follow[here].pop(0)
        if here == start:
            break
    return ring


def coco_segmentation(points: np.ndarray, size: tuple[int, int]) -> list[list[float]] | Rle | None:
    """The line of an object in an image of this height and width as COCO has it; None where it holds no area.

    Polygons of the parts; with holes, which those cannot have, a run-length mask.
    """
    rings = rings_of_line(points)
    depths = [_depth(rings, index) for index in range(len(rings))] if len(rings) > 1 else [0] * len(rings)
    if not any(depth % 2 for depth in depths):
        polygons: list[list[float]] = [ring.astype(np.float64).ravel().tolist() for ring in rings]
        return polygons or None
    return _rle_of_rings(rings, depths, size)


def _depth(rings: list[np.ndarray], index: int) -> int:
    """In how many others a ring lies, with more than half of its points."""
    ring = rings[index].astype(np.float64).tolist()
    others = [other.astype(np.float32) for place, other in enumerate(rings) if place != index]
    return sum(sum(cv2.pointPolygonTest(other, point, False) > 0 for point in ring) > len(ring) / 2
               for other in others)


def _rle_of_rings(rings: list[np.ndarray], depths: list[int], size: tuple[int, int]) -> Rle:
    """Painted from the outside to the inside, in turn set and not set."""
    from pycocotools import mask as coco_mask

    whole = np.zeros(size, bool)
    for depth in sorted(set(depths)):
        level = [rings[index].astype(np.float64).ravel().tolist() for index, own in enumerate(depths) if own == depth]
        for painted in coco_mask.frPyObjects(level, *size):
            whole[pixels_of_runs(runs_of_text(painted["counts"]), size)] = depth % 2 == 0
    height, width = size
    return masks_from([(0, 0, width, height)], [whole], size).rle(0)
