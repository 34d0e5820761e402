"""`ImageSet` -> samples: pictures as they are for evaluation, augmented for training."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.utils.data import Dataset

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.objects import objects_of, sample_of
from yolov7.data.paste import CutOutPool
from yolov7.data.pipeline import Composer, make_steps
from yolov7.data.reader import PictureReader
from yolov7.data.transforms import letterbox_sample
from yolov7.options import AugmentConfig
from yolov7.structures import ImageMeta, Sample

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 20  # at a sample, where pictures cannot be read


class EvaluationDataset(Dataset[Sample]):
    """Pictures as they are, letterboxed; key: index.

    ``batch_shapes`` int ``[I, 2]`` gives each picture's height and width; default: square.
    """

    def __init__(
        self, image_set: ImageSet, image_size: int, batch_shapes: np.ndarray | None = None, cache: str = "off"
    ) -> None:
        self.image_set = image_set
        self.image_size = image_size
        self.batch_shapes = batch_shapes
        self.reader = PictureReader(image_set, image_size, training=False, cache=cache)

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, index: int) -> Sample:
        shape = (self.image_size, self.image_size)
        if self.batch_shapes is not None:
            shape = tuple(self.batch_shapes[index].tolist())
        return letterbox_sample(load_sample(self.image_set, self.reader, index), shape, scale_up=False)


def load_sample(image_set: ImageSet, reader: PictureReader, index: int) -> Sample:
    """One picture with a long side of the reader's size, with its objects."""
    image, (height, width) = reader.read(index), image_set.sizes[index].tolist()
    objects = objects_of(image_set, index).placed(reader.ratio(index), np.zeros(2))
    gain = float(reader.ratio(index)[1])  # the height's for both axes: quirk D9, in published numbers
    meta = ImageMeta(image_set.paths[index], image_set.image_ids[index], (height, width), (gain, gain))
    return sample_of(image, objects, meta)


class TrainingDataset(Dataset[Sample]):
    """Augmented samples; key: (epoch, position, index).

    A sample is a function of (seed, epoch, position, index) alone: not of the process that makes it. Mosaics are made
    in the first ``mosaic_epochs`` only (default: always).
    """

    def __init__(
        self,
        image_set: ImageSet,
        image_size: int,
        augment: AugmentConfig,
        seed: int = 0,
        batch_shapes: np.ndarray | None = None,
        cache: str = "off",
        mosaic_epochs: int | None = None,
    ) -> None:
        self.image_set = image_set
        self.augment = augment
        self.mosaic_epochs = mosaic_epochs
        self.seed = seed
        self.reader = PictureReader(image_set, image_size, training=True, cache=cache)
        self.composer = Composer(image_set, self.reader, augment, batch_shapes)
        self.pool = CutOutPool(image_set, self.reader, seed)
        self._replaced = torch.zeros(1, dtype=torch.int64).share_memory_()  # counted by all workers together
        self._warned: set[str] = set()
        self._say_what_is_idle()

    def __len__(self) -> int:
        return len(self.image_set)

    @property
    def replaced(self) -> int:
        """Samples so far that were replaced, because a picture could not be read."""
        return int(self._replaced)

    def _say_what_is_idle(self) -> None:
        for key in ("paste_in", "copy_paste"):
            share = getattr(self.augment, key)
            if share and key in self.augment.pipeline and not len(self.pool.pictures):
                logger.warning(
                    "augment.%s is %g, but no object has an outline: nothing is pasted (as with --set augment.%s=0)",
                    key, share, key,
                )

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """An augmented sample; another one takes its place where a picture cannot be read."""
        epoch, position, index = key
        reason = ""
        for attempt in range(MOST_ATTEMPTS):
            rng = np.random.default_rng([self.seed, epoch, position, attempt])
            try:
                return self._augmented(epoch, self._another(index, rng) if attempt else index, rng)
            except InputError as error:
                reason = str(error)
                self._replaced += 1
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning("%s; another sample takes its place (%d so far)", reason, self.replaced)
        raise InputError(f"{MOST_ATTEMPTS} samples in a row cannot be read; the last: {reason}")

    def _another(self, index: int, rng: np.random.Generator) -> int:
        """Any other picture; in a rectangular batch, one of the same shape."""
        shapes = self.composer.batch_shapes
        alike = np.arange(len(self)) if shapes is None else np.flatnonzero((shapes == shapes[index]).all(1))
        return int(rng.choice(alike))

    def _augmented(self, epoch: int, index: int, rng: np.random.Generator) -> Sample:
        mosaics = self.mosaic_epochs is None or epoch < self.mosaic_epochs
        sample = self.composer(index, rng, mosaics)
        for step in make_steps(self.augment, self.composer, self.pool, epoch):
            sample = step(sample, rng)
        return sample
