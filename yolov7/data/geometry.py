"""Random perspective: the transformation is drawn, then objects follow it exactly.

A polygon's box is that of the part of its line inside the output, clipped edge by edge: the limit of the reference
implementation's 1000 points along it, without their error (docs/reference.md, Random perspective).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from yolov7.config.recipe import AugmentConfig
from yolov7.data.objects import Objects, Ragged

EPSILON = 1e-16  # of areas, against division by zero
MIN_SIDE = 2.0  # pixels, of an object after warping
MIN_VISIBLE_BOX, MIN_VISIBLE_POLYGON = 0.10, 0.01  # area after warping over area before


@dataclass(frozen=True)
class Warp:
    """A drawn transformation: a `Motion`."""

    matrix: np.ndarray  # float64 [3, 3]: input pixel -> output pixel, homogeneous
    zoom: float
    size: tuple[int, int]  # output height, width

    @property
    def limit(self) -> tuple[int, int]:
        """Width and height of the output."""
        return self.size[1], self.size[0]

    def points(self, points: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """``[..., 2]`` -> ``[..., 2]`` float64, not clipped. Points at or behind the horizon end far away."""
        moved = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        seen: np.ndarray = moved[..., :2] / np.maximum(moved[..., 2:], 1e-3)
        return seen

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes around the four moved corners, clipped to the output: ``[N, 4]`` -> float32 ``[N, 4]``."""
        corners = self.points(boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 4, 2))  # [N, 4, 2]
        low, high = corners.min(1).clip(0, self.limit), corners.max(1).clip(0, self.limit)
        return np.concatenate((low, high), axis=1).astype(np.float32)


@dataclass(frozen=True)
class RandomPerspective:
    """Rotation, zoom, shear, translation and perspective about the centre.

    ``border`` pixels are added at every side of the output (negative: cut off, as after a mosaic).
    """

    config: AugmentConfig
    border: int = 0

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Warp:
        """Draw the transformation for an image of this size."""
        config = self.config
        out_height, out_width = height + 2 * self.border, width + 2 * self.border
        centre, perspective, shear, translation = (np.eye(3) for _ in range(4))
        centre[:2, 2] = -width / 2, -height / 2
        perspective[2, :2] = rng.uniform(-config.perspective, config.perspective, 2)
        angle = math.radians(rng.uniform(-config.degrees, config.degrees))
        zoom = rng.uniform(1 - config.scale, config.scale_top + config.scale)
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # counter-clockwise on the screen
        shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
        share = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
        translation[:2, 2] = share * (out_width, out_height)
        return Warp(translation @ shear @ rotation @ perspective @ centre, zoom, (out_height, out_width))


def crop(height: int, width: int, border: int) -> Warp:
    """The transformation that only adds ``border`` pixels at every side (negative: cuts them off)."""
    matrix = np.eye(3)
    matrix[:2, 2] = border
    return Warp(matrix, 1.0, (height + 2 * border, width + 2 * border))


def warp_objects(objects: Objects, drawn: Warp, by_polygon: bool = True, max_aspect: float = 20.0,
                 outlines: Callable[[np.ndarray], Ragged] | None = None) -> Objects:
    """Move objects; those that are hardly visible afterwards, or of an aspect of ``max_aspect``, are dropped.

    Where an object has a polygon, its box becomes that of the polygon's visible part, unless not ``by_polygon``: then
    all are moved as boxes, and polygons go with them. ``outlines`` gives the polygons of some rows, which take the
    place of their polygons, but for the boxes.
    """
    moved = objects.moved(drawn)
    min_visible = np.full(len(objects), MIN_VISIBLE_BOX)
    has_polygon = objects.has_polygon
    if by_polygon and has_polygon.any():
        moved.boxes[has_polygon] = polygon_boxes(moved.polygons.points, objects.polygons.counts[has_polygon],
                                                 drawn.size)
        min_visible[has_polygon] = MIN_VISIBLE_POLYGON
    kept = still_visible(objects.boxes * drawn.zoom, moved.boxes, min_visible, max_aspect)
    moved = moved if kept.all() else moved[kept]
    if outlines is not None:
        lines = outlines(np.flatnonzero(kept))
        moved = replace(moved, polygons=Ragged(drawn.points(lines.points), lines.counts))
    return moved.typed()


def polygon_boxes(points: np.ndarray, counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes around that part of each closed line which is inside an image of this height and width.

    ``points`` ``[S, 2]`` of n polygons in a row, ``counts`` ``[n]`` of at least 1 -> ``[n, 4]``, zeros where nothing
    is inside. Every edge is clipped by Liang's and Barsky's rule: inside are its positions between the last entry
    and the first exit.
    """
    ends = np.cumsum(counts)
    firsts = ends - counts
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = firsts  # the last point of a polygon leads back to its first
    start, step = points, points[following] - points  # [S, 2]
    limit = np.array(size[::-1], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = -start / step, (limit - start) / step  # positions 0 ... 1 along the edge; NaN: runs on the border
    still = step == 0
    outside = (still & ((start < 0) | (start > limit))).any(1)
    entry = np.where(still, 0, np.minimum(low, high)).max(1).clip(0)
    leave = np.where(still, 1, np.maximum(low, high)).min(1).clip(None, 1)
    visible = ((entry <= leave) & ~outside)[:, None]
    a, b = start + entry[:, None] * step, start + leave[:, None] * step
    lowest = np.minimum.reduceat(np.where(visible, np.minimum(a, b), np.inf), firsts)
    highest = np.maximum.reduceat(np.where(visible, np.maximum(a, b), -np.inf), firsts)
    boxes = np.concatenate((lowest.clip(0, limit), highest.clip(0, limit)), axis=1)
    return np.where(np.isfinite(lowest[:, :1]), boxes, 0)


def still_visible(before: np.ndarray, after: np.ndarray, min_visible: np.ndarray,
                  max_aspect: float = 20.0) -> np.ndarray:
    """Mask of the objects worth keeping: ``[N, 4]``, ``[N, 4]``, least share of the area ``[N]`` -> ``[N]``."""
    size = after[:, 2:] - after[:, :2]
    share = size.prod(1) / ((before[:, 2:] - before[:, :2]).prod(1) + EPSILON)
    aspect = size.max(1) / (size.min(1) + EPSILON)
    kept: np.ndarray = (size > MIN_SIDE).all(1) & (share > min_visible) & (aspect < max_aspect)
    return kept
