"""The first part of the augmentation: mosaics of four and nine images, or one image, pasted and warped.

(docs/reference.md, Mosaic.) The canvas is a system of coordinates, not an array: a sample is drawn with the generator
from the sizes of the images alone, and only what is visible of them is read afterwards (`Picture.pixels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from yolov7.config.recipe import AugmentConfig
from yolov7.data.geometry import RandomPerspective, Warp, crop, warp_objects
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.objects import Objects, Sample, concatenate
from yolov7.data.picture import Canvas, Picture
from yolov7.data.rasterize import cut_off
from yolov7.data.render import Tile
from yolov7.data.transforms import MAX_COVERED, hide_keypoints, intersection_over_area, mirrored_order, mixup
from yolov7.structures import ImageMeta

GEOMETRY = ("mosaic", "copy_paste", "perspective")  # steps of a pipeline, drawn together before any image is read


@dataclass(frozen=True)
class Mosaic:
    """What is random about a mosaic on a canvas of ``2 * size`` pixels a side."""

    indices: tuple[int, ...]  # of 4 or 9 images, the sample's own first
    point: tuple[int, int]  # x, y: where four tiles meet; of nine tiles, the corner of the window that is kept


def draw_mosaic(index: int, num_images: int, size: int, rng: np.random.Generator, nine_tiles: float = 0.2) -> Mosaic:
    """Draw a mosaic of four tiles, or with a probability of nine, around an image; the others may repeat."""
    if rng.random() < 1 - nine_tiles:
        others = rng.integers(num_images, size=3).tolist()
        x, y = rng.uniform(0.5 * size, 1.5 * size, 2).astype(int).tolist()
    else:
        others = rng.integers(num_images, size=8).tolist()
        x, y = rng.integers(size, size=2).tolist()
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
    return [(s, s), (s, s - h[1]), (s + w[1], s - h[2]),
            (s + w[0], s), (s + w[0], s + h[3]), (s + w[0] - w[5], s + h[0]),
            (s + w[0] - w[5] - w[6], s + h[0]), (s - w[7], s + h[0] - h[7]), (s - w[8], s + h[0] - h[7] - h[8])]


# --- copy-paste ------------------------------------------------------------------------------------------------


def draw_mirrored(objects: Objects, share: float, side: int, rng: np.random.Generator,
                  keypoint_order: tuple[int, ...] = ()) -> tuple[Objects, list[np.ndarray]]:
    """Mirror a share of the objects with a polygon on a canvas where they cover no object by 30% or more.

    (docs/reference.md, Copy-paste.) Returns all objects, the mirrored ones last with their key points in
    ``keypoint_order``, and the polygons ``[k, 2]`` that were mirrored. Key points that they cover are hidden.
    """
    candidates = np.flatnonzero(objects.has_polygon)
    count = round(share * len(candidates))
    if not count:
        return objects, []
    mirrored = objects.placed(np.array((-1, 1)), np.array((side, 0)))
    boxes, chosen = objects.boxes, []
    for index in rng.choice(candidates, count, replace=False).tolist():
        box = mirrored.boxes[index]
        if (intersection_over_area(box, boxes) < MAX_COVERED).all():
            boxes = np.concatenate((boxes, box[None]))
            chosen.append(index)
    if not chosen:
        return objects, []
    pasted = mirrored[np.array(chosen)]
    keypoints = pasted.keypoints[:, list(keypoint_order)] if keypoint_order else pasted.keypoints
    if keypoints.size:
        covered = np.zeros((side, side), np.uint8)
        for polygon in pasted.polygons:
            cv2.fillPoly(covered, [polygon.astype(np.int32)], 1)
        objects = hide_keypoints(objects, covered.astype(bool), (0, 0))
    pasted = objects.like(pasted.boxes, pasted.labels, polygons=pasted.polygons, keypoints=keypoints)
    return concatenate((objects, pasted)), [objects.polygons.of(index) for index in chosen]


# --- samples ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composer:
    """Draws the image that the other steps change: a mosaic, or one image, warped (the steps of `GEOMETRY`)."""

    image_set: ImageSet
    reader: ImageReader
    config: AugmentConfig
    batch_shapes: np.ndarray | None = None  # int [I, 2] height, width of rectangular batches: no mosaics then
    exact_outlines: bool = False  # polygons are cut off at the border of a mosaic; else only their vertices are

    @cached_property
    def mirrored_order(self) -> tuple[int, ...]:
        """Where each key point's value comes from in a mirrored image, by the data set or by their names."""
        return self.image_set.keypoint_layout.flip or mirrored_order(self.image_set.keypoint_names)

    def __call__(self, index: int, rng: np.random.Generator, mosaics: bool = True,
                 partners: Sequence[int] | np.ndarray | None = None) -> Sample:
        """Draw a sample around an image; the other images are some of its ``partners``, by default of all."""
        may_be_mosaic = mosaics and "mosaic" in self.config.pipeline and self.batch_shapes is None
        is_mosaic = may_be_mosaic and rng.random() < self.config.mosaic
        return self.mosaic(index, rng, partners) if is_mosaic else self.single(index, rng)

    def mosaic(self, index: int, rng: np.random.Generator,
               partners: Sequence[int] | np.ndarray | None = None) -> Sample:
        """Four or nine images, of which this is the first."""
        size = self.reader.size
        side = 2 * size
        others = self._partners(partners)
        drawn = draw_mosaic(index, len(others), size, rng, self.config.nine_tiles)
        drawn = replace(drawn, indices=(index, *(int(others[place]) for place in drawn.indices[1:])))
        shapes = [self.reader.shape(i) for i in drawn.indices]
        corners = tile_corners(shapes, drawn, size)
        tiles = [Tile(*tile) for tile in zip(drawn.indices, shapes, corners, strict=True)]
        parts = [self.image_set.objects_of(i) for i in drawn.indices]
        tile_index = np.repeat(np.arange(len(parts)), [len(part) for part in parts])  # of each object
        ratios = self.reader.ratio(list(drawn.indices))
        placed = concatenate(parts).placed(ratios[tile_index], np.array(corners)[tile_index])
        objects = placed.clipped(np.array((side, side)))
        share = self.config.copy_paste if "copy_paste" in self.config.pipeline else 0.0
        objects, mirrored = draw_mirrored(objects, share, side, rng, self.mirrored_order)
        warp = self._draw_warp((side, side), -size // 2, rng)
        exact = partial(cut_off, placed.polygons, objects.polygons, np.array((side, side)))
        objects = warp_objects(objects, warp, max_aspect=self.config.max_aspect,
                               outlines=exact if self.exact_outlines else None)
        picture = Picture(Canvas(tiles, side, warp, mirrored), self.reader)
        return Sample(picture, objects, replace(self._meta(index), mosaic=True))

    def single(self, index: int, rng: np.random.Generator) -> Sample:
        """One image, letterboxed."""
        size = self.reader.size
        shape = (size, size) if self.batch_shapes is None else tuple(self.batch_shapes[index].tolist())
        height, width = self.reader.shape(index)
        spare = shape[1] - width, shape[0] - height
        objects = self.image_set.objects_of(index).placed(self.reader.ratio(index), np.array(spare) / 2)
        warp = self._draw_warp(shape, 0, rng)
        tile = Tile(index, (height, width), (spare[0] // 2, spare[1] // 2))
        # moved as boxes, as the reference implementation does
        objects = warp_objects(objects, warp, by_polygon=False, max_aspect=self.config.max_aspect)
        return Sample(Picture(Canvas([tile], max(shape), warp), self.reader), objects, self._meta(index))

    def mixed(self, sample: Sample, rng: np.random.Generator,
              partners: Sequence[int] | np.ndarray | None = None) -> Sample:
        """The sample, blended with a mosaic around another image."""
        others = self._partners(partners)
        partner = self.mosaic(int(others[int(rng.integers(len(others)))]), rng, partners)
        return mixup(sample, partner, rng, self.config.mixup_beta)

    def _partners(self, partners: Sequence[int] | np.ndarray | None) -> Sequence[int] | np.ndarray:
        return range(len(self.image_set)) if partners is None else partners

    def _draw_warp(self, shape: tuple[int, int], border: int, rng: np.random.Generator) -> Warp:
        if "perspective" in self.config.pipeline:
            return RandomPerspective(self.config, border).draw(*shape, rng)
        return crop(*shape, border)

    def _meta(self, index: int) -> ImageMeta:
        height, width = self.image_set.sizes[index].tolist()
        return ImageMeta(self.image_set.paths[index], self.image_set.image_ids[index], (height, width))
