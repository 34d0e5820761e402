"""Objects that are pasted: mirrored ones inside a mosaic, cut-outs of other pictures (spec of the data, 12.3, 12.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.geometry import Warp, warp_points
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.mosaic import Reader, Tile, render
from yolov7.data.objects import Objects, concatenate, objects_in, objects_of, with_objects
from yolov7.data.reader import PictureReader
from yolov7.data.transforms import cover, draw_window
from yolov7.structures import Sample

LARGEST_COVER = 0.30  # of an object by something pasted on it
PASTE_SIZES = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6  # of the picture's sides
POOL_PICTURES = 64  # whose objects are pasted during an epoch
POOL_OBJECTS = 8  # of one picture, at most: bounds the memory of a process


# --- mirrored objects ------------------------------------------------------------------------------------------


def draw_mirrored(
    objects: Objects, share: float, side: int, rng: np.random.Generator
) -> tuple[Objects, list[np.ndarray]]:
    """Mirror a share of the outlined objects on a canvas where they cover no object by 30% or more.

    Returns all objects, the mirrored ones last, and the outlines ``[k, 2]`` that were mirrored.
    """
    outlined = np.flatnonzero(objects.outlined)
    count = round(share * len(outlined))
    if not count:
        return objects, []
    mirror, width = np.array((-1, 1), np.float32), np.array((side, 0), np.float32)
    segments, result, outlines = objects.segments(), objects, []
    for index in rng.choice(outlined, count, replace=False).tolist():
        box = objects.boxes[index, [2, 1, 0, 3]] * np.tile(mirror, 2) + np.tile(width, 2)
        if (cover(box, result.boxes) >= LARGEST_COVER).any():
            continue
        one = objects.select(np.array([index]))
        one = replace(one, boxes=box[None], points=one.points * mirror + width, keypoints=np.zeros_like(one.keypoints))
        result = concatenate((result, one))
        outlines.append(segments[index])
    return result, outlines


def paste_mirrored(
    image: np.ndarray, tiles: Sequence[Tile], side: int, drawn: Warp, read: Reader, outlines: Sequence[np.ndarray]
) -> None:
    """Write into a rendered picture what lies, mirrored, inside these outlines of the canvas."""
    mirror = np.array(((-1.0, 0, side - 1), (0, 1, 0), (0, 0, 1)))  # of a pixel's index
    mirrored = replace(drawn, matrix=drawn.matrix @ mirror)
    mask = np.zeros(drawn.size, np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [warp_points(outline.astype(int), mirrored).round().astype(np.int32)], 1)
    if mask.any():
        cv2.copyTo(render(tiles, side, mirrored, read), mask, image)


# --- cut-outs --------------------------------------------------------------------------------------------------


class CutOut(NamedTuple):
    """An object cut out along its outline."""

    patch: np.ndarray  # uint8 [h, w, 3]
    mask: np.ndarray  # bool [h, w]
    outline: np.ndarray  # float32 [K, 2] pixels of `patch`
    label: int


class CutOutPool:
    """The cut-outs of an epoch: half of the outlined objects of 64 pictures drawn from (seed, epoch).

    Every process has the same ones and makes them when they are first asked for. (The original collects them for
    every picture that it pastes on, which costs it four pictures or more each time.)
    """

    def __init__(self, image_set: ImageSet, reader: PictureReader, seed: int) -> None:
        self.image_set, self.reader, self.seed = image_set, reader, seed
        owners = np.repeat(np.arange(len(image_set)), np.diff(image_set.offsets))
        self.pictures = np.unique(owners[np.diff(image_set.point_offsets) > 0])  # that have outlines
        self._latest: tuple[int, CutOuts] | None = None

    def of_epoch(self, epoch: int) -> CutOuts:
        """The cut-outs of an epoch; those of the one before are forgotten."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, CutOuts(self, self._draw(epoch))
        return self._latest[1]

    def _draw(self, epoch: int) -> tuple[tuple[int, int], ...]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(1,)))
        chosen = rng.choice(self.pictures, min(POOL_PICTURES, len(self.pictures)), replace=False)
        keys = []
        for picture in chosen.tolist():
            outlined = np.flatnonzero(objects_of(self.image_set, picture).outlined)
            count = min(-(-len(outlined) // 2), POOL_OBJECTS)
            keys += [(picture, row) for row in rng.choice(outlined, count, replace=False).tolist()]
        return tuple(keys)

    def cut_out(self, picture: int) -> dict[int, CutOut]:
        """The outlined objects of a picture by their place; none if the picture cannot be read."""
        try:
            image = self.reader.read(picture)
        except InputError:
            return {}
        objects = objects_of(self.image_set, picture).placed(self.reader.ratio(picture), np.zeros(2))
        found = {row: _cut_out(image, objects, row) for row in np.flatnonzero(objects.outlined).tolist()}
        return {row: item for row, item in found.items() if item is not None}


class CutOuts:
    """The cut-outs of one epoch as a sequence, made on demand; `None` where nothing can be cut out."""

    def __init__(self, pool: CutOutPool, keys: tuple[tuple[int, int], ...]) -> None:
        self.pool, self.keys = pool, keys
        self._made: dict[tuple[int, int], CutOut | None] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> CutOut | None:
        key = self.keys[place]
        if key not in self._made:  # all of the picture's at once: it is read only once
            found = self.pool.cut_out(key[0])
            self._made |= {other: found.get(other[1]) for other in self.keys if other[0] == key[0]}
        return self._made[key]


def _cut_out(image: np.ndarray, objects: Objects, row: int) -> CutOut | None:
    """Cut out an object by its box, rounded down to pixels (spec 12.4)."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = objects.boxes[row].astype(int).clip(0, (width, height) * 2).tolist()
    if x2 <= x1 or y2 <= y1:
        return None
    outline = objects.segments()[row] - np.array((x1, y1), np.float32)
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
    patch = image[y1:y2, x1:x2].copy()  # a view would keep the whole picture in memory
    return CutOut(patch, mask.astype(bool), outline, int(objects.labels[row]))


def paste_in(sample: Sample, cut_outs: Sequence[CutOut | None] | CutOuts, rng: np.random.Generator) -> Sample:
    """Paste cut-outs into random windows that cover no object by 30% or more (spec 12.4)."""
    if not len(cut_outs):
        return sample
    sample = replace(sample, image=sample.image.copy())
    for size in PASTE_SIZES:
        if rng.random() < 0.2:
            continue
        window = draw_window(sample.image.shape[0], sample.image.shape[1], size, rng)
        width, height = (window[2:] - window[:2]).tolist()
        if min(width, height) <= 20 or (cover(window, sample.boxes) >= LARGEST_COVER).any():
            continue
        item = cut_outs[int(rng.integers(len(cut_outs)))]
        scaled = _fit(item, height, width) if item else None
        if scaled is not None:
            sample = _paste(sample, scaled, int(window[0]), int(window[1]))
    return sample


def _fit(item: CutOut, height: int, width: int) -> CutOut | None:
    """Scale a cut-out to fit a window; nothing where too little is left of it."""
    ratio = min(height / item.patch.shape[0], width / item.patch.shape[1])
    shape = int(item.patch.shape[1] * ratio), int(item.patch.shape[0] * ratio)  # width, height
    if min(shape) <= 10:
        return None
    mask = cv2.resize(item.mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST).astype(bool)
    if mask.sum() <= 20:  # the original counts more than 60 values of three channels
        return None
    scale = np.array((shape[0] / item.patch.shape[1], shape[1] / item.patch.shape[0]), np.float32)
    return CutOut(cv2.resize(item.patch, shape), mask, item.outline * scale, item.label)


def _paste(sample: Sample, item: CutOut, x: int, y: int) -> Sample:
    """Write into the sample's picture, which must be its own, and add the object."""
    height, width = item.mask.shape
    sample.image[y : y + height, x : x + width][item.mask] = item.patch[item.mask]
    pasted = Objects(
        boxes=np.array([(x, y, x + width, y + height)], np.float32),
        labels=np.array([item.label]),
        points=(item.outline + np.array((x, y), np.float32)).astype(np.float32),
        counts=np.array([len(item.outline)]),
        keypoints=np.zeros((1, *sample.keypoints.shape[1:]), np.float32),
    )
    return with_objects(sample, concatenate((objects_in(sample), pasted)))


@dataclass(frozen=True)
class PasteIn:
    """Paste objects of other pictures with a probability."""

    probability: float
    pool: CutOutPool
    epoch: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        return paste_in(sample, self.pool.of_epoch(self.epoch), rng) if rng.random() < self.probability else sample
