"""Mosaics of four and nine pictures on a canvas, and pasting mirrored objects on them (spec 11.1, 11.2, 12.3).

A mosaic is drawn first (`draw_mosaic`) and built afterwards (`build_mosaic`): which pictures and where follows from
the generator and from the sizes of the pictures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolov7.data.images import PAD_COLOUR, cv2
from yolov7.data.transforms import LARGEST_COVER, cover, with_objects
from yolov7.structures import Sample

FOUR_TILE_SHARE = 0.8


@dataclass(frozen=True)
class Mosaic:
    """What is random about a mosaic on a canvas of ``2 * size`` pixels a side."""

    indices: tuple[int, ...]  # of 4 or 9 pictures, the sample's own first
    point: tuple[int, int]  # x, y: where four tiles meet; of nine tiles, the corner of the window that is kept


def draw_mosaic(index: int, num_images: int, size: int, rng: np.random.Generator) -> Mosaic:
    """Draw a mosaic of four tiles (80%) or nine around a picture; the others may repeat."""
    if rng.random() < FOUR_TILE_SHARE:
        return draw_four_tiles(index, num_images, size, rng)
    others = rng.integers(num_images, size=8).tolist()
    x, y = rng.integers(size, size=2).tolist()
    return Mosaic((index, *others), (x, y))


def draw_four_tiles(index: int, num_images: int, size: int, rng: np.random.Generator) -> Mosaic:
    """Draw a mosaic of four tiles."""
    others = rng.integers(num_images, size=3).tolist()
    x, y = rng.uniform(0.5 * size, 1.5 * size, 2).astype(int).tolist()
    return Mosaic((index, *others), (x, y))


def tile_corners(shapes: Sequence[tuple[int, int]], mosaic: Mosaic, size: int) -> list[tuple[int, int]]:
    """Where the top left corner (x, y) of each tile of ``shapes`` (height, width) lies on the canvas.

    It may lie outside: what sticks out is cut off.
    """
    x, y = mosaic.point
    if len(mosaic.indices) == 9:
        return [(left - x, top - y) for left, top in _nine_corners(shapes, size)]
    signs = ((-1, -1), (0, -1), (-1, 0), (0, 0))  # top left, top right, bottom left, bottom right
    return [(x + sx * w, y + sy * h) for (sx, sy), (h, w) in zip(signs, shapes, strict=True)]


def _nine_corners(shapes: Sequence[tuple[int, int]], s: int) -> list[tuple[int, int]]:
    """The first tile in the middle, the others clockwise from the top, each touching the one before it."""
    h, w = zip(*shapes, strict=True)
    return [
        (s, s),
        (s, s - h[1]),
        (s + w[1], s - h[2]),
        (s + w[0], s),
        (s + w[0], s + h[3]),
        (s + w[0] - w[5], s + h[0]),
        (s + w[0] - w[5] - w[6], s + h[0]),
        (s - w[7], s + h[0] - h[7]),
        (s - w[8], s + h[0] - h[7] - h[8]),
    ]


def build_mosaic(tiles: Sequence[Sample], mosaic: Mosaic, size: int) -> Sample:
    """Lay the tiles (long side ``size``) on the canvas, later ones over earlier ones; objects are clipped to it."""
    side = 2 * size
    canvas = np.full((side, side, 3), PAD_COLOUR[0], np.uint8)  # grey: a tuple would fill 10 times slower
    boxes, segments = [], []
    corners = tile_corners([tile.image.shape[:2] for tile in tiles], mosaic, size)
    for tile, corner in zip(tiles, corners, strict=True):
        _lay(canvas, tile.image, *corner)
        offset = np.array(corner, np.float32)
        boxes.append((tile.boxes + np.tile(offset, 2)).clip(0, side))
        segments += [(points + offset).clip(0, side) for points in tile.segments]
    labels = np.concatenate([tile.labels for tile in tiles])
    return Sample(canvas, np.concatenate(boxes), labels, tuple(segments), tiles[0].meta)


def _lay(canvas: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    height, width = image.shape[:2]
    left, top = max(-x, 0), max(-y, 0)  # cut off the picture
    right, bottom = min(width, canvas.shape[1] - x), min(height, canvas.shape[0] - y)
    if left < right and top < bottom:
        canvas[y + top : y + bottom, x + left : x + right] = image[top:bottom, left:right]


def copy_paste(sample: Sample, share: float, rng: np.random.Generator) -> Sample:
    """Paste a share of the outlined objects mirrored, where they cover no object by 30% or more."""
    outlined = [i for i, points in enumerate(sample.segments) if len(points)]
    count = round(share * len(outlined))
    if not count:
        return sample
    mirror, width = np.array((-1, 1), np.float32), np.array((sample.image.shape[1], 0), np.float32)
    mask = np.zeros(sample.image.shape[:2], np.uint8)
    pasted = sample
    for i in rng.choice(len(outlined), count, replace=False):
        index = outlined[i]
        box = sample.boxes[index, [2, 1, 0, 3]] * np.tile(mirror, 2) + np.tile(width, 2)
        if (cover(box, pasted.boxes) >= LARGEST_COVER).any():
            continue
        outline = sample.segments[index] * mirror + width
        pasted = with_objects(pasted, box, sample.labels[[index]], (outline,))
        cv2.fillPoly(mask, [sample.segments[index].astype(np.int32)], 1)
    mirrored = mask[:, ::-1].astype(bool)
    image = sample.image.copy()
    image[mirrored] = sample.image[:, ::-1][mirrored]
    return replace(pasted, image=image)
