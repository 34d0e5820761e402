"""`ImageSet` -> samples: images as they are for evaluation, augmented for training."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from yolov7.config import InputError
from yolov7.config.recipe import AugmentConfig
from yolov7.data.compose import Composer
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.objects import Sample
from yolov7.data.packing import pack
from yolov7.data.paste import CutOutPool
from yolov7.data.picture import made
from yolov7.data.pipeline import make_steps
from yolov7.data.transforms import letterbox_sample
from yolov7.data.windows import LookAhead, Windows
from yolov7.structures import ImageMeta

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 20  # at a sample, where images cannot be read


class EvaluationDataset(Dataset[Sample]):
    """Images as they are, letterboxed; key: index.

    ``batch_shapes`` int ``[I, 2]`` gives each image's height and width; default: square.
    """

    def __init__(self, image_set: ImageSet, image_size: int, batch_shapes: np.ndarray | None = None,
                 cache: str = "off") -> None:
        square = np.full((len(image_set), 2), image_size)
        self.image_set, self.batch_shapes = image_set, square if batch_shapes is None else batch_shapes
        self.reader = ImageReader(image_set, image_size, training=False, cache=cache)

    @property
    def image_bytes(self) -> int:
        """Of the largest sample."""
        return 3 * int(self.batch_shapes.prod(1).max(initial=0))

    def __len__(self) -> int:
        return len(self.image_set)

    def __getitem__(self, index: int) -> Sample:
        image, (height, width) = self.reader.read(index), self.image_set.sizes[index].tolist()
        ratio = self.reader.ratio(index)
        objects = self.image_set.objects_of(index).placed(ratio, np.zeros(2))
        # as the reference implementation does (docs/reference.md, Height's gain on both axes)
        gain = float(ratio[1])
        meta = ImageMeta(self.image_set.paths[index], self.image_set.image_ids[index], (height, width), (gain, gain),
                         stretch=float(ratio[0] / ratio[1]))
        return letterbox_sample(Sample(image, objects, meta), tuple(self.batch_shapes[index].tolist()), scale_up=False)


class TrainingDataset(Dataset[Sample]):
    """Augmented samples; key: (epoch, position, index).

    A sample is a function of (seed, epoch, position, index) alone: not of the process that makes it. Mosaics are made
    in the first ``mosaic_epochs`` only (default: always). With ``windows`` it is made of the images of one window.
    """

    def __init__(self, image_set: ImageSet, image_size: int, augment: AugmentConfig, seed: int = 0,
                 batch_shapes: np.ndarray | None = None, cache: str = "off", mosaic_epochs: int | None = None,
                 windows: Windows | None = None) -> None:
        self.image_set, self.augment, self.mosaic_epochs, self.seed = image_set, augment, mosaic_epochs, seed
        self.reader = ImageReader(image_set, image_size, training=True, cache=cache)
        self.composer = Composer(image_set, self.reader, augment, batch_shapes)
        self.pool = CutOutPool(image_set, self.reader, seed)
        self.packs = False  # leave the pixels to a device
        self.windows = windows
        if windows is not None:
            self._look_ahead = LookAhead(windows)
        self._replaced = torch.zeros(1, dtype=torch.int64)  # counted by all workers together
        with suppress(RuntimeError):  # without shared memory each worker has its own count
            self._replaced.share_memory_()  # type: ignore[no-untyped-call]
        self._warned: set[str] = set()
        self._warn_of_inactive_steps()

    def __len__(self) -> int:
        return len(self.image_set)

    @property
    def image_bytes(self) -> int:
        """Of the largest sample."""
        shapes = self.composer.batch_shapes
        return 3 * (self.reader.size**2 if shapes is None else int(shapes.prod(1).max(initial=0)))

    @property
    def replaced(self) -> int:
        """Samples so far that were replaced, because an image could not be read."""
        return int(self._replaced)

    def keep_outlines(self) -> None:
        """From now on cut polygons off exactly where a mosaic ends, as masks need it; boxes stay as they are."""
        self.composer = replace(self.composer, exact_outlines=True)

    def _warn_of_inactive_steps(self) -> None:
        for key in ("paste_in", "copy_paste"):
            share = getattr(self.augment, key)
            if share and key in self.augment.pipeline and not len(self.pool.images):
                logger.warning("augment.%s is %g, but no object has a segmentation polygon, so %s is inactive (as with "
                               "--set augment.%s=0)", key, share, key.replace("_", "-"), key)
        order, mirrored = self.composer.mirrored_order, "fliplr" in self.augment.pipeline and self.augment.fliplr
        if len(order) > 1 and list(order) == sorted(order) and mirrored:
            logger.warning("key points keep their places in mirrored images: neither flip_idx nor names with left and "
                           "right say which ones change places (as with augment.fliplr=0 none is mirrored)")

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        return self.sample(key, self.packs)

    def sample(self, key: tuple[int, int, int], packed: bool = False) -> Sample:
        """An augmented sample, or what a device needs to make it.

        Another one takes its place where an image cannot be read.
        """
        epoch, position, index = key
        reason = ""
        for attempt in range(MAX_ATTEMPTS):
            rng = np.random.default_rng([self.seed, epoch, position, attempt])
            try:
                drawn = self._drawn(epoch, self._another(epoch, index, rng) if attempt else index, rng)
                return pack(drawn, key) if packed else made(drawn)
            except InputError as error:
                reason = str(error)
                self._replaced += 1
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning("%s; another sample takes its place (%d so far)", reason, self.replaced)
        raise InputError(f"{MAX_ATTEMPTS} samples in a row cannot be read; the last: {reason}")

    def _another(self, epoch: int, index: int, rng: np.random.Generator) -> int:
        """Any other image; in a rectangular batch, one of the same shape."""
        shapes = self.composer.batch_shapes
        if shapes is None:
            alike = np.arange(len(self)) if self.windows is None else self.windows.of_epoch(epoch).partners(index)
        else:
            alike = np.flatnonzero((shapes == shapes[index]).all(1))
        return int(rng.choice(alike))

    def _drawn(self, epoch: int, index: int, rng: np.random.Generator) -> Sample:
        mosaics = self.mosaic_epochs is None or epoch < self.mosaic_epochs
        partners, window = None, 0
        if self.windows is not None:
            of_epoch = self.windows.of_epoch(epoch)
            partners, window = of_epoch.partners(index), int(of_epoch.window_of[index])
            self._look_ahead.at(epoch, window)
        sample = self.composer(index, rng, mosaics, partners)
        for step in make_steps(self.augment, self.composer, self.pool, epoch, partners, window):
            sample = step(sample, rng)
        return sample
