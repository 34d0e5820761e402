"""What tasks stack beside boxes and labels: masks and key points, as `Field`s of the loader.

An object without a polygon has no known mask: it has no cells, and a mask term must leave it out (`known_masks_field`
tells it from an object whose mask is too small for a cell).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from yolov7.data.loader import Field
from yolov7.data.objects import Ragged, Sample
from yolov7.data.rasterize import RATIO, index_map, separate_maps
from yolov7.masks import GRID


def mask_field(ratio: int = RATIO) -> Field:
    """``maps["masks"]``: the index map of an image, int16 ``[B, H / ratio, W / ratio]`` (see `index_map`).

    Memory: 2 / ratio² bytes a pixel of the images, 1/24 of theirs at ratio 4, whatever the number of objects.
    """
    return Field("masks", partial(_index_map, ratio=ratio), per_object=False, resize=resize_maps, outlines=True)


def separate_masks_field(ratio: int = RATIO) -> Field:
    """``extra["masks"]``: a 0/1 map of each object, uint8 ``[B, G, H / ratio, W / ratio]``; overlaps are kept.

    Memory: G / ratio² bytes a pixel of the images; at ratio 4 as much as the images themselves from 48 objects on.
    """
    return Field("masks", partial(_separate_maps, ratio=ratio), resize=resize_maps, outlines=True)


def known_masks_field() -> Field:
    """``extra["has_mask"]``: whether the mask of an object is known, as it has a polygon: bool ``[B, G]``."""
    return Field("has_mask", _has_polygon)


def grid_field() -> Field:
    """``extra["grids"]``: the mask of an object in its own box, uint8 ``[B, G, GRID * GRID / 8]``.

    Rows of `GRID` pixels one after the other, eight to a byte: 392 bytes an object.
    """
    return Field("grids", _grids)


def semantic_field(ratio: int = RATIO) -> Field:
    """``maps["semantic"]``: whether a cell shows any object, int8 ``[B, H / ratio, W / ratio]``.

    1 in a mask, else -1 in the box of an object whose mask is not known, else 0.
    """
    return Field("semantic", partial(_semantic, ratio=ratio), per_object=False, resize=resize_maps, outlines=True)


def keypoint_field() -> Field:
    """``extra["keypoints"]``: x, y in pixels of the network input, visibility 0, 1 or 2: float32 ``[B, G, K, 3]``.

    Memory: 12 bytes a point.
    """
    return Field("keypoints", _keypoints, resize=resize_keypoints)


def resize_maps(maps: Tensor, factors: tuple[float, float]) -> Tensor:
    """Maps ``[..., h, w]`` resized by factors (x, y), each cell from the nearest one: numbers of objects do not mix."""
    height, width = maps.shape[-2:]
    rows, columns = (_nearest(side, factor, maps.device)
                     for side, factor in ((height, factors[1]), (width, factors[0])))
    return maps[..., rows[:, None], columns]


def _nearest(side: int, factor: float, device: torch.device) -> Tensor:
    length = round(side * factor)
    return ((torch.arange(length, device=device) + 0.5) * (side / length)).long()


def resize_keypoints(keypoints: Tensor, factors: tuple[float, float]) -> Tensor:
    """Key points ``[..., 3]`` of images that are resized by factors (x, y)."""
    return keypoints * keypoints.new_tensor((*factors, 1.0))


def _index_map(sample: Sample, ratio: int) -> np.ndarray:
    return index_map(sample.objects.polygons, sample.image.shape[:2], ratio)


def _separate_maps(sample: Sample, ratio: int) -> np.ndarray:
    return separate_maps(sample.objects.polygons, sample.image.shape[:2], ratio)


def _has_polygon(sample: Sample) -> np.ndarray:
    return sample.objects.has_polygon


def _keypoints(sample: Sample) -> np.ndarray:
    return sample.objects.keypoints


def _grids(sample: Sample) -> np.ndarray:
    objects = sample.objects
    polygons, boxes = objects.polygons, objects.boxes
    corners, sides = (np.repeat(part, polygons.counts, axis=0) for part in
                      (boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clip(1e-6)))
    own = Ragged((polygons.points - corners) / sides * np.float32(GRID), polygons.counts)
    grids: np.ndarray = np.packbits(separate_maps(own, (GRID, GRID), 1).reshape(len(objects), GRID * GRID), axis=1)
    return grids


def _semantic(sample: Sample, ratio: int) -> np.ndarray:
    objects, (height, width) = sample.objects, sample.image.shape[:2]
    painted = np.zeros((height // ratio, width // ratio), np.int8)
    for left, top, right, bottom in np.rint(objects.boxes[~objects.has_polygon] / ratio).astype(int).tolist():
        painted[top:bottom, left:right] = -1
    painted[_index_map(sample, ratio) > 0] = 1
    return painted
