"""The augmentation as a list of steps (``augment.pipeline`` of a recipe; spec of the data, section 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from yolov7.config import InputError, unknown
from yolov7.data.colour import COLOUR_CHANGES, Sometimes
from yolov7.data.geometry import RandomPerspective, Warp, crop, warp_objects
from yolov7.data.image_set import ImageSet
from yolov7.data.mosaic import Tile, draw_mosaic, render, tile_corners
from yolov7.data.objects import concatenate, objects_of, sample_of
from yolov7.data.paste import CutOutPool, PasteIn, draw_mirrored, paste_mirrored
from yolov7.data.reader import PictureReader
from yolov7.data.transforms import Cutout, Flip, HSVJitter, Step, mirrored_order, mixup
from yolov7.options import AugmentConfig
from yolov7.structures import ImageMeta, Sample

GEOMETRY = ("mosaic", "copy_paste", "perspective")  # drawn together before any picture is read


@dataclass(frozen=True)
class Composer:
    """Makes the picture that the other steps change: a mosaic, or one picture, warped (the steps of `GEOMETRY`)."""

    image_set: ImageSet
    reader: PictureReader
    config: AugmentConfig
    batch_shapes: np.ndarray | None = None  # int [I, 2] height, width of rectangular batches: no mosaics then

    def __call__(self, index: int, rng: np.random.Generator, mosaics: bool = True) -> Sample:
        """Draw and make a sample around a picture."""
        config = self.config
        may_be_mosaic = mosaics and "mosaic" in config.pipeline and self.batch_shapes is None
        is_mosaic = may_be_mosaic and rng.random() < config.mosaic
        return self.mosaic(index, rng) if is_mosaic else self.single(index, rng)

    def mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        """Four or nine pictures, of which this is the first."""
        size = self.reader.size
        side = 2 * size
        drawn = draw_mosaic(index, len(self.image_set), size, rng)
        shapes = [self.reader.shape(i) for i in drawn.indices]
        corners = tile_corners(shapes, drawn, size)
        tiles = [Tile(*tile) for tile in zip(drawn.indices, shapes, corners, strict=True)]
        parts = [objects_of(self.image_set, i) for i in drawn.indices]
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])  # tile of each object
        ratios = self.reader.ratio(list(drawn.indices))
        objects = concatenate(parts).placed(ratios[owner], np.array(corners)[owner]).clipped(side)
        share = self.config.copy_paste if "copy_paste" in self.config.pipeline else 0.0
        objects, outlines = draw_mirrored(objects, share, side, rng)
        warp = self._draw_warp((side, side), -size // 2, rng)
        pictures: dict[int, np.ndarray] = {}

        def read(i: int) -> np.ndarray:  # a picture may be in several tiles, and mirrored too
            if i not in pictures:
                pictures[i] = self.reader.read(i)
            return pictures[i]

        image = render(tiles, side, warp, read)
        if outlines:
            paste_mirrored(image, tiles, side, warp, read, outlines)
        return sample_of(image, warp_objects(objects, warp), replace(self._meta(index), mosaic=True))

    def single(self, index: int, rng: np.random.Generator) -> Sample:
        """One picture, letterboxed."""
        size = self.reader.size
        shape = (size, size) if self.batch_shapes is None else tuple(self.batch_shapes[index].tolist())
        height, width = self.reader.shape(index)
        spare = shape[1] - width, shape[0] - height
        objects = objects_of(self.image_set, index).placed(self.reader.ratio(index), np.array(spare) / 2)
        # warped as boxes, as the original does
        objects = replace(objects, points=objects.points[:0], counts=np.zeros_like(objects.counts))
        warp = self._draw_warp(shape, 0, rng)
        tile = Tile(index, (height, width), (spare[0] // 2, spare[1] // 2))
        image = render([tile], max(shape), warp, self.reader.read)
        return sample_of(image, warp_objects(objects, warp), self._meta(index))

    def _draw_warp(self, shape: tuple[int, int], border: int, rng: np.random.Generator) -> Warp:
        if "perspective" in self.config.pipeline:
            return RandomPerspective(self.config, border).draw(*shape, rng)
        return crop(*shape, border)

    def _meta(self, index: int) -> ImageMeta:
        height, width = self.image_set.sizes[index].tolist()
        return ImageMeta(self.image_set.paths[index], self.image_set.image_ids[index], (height, width))


@dataclass(frozen=True)
class MixUp:
    """Blend a mosaic with another one, with a probability."""

    probability: float
    composer: Composer

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        if not sample.meta.mosaic or rng.random() >= self.probability:
            return sample
        partner = int(rng.integers(len(self.composer.image_set)))
        return mixup(sample, self.composer.mosaic(partner, rng), rng)


Factory = Callable[[AugmentConfig, Composer, CutOutPool, int], Step | None]


def _sometimes(name: str, config: AugmentConfig, *_: object) -> Step | None:
    probability = getattr(config, name)
    return Sometimes(probability, COLOUR_CHANGES[name]) if probability else None


def _flip(config: AugmentConfig, composer: Composer, *_: object) -> Step | None:
    order = mirrored_order(composer.image_set.keypoint_names)
    return Flip(config.fliplr, "horizontal", order) if config.fliplr else None


def _hsv(config: AugmentConfig, *_: object) -> Step | None:
    amplitudes = (config.hsv_h, config.hsv_s, config.hsv_v)
    return HSVJitter(*amplitudes) if any(amplitudes) else None


def _paste_in(config: AugmentConfig, _: Composer, pool: CutOutPool, epoch: int) -> Step | None:
    return PasteIn(config.paste_in, pool, epoch) if config.paste_in and len(pool.pictures) else None


STEPS: dict[str, Factory] = {
    "mixup": lambda config, composer, *_: MixUp(config.mixup, composer) if config.mixup else None,
    "hsv": _hsv,
    "paste_in": _paste_in,
    "cutout": lambda config, *_: Cutout(config.cutout) if config.cutout else None,
    "flipud": lambda config, *_: Flip(config.flipud, "vertical") if config.flipud else None,
    "fliplr": _flip,
    **{name: partial(_sometimes, name) for name in COLOUR_CHANGES},
}


def check_pipeline(names: tuple[str, ...]) -> None:
    """Raise `InputError` for a name that is no step, stands twice, or for geometry that does not come first."""
    for name in names:
        if name not in (*GEOMETRY, *STEPS):
            raise InputError(f"augment.pipeline: {unknown('step', name, (*GEOMETRY, *STEPS))}")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise InputError(f"augment.pipeline: found {twice[0]!r} twice; accepted: every step once")
    geometry = [name for name in GEOMETRY if name in names]
    if list(names[: len(geometry)]) != geometry:
        raise InputError(f"augment.pipeline: found {', '.join(names)}; accepted: {', '.join(geometry)} first, in this "
                         "order (they are drawn together), then the others in any order")


def make_steps(config: AugmentConfig, composer: Composer, pool: CutOutPool, epoch: int) -> tuple[Step, ...]:
    """The steps behind the geometry that have something to do in this epoch; a probability of 0 is no step."""
    made = (STEPS[name](config, composer, pool, epoch) for name in config.pipeline if name in STEPS)
    return tuple(step for step in made if step is not None)
