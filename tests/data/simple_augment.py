"""The simple way to augment, as the oracle: lay whole images on a canvas, then warp the canvas; one object at a time.

The same random numbers as `yolov7.data.pipeline` draws, so that the two can be compared sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from image_records import polygons_of

from yolov7.config.recipe import AugmentConfig
from yolov7.data.compose import Mosaic, draw_mosaic, tile_corners
from yolov7.data.geometry import (
    MIN_VISIBLE_BOX,
    MIN_VISIBLE_POLYGON,
    RandomPerspective,
    Warp,
    still_visible,
)
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.images import PAD_COLOUR, cv2, letterbox, load_image, resize_long_side
from yolov7.data.objects import Sample, no_objects
from yolov7.data.paste import CutOutPool, paste_in
from yolov7.data.transforms import MAX_COVERED, intersection_over_area
from yolov7.structures import ImageMeta


def sample_of(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, polygons: Sequence[np.ndarray],
              meta: ImageMeta) -> Sample:
    """A sample without key points."""
    return Sample(image, no_objects().like(boxes, labels, polygons=polygons_of(polygons)), meta)


class SimpleDataset:
    """What `TrainingDataset` makes with the default pipeline, the simple way."""

    def __init__(self, image_set: ImageSet, image_size: int, augment: AugmentConfig, seed: int = 0,
                 cached: bool = False) -> None:
        self.image_set, self.image_size, self.augment, self.seed = image_set, image_size, augment, seed
        self.pool = CutOutPool(image_set, ImageReader(image_set, image_size, training=True), seed)
        self.images: dict[int, np.ndarray] | None = {} if cached else None

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, position, index = key
        rng, config = np.random.default_rng([self.seed, epoch, position, 0]), self.augment
        if rng.random() < config.mosaic:
            sample = self.mosaic(index, rng)
            if config.mixup and rng.random() < config.mixup:
                sample = mixup(sample, self.mosaic(int(rng.integers(len(self.image_set))), rng), rng)
        else:
            drawn = RandomPerspective(config).draw(self.image_size, self.image_size, rng)
            sample = warp(self.single(index), drawn, by_polygon=False)
        if config.hsv_h or config.hsv_s or config.hsv_v:
            sample = jitter(sample, (config.hsv_h, config.hsv_s, config.hsv_v), rng)
        if config.paste_in and len(self.pool.images) and rng.random() < config.paste_in:
            sample = paste_in(sample, self.pool.of_epoch(epoch), rng)
        if config.flipud and rng.random() < config.flipud:
            sample = flip(sample, 1)
        return flip(sample, 0) if config.fliplr and rng.random() < config.fliplr else sample

    def load(self, index: int) -> Sample:
        """One image with a long side of the image size."""
        image = self.images.get(index) if self.images is not None else None
        if image is None:
            image = resize_long_side(load_image(self.image_set.paths[index]), self.image_size, training=True)
            if self.images is not None:
                self.images[index] = image
        height, width = self.image_set.sizes[index].tolist()
        ratio = np.array((image.shape[1] / width, image.shape[0] / height), np.float32)
        objects = self.image_set.objects_of(index)
        meta = ImageMeta(self.image_set.paths[index], self.image_set.image_ids[index], (height, width))
        polygons = [points * ratio for points in objects.polygons]
        return sample_of(image, objects.boxes * np.tile(ratio, 2), objects.labels, polygons, meta)

    def single(self, index: int) -> Sample:
        """One image, letterboxed; warped as boxes."""
        sample = self.load(index)
        image, gain, pad = letterbox(sample.image, self.image_size, auto=False)
        boxes = (sample.objects.boxes * (gain * 2) + pad * 2).astype(np.float32)
        polygons = [(points * gain + pad).astype(np.float32) for points in sample.objects.polygons]
        return sample_of(image, boxes, sample.objects.labels, polygons, sample.meta)

    def mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        """A mosaic on a canvas, warped."""
        drawn = draw_mosaic(index, len(self.image_set), self.image_size, rng)
        sample = build_mosaic([self.load(i) for i in drawn.indices], drawn, self.image_size)
        sample = copy_paste(sample, self.augment.copy_paste, rng)
        side = 2 * self.image_size
        return warp(sample, RandomPerspective(self.augment, -self.image_size // 2).draw(side, side, rng))


def simple_collate(samples: list[Sample]) -> torch.Tensor:
    """Images as a contiguous batch ``[B, 3, H, W]``."""
    return torch.from_numpy(np.stack([sample.image.transpose(2, 0, 1) for sample in samples]))


# --- mosaic ----------------------------------------------------------------------------------------------------


def build_mosaic(tiles: list[Sample], mosaic: Mosaic, size: int) -> Sample:
    """Lay the tiles on the canvas, later ones over earlier ones; objects are clipped to it."""
    side = 2 * size
    canvas = np.full((side, side, 3), PAD_COLOUR[0], np.uint8)
    boxes, polygons = [], []
    corners = tile_corners([tile.image.shape[:2] for tile in tiles], mosaic, size)
    for tile, corner in zip(tiles, corners, strict=True):
        lay(canvas, tile.image, *corner)
        offset = np.array(corner, np.float32)
        boxes.append((tile.objects.boxes + np.tile(offset, 2)).clip(0, side))
        polygons += [(points + offset).clip(0, side) for points in tile.objects.polygons]
    labels = np.concatenate([tile.objects.labels for tile in tiles])
    return sample_of(canvas, np.concatenate(boxes), labels, polygons, tiles[0].meta)


def lay(canvas: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    """Copy an image to (x, y) and cut off what sticks out."""
    height, width = image.shape[:2]
    left, top = max(-x, 0), max(-y, 0)
    right, bottom = min(width, canvas.shape[1] - x), min(height, canvas.shape[0] - y)
    if left < right and top < bottom:
        canvas[y + top : y + bottom, x + left : x + right] = image[top:bottom, left:right]


def copy_paste(sample: Sample, share: float, rng: np.random.Generator) -> Sample:
    """Paste a share of the objects with a polygon mirrored, where they cover no object by 30% or more."""
    boxes, labels, polygons = (list(column) for column in
                               (sample.objects.boxes, sample.objects.labels, sample.objects.polygons))
    candidates = [i for i, points in enumerate(polygons) if len(points)]
    count = round(share * len(candidates))
    if not count:
        return sample
    side = sample.image.shape[1]
    mirror, width = np.array((-1, 1), np.float32), np.array((side, 0), np.float32)
    mask = np.zeros(sample.image.shape[:2], np.uint8)
    for i in rng.choice(len(candidates), count, replace=False):
        index = candidates[i]
        x1, y1, x2, y2 = boxes[index]
        box = np.array((side - x2, y1, side - x1, y2), np.float32)
        if (intersection_over_area(box, np.array(boxes)) >= MAX_COVERED).any():
            continue
        boxes.append(box)
        labels.append(labels[index])
        polygons.append(polygons[index] * mirror + width)
        cv2.fillPoly(mask, [polygons[index].astype(np.int32)], 1)
    mirrored = mask[:, ::-1].astype(bool)
    image = sample.image.copy()
    image[mirrored] = sample.image[:, ::-1][mirrored]
    return sample_of(image, np.array(boxes), np.array(labels), polygons, sample.meta)


# --- warp ------------------------------------------------------------------------------------------------------


def warp(sample: Sample, drawn: Warp, by_polygon: bool = True) -> Sample:
    """Warp the image as a whole, and every object by itself."""
    height, width = drawn.size
    if np.array_equal(drawn.matrix[2], (0, 0, 1)):
        image = cv2.warpAffine(sample.image, drawn.matrix[:2], (width, height), borderValue=PAD_COLOUR)
    else:
        image = cv2.warpPerspective(sample.image, drawn.matrix, (width, height), borderValue=PAD_COLOUR)
    before, labels = sample.objects.boxes, sample.objects.labels
    boxes = drawn.boxes(before)
    polygons = [drawn.points(points) for points in sample.objects.polygons]
    min_visible = np.full(len(boxes), MIN_VISIBLE_BOX)
    for i, points in enumerate(polygons):
        if by_polygon and len(points):
            boxes[i] = polygon_box(points, drawn.size)
            min_visible[i] = MIN_VISIBLE_POLYGON
    kept = still_visible(before * drawn.zoom, boxes, min_visible)
    moved = [polygons[i].astype(np.float32) for i in np.flatnonzero(kept)]
    return sample_of(image, boxes[kept], labels[kept], moved, sample.meta)


def polygon_box(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Box around the part of a closed line inside the image: edge by edge, ``[K, 2]`` -> ``[4]``."""
    inside = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside += clip_edge(start, end, size)
    if not inside:
        return np.zeros(4)
    found = np.array(inside)
    return np.concatenate((found.min(0), found.max(0)))


def clip_edge(start: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """The ends of the part of an edge inside the image, or nothing."""
    places = [0.0, 1.0]  # along the edge: its ends, and where it crosses a border
    for axis, limit in ((0, size[1]), (1, size[0])):
        for border in (0.0, float(limit)):
            if start[axis] != end[axis]:
                places.append((border - start[axis]) / (end[axis] - start[axis]))
    points = [start + place * (end - start) for place in places if 0 <= place <= 1]
    margin = 1e-9 * max(size)
    return [p for p in points if -margin <= p[0] <= size[1] + margin and -margin <= p[1] <= size[0] + margin]


# --- the rest --------------------------------------------------------------------------------------------------


def jitter(sample: Sample, amplitudes: tuple[float, float, float], rng: np.random.Generator) -> Sample:
    """Jitter hue, saturation and value by one table of three columns."""
    gains = 1 + rng.uniform(-1, 1, 3) * np.array(amplitudes)
    levels = np.arange(256)
    table = np.stack(((levels * gains[0]) % 180, *((levels * gain).clip(0, 255) for gain in gains[1:])), axis=-1)
    hsv = cv2.LUT(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV), table.astype(np.uint8)[None])
    return replace(sample, image=cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
    """Blend in float32 and round down."""
    share = np.float32(rng.beta(8.0, 8.0))
    image = (share * sample.image + (1 - share) * partner.image).astype(np.uint8)
    first, second = sample.objects, partner.objects
    return sample_of(image, np.concatenate((first.boxes, second.boxes)), np.concatenate((first.labels, second.labels)),
                     [*first.polygons, *second.polygons], sample.meta)


def flip(sample: Sample, axis: int) -> Sample:
    """Mirror left and right (0) or top and bottom (1)."""
    side = sample.image.shape[1 - axis]
    boxes, before = sample.objects.boxes.copy(), sample.objects.boxes
    boxes[:, axis], boxes[:, axis + 2] = side - before[:, axis + 2], side - before[:, axis]
    polygons = []
    for points in sample.objects.polygons:
        moved = points.copy()
        moved[:, axis] = side - moved[:, axis]
        polygons.append(moved)
    return sample_of(np.flip(sample.image, 1 - axis), boxes, sample.objects.labels, polygons, sample.meta)
