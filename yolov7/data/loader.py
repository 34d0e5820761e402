"""Samples -> `Batch`: collate, order, loader processes."""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from yolov7.config import InputError, RunError
from yolov7.data.dataset import EvaluationDataset, TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.objects import Sample
from yolov7.data.packing import BatchPacker, Key, Packed, PackedBatch
from yolov7.data.transport import (
    ADVICE,
    PIPED,
    POLL,
    Delivery,
    Slots,
    next_item,
    room_to_share,
    sent,
    workers_with_room,
)
from yolov7.data.windows import Windows
from yolov7.runtime.device import available_cores, default_workers, local_processes, may_start_processes
from yolov7.runtime.memory import free_memory, keep_freed_memory
from yolov7.structures import Batch, Targets

logger = logging.getLogger(__name__)

LOW_PRIORITY = 19
MAX_SHARED = 0.25  # of the free memory, for batches on their way
OBJECTS_STEP = 8  # padded objects of an image: a multiple of this


@dataclass(frozen=True)
class Field:
    """What a task stacks beside boxes and labels: ``Targets.extra[name]`` for objects, ``Targets.maps[name]`` else.

    Its functions must be picklable: loader processes may be spawned.
    """

    name: str
    of: Callable[[Sample], np.ndarray]  # [N, ...] for the N objects, or an array of a fixed shape for the image
    per_object: bool = True
    # how [B, ...] changes when the images of a batch are resized by factors (x, y); None: not at all
    resize: Callable[[Tensor, tuple[float, float]], Tensor] | None = None
    outlines: bool = False  # it needs polygons whose edges are right up to the borders of a mosaic


def collate(samples: Sequence[Sample], fields: Sequence[Field] = (), pixels: np.ndarray | None = None) -> Batch:
    """Stack samples of one size, with a task's ``fields``; objects are padded to a multiple of 8.

    The images keep their memory order, which is the one that convolutions prefer (channels last); they are written
    into ``pixels``, where given.
    """
    images = torch.from_numpy(np.stack([sample.pixels for sample in samples], out=pixels)).permute(0, 3, 1, 2)
    return Batch(images, _targets(samples, fields), tuple(sample.meta for sample in samples))


def packed_batch(samples: Sequence[Sample], fields: Sequence[Field] = (),
                 room: Callable[[int], np.ndarray | None] = lambda length: None) -> Batch:
    """`collate` of packed samples: a `PackedBatch`, whose bytes are written into the ``room`` for them, if there is."""
    packer = BatchPacker(samples)
    content = torch.from_numpy(packer.write(room(packer.length)))
    return PackedBatch(content, _targets(samples, fields), tuple(sample.meta for sample in samples), (),
                       packer.pictures, packer.files, packer.decoded, packer.raw)


def _targets(samples: Sequence[Sample], fields: Sequence[Field]) -> Targets:
    counts = tuple(len(sample.objects) for sample in samples)
    length = math.ceil(max(1, *counts) / OBJECTS_STEP) * OBJECTS_STEP
    boxes = _padded([sample.objects.boxes for sample in samples], length)
    labels = _padded([sample.objects.labels for sample in samples], length)
    valid = torch.arange(length) < torch.tensor(counts)[:, None]
    arrays = {item: [item.of(sample) for sample in samples] for item in fields}
    extra = {item.name: _padded(found, length) for item, found in arrays.items() if item.per_object}
    maps = {item.name: torch.from_numpy(np.stack(found)) for item, found in arrays.items() if not item.per_object}
    return Targets(boxes, labels, valid, counts, extra, maps)


def _padded(arrays: Sequence[np.ndarray], length: int) -> Tensor:
    """Arrays ``[N, ...]`` of differing N as one ``[B, length, ...]``, filled up with zeros."""
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


class EpochSampler(Sampler[list[Key]]):
    """Batches of keys (epoch, position, index), shuffled by (seed, epoch); each of ``part`` = (rank, world_size) takes
    its share of every batch.

    The epoch travels in the key: a worker that lives through all epochs cannot lag behind. With ``batches`` (arrays
    of indices, the last of which may be smaller) it is these that are shuffled, and the smaller one stays behind.
    With weights images are drawn by them, and may repeat; with ``windows`` their order is that of `windows`. A last
    batch of fewer images than processes is filled up with others, so that everyone has one.
    """

    def __init__(self, length: int, batch_size: int, seed: int, batches: Sequence[np.ndarray] = (),
                 part: tuple[int, int] = (0, 1), windows: Windows | None = None) -> None:
        self.windows = windows
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0
        self.batches = list(batches)
        self.rank, self.world_size = part
        self.weights: np.ndarray | None = None  # float64 [I], sum 1
        self.start = 0

    def set_epoch(self, epoch: int, weights: np.ndarray | None = None, start: int = 0) -> None:
        """Choose the epoch of the next pass and its first batch: to be called before the loader is iterated over."""
        self.epoch, self.weights, self.start = epoch, weights, start

    @property
    def epoch_batches(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.length // self.batch_size)

    def images(self, batch: int) -> int:
        """Images in a batch, of all processes together."""
        return max(min(self.batch_size, self.length - batch * self.batch_size), self.world_size)

    def __len__(self) -> int:
        return self.epoch_batches - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order(np.random.default_rng([self.seed, self.epoch]))
        for batch in range(self.start, self.epoch_batches):
            first = batch * self.batch_size
            own = np.array_split(np.arange(first, first + self.images(batch)), self.world_size)[self.rank]
            yield [(self.epoch, position, int(order[position % self.length])) for position in own.tolist()]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        if self.weights is not None:
            return rng.choice(self.length, self.length, p=self.weights)
        if self.windows is not None:
            return self.windows.of_epoch(self.epoch).order
        return self._shuffled_batches(rng) if self.batches else rng.permutation(self.length)

    def _shuffled_batches(self, rng: np.random.Generator) -> np.ndarray:
        whole = sum(len(batch) == len(self.batches[0]) for batch in self.batches)
        places = [*rng.permutation(whole).tolist(), *range(whole, len(self.batches))]
        return np.concatenate([rng.permutation(self.batches[place]) for place in places])


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` that yields `Batch`, waits for none without end, and says in one sentence why a worker failed."""

    while_waiting: Callable[[], None] = staticmethod(lambda: None)  # called now and then; may raise
    finish: Callable[[Iterator[Batch]], Iterator[Batch]] = staticmethod(lambda batches: batches)  # in this process
    _said = False
    _begun: tuple[Any, Iterator[Any]] | None = None  # the place that the sampler was at, and the items from there

    def begin(self) -> None:
        """Have the workers make the first batches of the next pass, whose epoch the sampler must know already."""
        if self.num_workers and self._begun is None:
            self._begun = self._place(), self._start()

    def _place(self) -> Any:
        return [getattr(self.batch_sampler, name, None) for name in ("epoch", "start")]

    def _start(self) -> Iterator[Any]:
        slots = self.collate_fn.keywords["slots"]  # type: ignore[union-attr]
        if slots is not None and self._iterator is None:
            slots.forget_lost()  # of workers that are no more
        try:
            return super().__iter__()
        except OSError as error:
            raise RunError(f"the loader processes cannot be started ({error.strerror or error}); {ADVICE}") from None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return self.finish(self._batches())

    def _batches(self) -> Iterator[Batch]:
        if self._begun is not None and self._begun[0] != self._place():
            self.close()  # what was begun is not what is asked for
        items, self._begun = self._begun[1] if self._begun is not None else self._start(), None
        try:
            while (item := next_item(items, self.while_waiting)) is not None:
                if isinstance(item, (InputError, RunError)):
                    raise type(item)(str(item))
                if item.piped and not self._said:
                    logger.warning("%s", PIPED)
                    self._said = True
                yield item.batch
        except (InputError, RunError):
            self.close()
            raise

    def close(self) -> None:
        """End the workers now, not whenever the loader is collected; the next pass starts others."""
        self._iterator = self._begun = None


class _Guarded(Dataset[Any]):
    """Samples, or the error as a value: raised in a worker, it would arrive inside the text of a traceback,
    and the reference cycle that torch makes of it delays the end of the workers by 5 seconds each."""

    def __init__(self, dataset: TrainingDataset | EvaluationDataset) -> None:
        self.samples = dataset

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Sample | InputError | RunError:
        try:
            return self.samples[key]
        except InputError as error:
            return InputError(str(error))  # without the frames of its traceback
        except RunError as error:
            return RunError(str(error))


def _collate(samples: Sequence[Any], fields: Sequence[Field], lenient: bool, shared: bool,
             slots: Slots | None = None) -> Any:
    """What a worker sends: a batch, or the first fault; a ``lenient`` one leaves out what could not be read."""
    faults = [sample for sample in samples if isinstance(sample, (InputError, RunError))]
    if failures := [fault for fault in faults if not lenient or isinstance(fault, RunError)]:
        return failures[0]
    kept = [sample for sample in samples if not isinstance(sample, (InputError, RunError))]
    worker, slot = get_worker_info(), None

    def room(*shape: int) -> np.ndarray | None:
        nonlocal slot
        slot = slots.take(worker.id, math.prod(shape)) if worker and slots else None
        return None if slot is None or slots is None else slots.array(slot, shape)

    if not kept:
        batch = _no_images()
    elif isinstance(kept[0].image, Packed):
        batch = packed_batch(kept, fields, room)
    else:
        batch = collate(kept, fields, room(len(kept), *kept[0].image.shape))
    batch = replace(batch, left_out=tuple(map(str, faults)))
    return sent(batch, shared, slots, slot) if worker else Delivery(batch)


def _no_images() -> Batch:
    targets = Targets(torch.zeros(0, OBJECTS_STEP, 4), torch.zeros(0, OBJECTS_STEP, dtype=torch.int64),
                      torch.zeros(0, OBJECTS_STEP, dtype=torch.bool))
    return Batch(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), targets, ())


def training_loader(dataset: TrainingDataset, sampler: EpochSampler, workers: int | None,
                    fields: Sequence[Field] = (), device: torch.device | None = None) -> BatchLoader:
    """Shuffled batches; call ``sampler.set_epoch(epoch)`` before each pass. The last one may be smaller.

    With a ``device`` it is there that images are decoded and made (`yolov7.data.device_augment`).
    """
    if any(item.outlines for item in fields):
        dataset.keep_outlines()
    dataset.packs = device is not None
    loader = _loader(dataset, sampler, _at_most(workers, sampler.batch_size), fields)
    if device is not None:
        from yolov7.data.device_augment import DeviceAugmenter

        def as_in_workers(keys: Sequence[Key]) -> Batch:
            return collate([dataset.sample(key) for key in keys], fields)

        loader.finish = DeviceAugmenter(dataset.reader, device, as_in_workers).ahead
    return loader


def evaluation_loader(image_set: ImageSet, image_size: int, batch_size: int, stride: int | None, workers: int | None,
                      cache: str = "off", part: tuple[int, int] = (0, 1), fields: Sequence[Field] = ()) -> BatchLoader:
    """Batches of images as they are, in the order of their aspect ratio; without ``stride`` unchanged and square.

    Of ``part`` = (rank, world_size) it yields batches rank, rank + world_size, ...
    """
    order, shapes = np.arange(len(image_set)), None
    if stride is not None:
        order, shapes = rectangular_batches(image_set.sizes, image_size, batch_size, stride)
    data = EvaluationDataset(image_set, image_size, shapes, cache)
    return _evaluation_loader(data, order, batch_size, workers, part, fields)


def fixed_shape_loader(image_set: ImageSet, shape: tuple[int, int], batch_size: int, workers: int | None,
                       part: tuple[int, int] = (0, 1), fields: Sequence[Field] = ()) -> BatchLoader:
    """`evaluation_loader` for a network that takes one ``shape`` = (height, width) alone."""
    shapes = np.tile(np.array(shape), (len(image_set), 1))
    data = EvaluationDataset(image_set, max(shape), shapes)
    return _evaluation_loader(data, np.arange(len(image_set)), batch_size, workers, part, fields)


def batch_shapes(loader: BatchLoader) -> set[tuple[int, int, int]]:
    """Images, height and width of the batches of an evaluation loader, without loading any."""
    shapes = loader.dataset.samples.batch_shapes  # type: ignore[attr-defined]
    return {(len(batch), *shapes[batch[0]].tolist()) for batch in loader.batch_sampler or ()}


def _evaluation_loader(data: EvaluationDataset, order: np.ndarray, batch_size: int, workers: int | None,
                       part: tuple[int, int], fields: Sequence[Field]) -> BatchLoader:
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    return _loader(data, batches[part[0] :: part[1]], _at_most(workers, batch_size), fields)


def rectangular_batches(sizes: np.ndarray, image_size: int, batch_size: int, stride: int,
                        pad: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Order of the images by aspect ratio and the padded shape of each: ``[I]``, ``[I, 2]``.

    The published numbers were made with half a stride of padding around a batch (docs/reference.md, Rectangular
    batches).
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


def _at_most(workers: int | None, batch_size: int) -> int:
    return min(default_workers() if workers is None else workers, batch_size)


def _loader(dataset: TrainingDataset | EvaluationDataset, batches: Any, workers: int,
            fields: Sequence[Field]) -> BatchLoader:
    workers = min(-(-available_cores() // local_processes()), len(dataset), workers)
    settings: dict[str, Any] = {}
    if workers and not may_start_processes():
        logger.warning("a process of a pool may start none of its own: images are read in it, as with --workers 0")
        workers = 0
    possible = workers_with_room(workers)
    if possible < workers:
        logger.warning("too few file descriptors for %d loader processes (ulimit -n): %s", workers,
                       f"there are {possible}" if possible else "images are read in this process, as with --workers 0")
        workers = possible
    shared = room_to_share(workers)
    slots = None
    if workers:
        fork = "fork" in multiprocessing.get_all_start_methods()  # starts in no time and shares the arrays
        settings = {"persistent_workers": True, "timeout": POLL, "worker_init_fn": _start_worker,
                    "multiprocessing_context": "fork" if fork else None}
        slots = _slots(dataset, batches, workers) if fork else None
    return BatchLoader(_Guarded(dataset), batch_sampler=batches, num_workers=workers,
                       collate_fn=partial(_collate, fields=tuple(fields), shared=shared, slots=slots,
                                          lenient=isinstance(dataset, EvaluationDataset)),
                       pin_memory=torch.cuda.is_available(), **settings)


def _slots(dataset: TrainingDataset | EvaluationDataset, batches: Any, workers: int) -> Slots | None:
    """Room that the workers share with this process, unless it would be a large part of the free memory."""
    images = -(-batches.batch_size // batches.world_size) if isinstance(batches, EpochSampler) else max(
        map(len, batches), default=0)
    size = images * dataset.image_bytes
    if not size or Slots.bytes(workers, size) > MAX_SHARED * free_memory(torch.device("cpu")):
        return None
    return Slots(workers, size)


def _start_worker(_: int) -> None:
    if hasattr(os, "nice") and not torch.cuda.is_available():
        os.nice(LOW_PRIORITY)  # the network runs on the same cores, and its threads wait for the slowest of them
    gc.freeze()  # what the run holds is not visited: it would be copied
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()
    _leave_signals_to_the_run()


def _leave_signals_to_the_run() -> None:
    """Ctrl-C and job systems signal all processes at once: this one goes on until the run that reads it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):  # Linux tells who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_run_says_so, daemon=True).start()


def _end_when_the_run_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
