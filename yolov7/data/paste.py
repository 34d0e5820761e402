"""Paste-in: objects cut out of other images (docs/reference.md, Paste-in)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.objects import Objects, Ragged, Sample, concatenate
from yolov7.data.picture import changed
from yolov7.data.pixel_changes import Cover, Patch
from yolov7.data.transforms import MAX_COVERED, draw_window, hide_keypoints, intersection_over_area

PASTE_SIZES = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6  # of the image's sides
POOL_IMAGES = 64  # whose objects are pasted during an epoch
POOL_OBJECTS = 8  # of one image, at most: bounds the memory of a process


class CutOut(NamedTuple):
    """An object cut out along its polygon."""

    patch: np.ndarray  # uint8 [h, w, 3]
    mask: np.ndarray  # bool [h, w]
    polygon: np.ndarray  # float32 [K, 2] pixels of `patch`
    label: int
    keypoints: np.ndarray | None = None  # float32 [K, 3] pixels of `patch`


class CutOutPool:
    """The cut-outs of an epoch: half of the objects with a polygon of 64 images drawn from (seed, epoch).

    Every process has the same ones and makes them when they are first asked for. (The reference implementation
    collects them for every image that it pastes on, which costs it four images or more each time.)
    """

    def __init__(self, image_set: ImageSet, reader: ImageReader, seed: int) -> None:
        self.image_set, self.reader, self.seed = image_set, reader, seed
        self.images = np.unique(image_set.image_index[image_set.objects.has_polygon])  # that have polygons
        self._latest: tuple[tuple[int, int], CutOuts] | None = None

    def of_epoch(self, epoch: int, window: int = 0, images: np.ndarray | None = None) -> CutOuts:
        """The cut-outs of an epoch, or of a window of it with these images; those of the one before are forgotten."""
        if self._latest is None or self._latest[0] != (epoch, window):
            key = [self.seed, epoch, window] if window else [self.seed, epoch]
            rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(1,)))
            having = self.images if images is None else np.intersect1d(self.images, images)
            chosen = rng.choice(having, min(POOL_IMAGES, len(having)), replace=False)
            keys = []
            for image in chosen.tolist():
                rows = np.flatnonzero(self.image_set.objects_of(image).has_polygon)
                count = min(-(-len(rows) // 2), POOL_OBJECTS)
                keys += [(image, row) for row in rng.choice(rows, count, replace=False).tolist()]
            self._latest = (epoch, window), CutOuts(self, keys)
        return self._latest[1]

    def cut_out(self, index: int) -> dict[int, CutOut | None]:
        """The objects of an image that have a polygon, by their place; none if the image cannot be read."""
        try:
            image = self.reader.read(index)
        except InputError:
            return {}
        objects = self.image_set.objects_of(index).placed(self.reader.ratio(index), np.zeros(2))
        return {row: _cut_out(image, objects, row) for row in np.flatnonzero(objects.has_polygon).tolist()}


class CutOuts:
    """The cut-outs of one epoch as a sequence, made on demand; `None` where nothing can be cut out."""

    def __init__(self, pool: CutOutPool, keys: list[tuple[int, int]]) -> None:
        self.pool, self.keys = pool, keys
        self._made: dict[tuple[int, int], CutOut | None] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> CutOut | None:
        key = self.keys[place]
        if key not in self._made:  # all of the image's at once: it is read only once
            found = self.pool.cut_out(key[0])
            self._made |= {other: found.get(other[1]) for other in self.keys if other[0] == key[0]}
        return self._made[key]


def _cut_out(image: np.ndarray, objects: Objects, row: int) -> CutOut | None:
    """Cut out an object by its box, rounded down to pixels."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = objects.boxes[row].astype(int).clip(0, (width, height) * 2).tolist()
    if x2 <= x1 or y2 <= y1:
        return None
    polygon = objects.polygons.of(row) - np.array((x1, y1), np.float32)
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(mask, [polygon.astype(np.int32)], 1)
    patch = image[y1:y2, x1:x2].copy()  # a view would keep the whole image in memory
    crop = objects[row : row + 1].placed(np.ones(2), -np.array((x1, y1)))
    keypoints = crop.clipped(np.array((x2 - x1, y2 - y1))).keypoints[0]
    return CutOut(patch, mask.astype(bool), polygon, int(objects.labels[row]), keypoints)


def paste_in(sample: Sample, cut_outs: Sequence[CutOut | None] | CutOuts, rng: np.random.Generator) -> Sample:
    """Paste cut-outs into random windows that cover no object by 30% or more."""
    if not len(cut_outs):
        return sample
    patches: list[Patch] = []
    for size in PASTE_SIZES:
        if rng.random() < 0.2:
            continue
        window = draw_window(sample.image.shape[0], sample.image.shape[1], size, rng)
        width, height = (window[2:] - window[:2]).tolist()
        if min(width, height) <= 20 or (intersection_over_area(window, sample.objects.boxes) >= MAX_COVERED).any():
            continue
        item = cut_outs[int(rng.integers(len(cut_outs)))]
        scaled = _fit(item, height, width) if item else None
        if scaled is not None:
            x, y = int(window[0]), int(window[1])
            patches.append(Patch(x, y, scaled.patch, scaled.mask))
            sample = replace(sample, objects=_with(sample.objects, scaled, x, y))
    return changed(sample, Cover(tuple(patches))) if patches else sample


def _fit(item: CutOut, height: int, width: int) -> CutOut | None:
    """Scale a cut-out to fit a window; nothing where too little is left of it."""
    ratio = min(height / item.patch.shape[0], width / item.patch.shape[1])
    shape = int(item.patch.shape[1] * ratio), int(item.patch.shape[0] * ratio)  # width, height
    if min(shape) <= 10:
        return None
    mask = cv2.resize(item.mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST).astype(bool)
    if mask.sum() <= 20:  # the reference implementation counts more than 60 values of three channels
        return None
    scale = np.array((shape[0] / item.patch.shape[1], shape[1] / item.patch.shape[0]), np.float32)
    keypoints = None if item.keypoints is None else item.keypoints * (*scale.tolist(), 1)
    return CutOut(cv2.resize(item.patch, shape), mask, item.polygon * scale, item.label, keypoints)


def _with(objects: Objects, item: CutOut, x: int, y: int) -> Objects:
    """Objects on which one is pasted."""
    height, width = item.mask.shape
    polygon = (item.polygon + np.array((x, y), np.float32)).astype(np.float32)
    columns: dict[str, Any] = {"polygons": Ragged(polygon, np.array([len(polygon)]))}
    if item.keypoints is not None and item.keypoints.size:
        moved = item.keypoints + np.array((x, y, 0))
        columns["keypoints"] = np.where(item.keypoints[:, 2:] > 0, moved, 0).astype(np.float32)[None]
    objects = hide_keypoints(objects, item.mask, (x, y))
    box = np.array([(x, y, x + width, y + height)], np.float32)
    pasted = objects.like(box, np.array([item.label]), **columns)
    return concatenate((objects, pasted))
