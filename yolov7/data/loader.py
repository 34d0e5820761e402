"""Samples -> `Batch`: collate, order, loader processes."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from yolov7.config import InputError
from yolov7.data.dataset import EvaluationDataset, TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.scan import available_cores
from yolov7.structures import Batch, Sample, Targets

LOW_PRIORITY = 19
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER = 2**30
OBJECTS_STEP = 8  # padded objects of an image: a multiple of this


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; objects are padded to a multiple of 8.

    The pictures keep their memory order, which is the one that convolutions prefer (channels last).
    """
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    most = max(1, *(len(sample.labels) for sample in samples))
    shape = len(samples), math.ceil(most / OBJECTS_STEP) * OBJECTS_STEP
    boxes, labels = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.int64)
    valid = torch.zeros(shape, dtype=torch.bool)
    for i, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[i, :count] = torch.from_numpy(sample.boxes)
        labels[i, :count] = torch.from_numpy(sample.labels)
        valid[i, :count] = True
    counts = tuple(len(sample.labels) for sample in samples)
    return Batch(images, Targets(boxes, labels, valid, counts), tuple(sample.meta for sample in samples))


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Keys (epoch, position, index) of an epoch, shuffled by (seed, epoch).

    The epoch travels in the key: a worker that lives through all epochs cannot lag behind. With ``batches`` (arrays
    of indices, the last of which may be smaller) it is these that are shuffled, and the smaller one stays behind.
    With ``weights`` pictures are drawn by them, and may repeat.
    """

    def __init__(self, length: int, seed: int, batches: Sequence[np.ndarray] = ()) -> None:
        self.length, self.seed, self.epoch = length, seed, 0
        self.batches = list(batches)
        self.weights: np.ndarray | None = None  # float64 [I], sum 1

    def set_epoch(self, epoch: int, weights: np.ndarray | None = None) -> None:
        """Choose the epoch of the next pass: to be called before the loader is iterated over."""
        self.epoch, self.weights = epoch, weights

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is not None:
            order = rng.choice(self.length, self.length, p=self.weights)
        else:
            order = self._shuffled_batches(rng) if self.batches else rng.permutation(self.length)
        return iter([(self.epoch, position, index) for position, index in enumerate(order.tolist())])

    def _shuffled_batches(self, rng: np.random.Generator) -> np.ndarray:
        whole = sum(len(batch) == len(self.batches[0]) for batch in self.batches)
        places = [*rng.permutation(whole).tolist(), *range(whole, len(self.batches))]
        return np.concatenate([rng.permutation(self.batches[place]) for place in places])


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` that yields `Batch` and says in one sentence why a worker failed."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        fault: InputError | None = None
        try:
            for batch in super().__iter__():
                if isinstance(batch, InputError):
                    fault = batch
                    break
                yield batch
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise RuntimeError(
                f"a loader process ended unexpectedly ({error}); where memory is short, fewer --workers need less"
            ) from None
        if fault is not None:
            self._iterator = None  # ends the workers now
            raise InputError(str(fault))


class _Guarded(Dataset[Any]):
    """Samples, or the `InputError` as a value: raised in a worker, it would arrive inside the text of a traceback,
    and the reference cycle that torch makes of it delays the end of the workers by 5 seconds each."""

    def __init__(self, dataset: TrainingDataset | EvaluationDataset) -> None:
        self.samples = dataset

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Sample | InputError:
        try:
            return self.samples[key]
        except InputError as error:
            return InputError(str(error))  # without the frames of its traceback


def _collate(samples: Sequence[Sample | InputError]) -> Batch | InputError:
    good = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
        good.append(sample)
    return collate(good)


def training_loader(dataset: TrainingDataset, sampler: EpochSampler, batch_size: int, workers: int) -> BatchLoader:
    """Shuffled batches; call ``sampler.set_epoch(epoch)`` before each pass. The last one may be smaller."""
    return _loader(dataset, sampler, batch_size, workers)


def evaluation_loader(
    image_set: ImageSet, image_size: int, batch_size: int, stride: int, workers: int, rectangular: bool = True,
    cache: str = "off",
) -> BatchLoader:
    """Batches of pictures as they are, in the order of their aspect ratio (or unchanged and square)."""
    order, shapes = np.arange(len(image_set)), None
    if rectangular:
        order, shapes = rectangular_batches(image_set.sizes, image_size, batch_size, stride)
    return _loader(EvaluationDataset(image_set, image_size, shapes, cache), order.tolist(), batch_size, workers)


def rectangular_batches(
    sizes: np.ndarray, image_size: int, batch_size: int, stride: int, pad: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Order of the pictures by aspect ratio and the padded shape of each: ``[I]``, ``[I, 2]`` (spec section 9).

    The published numbers were made with half a stride of padding around a batch.
    """
    aspect = sizes[:, 0] / sizes[:, 1]
    order = np.argsort(aspect, kind="stable")
    shapes = np.zeros((len(sizes), 2), np.int64)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        low, high = aspect[batch].min(), aspect[batch].max()
        relative = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
        shapes[batch] = np.ceil(np.array(relative) * image_size / stride + pad).astype(int) * stride
    return order, shapes


def _loader(dataset: TrainingDataset | EvaluationDataset, sampler: Any, batch_size: int, workers: int) -> BatchLoader:
    workers = min(available_cores(), batch_size, len(dataset), workers)
    settings: dict[str, Any] = {}
    if workers:
        fork = "fork" in multiprocessing.get_all_start_methods()  # starts in no time and shares the arrays
        settings = {
            "persistent_workers": True,
            "worker_init_fn": _start_worker,
            "multiprocessing_context": "fork" if fork else None,
        }
    return BatchLoader(
        _Guarded(dataset),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        **settings,
    )


def _start_worker(_: int) -> None:
    if hasattr(os, "nice") and not torch.cuda.is_available():
        os.nice(LOW_PRIORITY)  # the network runs on the same cores, and its threads wait for the slowest of them
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process reuse the memory of pictures that it has freed, where the C library is glibc.

    Otherwise it goes back to the system, which hands it out again page by page, filled with zeros: a third of the time
    of a sample.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)
