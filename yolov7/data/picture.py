"""How the pixels of a sample are made: all that is random about them, known before an image is read.

A picture is a canvas and what is done to it afterwards. Whoever needs the pixels makes them (`Picture.pixels`), or has
them made on another device (`yolov7.data.device_augment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from yolov7.data.geometry import Warp
from yolov7.data.image_cache import ImageReader
from yolov7.data.objects import Objects, Sample
from yolov7.data.pixel_changes import PixelChange
from yolov7.data.render import Tile, paste_mirrored, render


@dataclass(frozen=True)
class Canvas:
    """Tiles on a canvas of ``side`` pixels, warped; then what lies in some polygons of it once more, mirrored."""

    tiles: Sequence[Tile]
    side: int
    warp: Warp
    mirrored: Sequence[np.ndarray] = ()  # polygons [k, 2]

    def pixels(self, reader: ImageReader) -> np.ndarray:
        """uint8 ``[H, W, 3]``. Raises `InputError` where an image cannot be read."""
        # what is warped twice is decoded once, into memory of its own
        read = cache(reader.read) if self.mirrored else reader.read_for_warp
        image = render(self.tiles, self.side, self.warp, read)
        if self.mirrored:
            paste_mirrored(image, self.tiles, self.side, self.warp, read, self.mirrored)
        return image


@dataclass(frozen=True)
class Picture:
    """A canvas of images that ``reader`` reads, and the changes of its pixels, in their order."""

    canvas: Canvas
    reader: ImageReader = field(repr=False)
    changes: tuple[PixelChange, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its pixels: H, W, 3."""
        return *self.canvas.warp.size, 3

    def pixels(self) -> np.ndarray:
        """uint8 ``[H, W, 3]``. Raises `InputError` where an image cannot be read."""
        image = self.canvas.pixels(self.reader)
        for change in self.changes:
            image = change(image)
        return image


def changed(sample: Sample, change: PixelChange, objects: Objects | None = None) -> Sample:
    """The sample with changed pixels, at once or, of a picture, when they are made; with other objects, if given."""
    picture = sample.image
    after = replace(picture, changes=(*picture.changes, change)) if isinstance(picture, Picture) else \
        change(sample.pixels)
    return replace(sample, image=after, objects=sample.objects if objects is None else objects)


def made(sample: Sample) -> Sample:
    """The sample with its pixels."""
    return replace(sample, image=sample.image.pixels()) if isinstance(sample.image, Picture) else sample
