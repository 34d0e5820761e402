"""`ImageSet` -> samples: pictures as they are for evaluation, augmented for training."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet, no_outline
from yolov7.data.images import load_image, resize_long_side
from yolov7.data.mosaic import Mosaic, build_mosaic, copy_paste, draw_four_tiles, draw_mosaic
from yolov7.data.transforms import (
    CutOut,
    Flip,
    HSVJitter,
    RandomPerspective,
    cut_out,
    letterbox_sample,
    mixup,
    paste_in,
)
from yolov7.options import AugmentConfig
from yolov7.structures import ImageMeta, Sample

logger = logging.getLogger(__name__)

ENOUGH_CUT_OUTS = 30  # collected before pasting
MOST_MOSAICS = 8  # read to collect them
MOST_ATTEMPTS = 20  # at a sample, where pictures cannot be read


def load_sample(image_set: ImageSet, index: int, size: int, training: bool) -> Sample:
    """One picture, resized to a long side of ``size`` pixels, with its objects (see `resize_long_side`)."""
    path = image_set.paths[index]
    native = load_image(path)
    image = resize_long_side(native, size, training)
    ratio = np.array((image.shape[1] / native.shape[1], image.shape[0] / native.shape[0]), np.float32)  # x, y
    boxes, labels, segments = image_set.objects(index)
    gain = float(image.shape[0] / native.shape[0])  # the height's for both axes: quirk D9, in published numbers
    meta = ImageMeta(path, image_set.image_ids[index], native.shape[:2], (gain, gain))
    return Sample(image, boxes * np.tile(ratio, 2), labels, tuple(points * ratio for points in segments), meta)


class DetectionDataset(Dataset[Sample]):
    """Samples for training (``augment`` given; key: epoch, position, index) or evaluation (key: index).

    A training sample is a function of (seed, epoch, position, index) alone: not of the process that makes it.
    ``batch_shapes`` ``[I, 2]`` gives each picture's height and width in evaluation; default: square.
    """

    def __init__(
        self,
        image_set: ImageSet,
        image_size: int,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        batch_shapes: np.ndarray | None = None,
    ) -> None:
        self.image_set = image_set
        self.image_size = image_size
        self.augment = augment or AugmentConfig()
        self.seed = seed
        self.batch_shapes = batch_shapes
        self.has_outlines = len(image_set.points) > 0
        self._replaced = torch.zeros(1, dtype=torch.int64).share_memory_()  # counted by all workers together
        self._warned: set[str] = set()
        if augment is not None:
            self._say_what_is_idle()

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, key: int | tuple[int, int, int]) -> Sample:
        if isinstance(key, tuple):
            return self.training_sample(*key)
        return self.evaluation_sample(key)

    @property
    def replaced(self) -> int:
        """Samples so far that were replaced, because a picture could not be read."""
        return int(self._replaced)

    def _say_what_is_idle(self) -> None:
        for key in ("paste_in", "copy_paste"):
            share = getattr(self.augment, key)
            if share and not self.has_outlines:
                logger.warning(
                    "augment.%s is %g, but no object has an outline: nothing is pasted (as with --set augment.%s=0)",
                    key, share, key,
                )

    def evaluation_sample(self, index: int) -> Sample:
        """The picture as it is, letterboxed."""
        sample = load_sample(self.image_set, index, self.image_size, training=False)
        shape = (self.image_size, self.image_size)
        if self.batch_shapes is not None:
            shape = tuple(self.batch_shapes[index].tolist())
        return letterbox_sample(sample, shape, scale_up=False)

    def training_sample(self, epoch: int, position: int, index: int) -> Sample:
        """An augmented sample; another one takes its place where a picture cannot be read."""
        reason = ""
        for attempt in range(MOST_ATTEMPTS):
            rng = np.random.default_rng([self.seed, epoch, position, attempt])
            try:
                return self._augmented(int(rng.integers(len(self))) if attempt else index, rng)
            except InputError as error:
                reason = str(error)
                self._replaced += 1
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning("%s; another sample takes its place (%d so far)", reason, self.replaced)
        raise InputError(f"{MOST_ATTEMPTS} samples in a row cannot be read; the last: {reason}")

    def _augmented(self, index: int, rng: np.random.Generator) -> Sample:
        """The order of spec section 10."""
        config = self.augment
        if rng.random() < config.mosaic:
            sample = self._mosaic(index, rng)
            if rng.random() < config.mixup:
                sample = mixup(sample, self._mosaic(int(rng.integers(len(self))), rng), rng)
        else:
            sample = RandomPerspective(config)(self._single(index), rng)
        sample = HSVJitter(config.hsv_h, config.hsv_s, config.hsv_v)(sample, rng)
        if self.has_outlines and rng.random() < config.paste_in:
            sample = paste_in(sample, self._cut_outs(rng), rng)
        sample = Flip(config.flipud, "vertical")(sample, rng)
        return Flip(config.fliplr, "horizontal")(sample, rng)

    def _single(self, index: int) -> Sample:
        sample = load_sample(self.image_set, index, self.image_size, training=True)
        sample = letterbox_sample(sample, (self.image_size, self.image_size), scale_up=True)
        return replace(sample, segments=(no_outline(),) * len(sample.labels))  # warped as boxes, as the original does

    def _mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        mosaic = draw_mosaic(index, len(self), self.image_size, rng)
        sample = copy_paste(self._build(mosaic), self.augment.copy_paste, rng)
        return RandomPerspective(self.augment, border=-self.image_size // 2)(sample, rng)

    def _build(self, mosaic: Mosaic) -> Sample:
        tiles = [load_sample(self.image_set, index, self.image_size, training=True) for index in mosaic.indices]
        return build_mosaic(tiles, mosaic, self.image_size)

    def _cut_outs(self, rng: np.random.Generator) -> list[CutOut]:
        """Objects of other pictures: at least 30, unless the first mosaic has none or the eighth is not enough."""
        cut_outs: list[CutOut] = []
        for _ in range(MOST_MOSAICS):
            index = int(rng.integers(len(self)))
            cut_outs += cut_out(self._build(draw_four_tiles(index, len(self), self.image_size, rng)), rng)
            if not cut_outs or len(cut_outs) >= ENOUGH_CUT_OUTS:
                break
        return cut_outs
