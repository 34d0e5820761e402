"""How batches come from loader processes: in memory that they share from the start and use again and again, in memory
that is shared for one batch, or through pipes where there is too little of either.

Fresh memory costs a process more than what it writes into it, and the one that reads it as much again.
"""

from __future__ import annotations

import math
import mmap
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from yolov7.config import RunError
from yolov7.structures import Batch, Targets

MAX_WAIT = 300.0  # seconds for a batch
POLL = 1.0  # seconds between looks at the world while waiting
PIPED = ("shared memory is short (a container's grows with --shm-size): batches come from the loader processes through "
         "pipes, which is slower")
ADVICE = "fewer --workers need less memory, --workers 0 needs no loader process; a container's shared memory grows " \
         "with --shm-size"
_DESCRIPTORS = 12  # of each worker, its queues and its loader of the other split; as many again for shared tensors
LEAST_SLOTS = 3  # of a worker: torch asks for two batches ahead, and one is made
HELD_BATCHES = 10  # of a run: those of a step, and of the step before it
_OTHERS = 24  # files that a run opens beside them


class Delivery(NamedTuple):
    """A batch, and whether it came through a pipe."""

    batch: Batch
    piped: bool = False


class _Piped:
    """A batch that is sent as bytes: torch would put its tensors into shared memory. It arrives as a `Delivery`."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        pixels = _in_memory_order(self.batch.images).numpy()  # which is kept
        targets = _as_arrays(self.batch.targets)
        return _arrived, (pixels, replace(self.batch, images=None, targets=targets))  # type: ignore[arg-type]


def _as_arrays(targets: Targets) -> Targets:
    return targets.map(lambda tensor: tensor.numpy())  # type: ignore[arg-type,return-value]


def _arrived(pixels: Any, batch: Batch) -> Delivery:
    return Delivery(_completed(pixels, batch), piped=True)


def _completed(pixels: np.ndarray, batch: Batch) -> Batch:
    targets = batch.targets.map(torch.from_numpy)  # type: ignore[arg-type]
    images = torch.from_numpy(pixels)
    return replace(batch, images=images if images.ndim == 1 else images.permute(0, 3, 1, 2), targets=targets)


def _in_memory_order(images: torch.Tensor) -> torch.Tensor:
    return images if images.ndim == 1 else images.permute(0, 2, 3, 1)  # bytes, or images


class Slots:
    """Room for the images of batches, which processes that are forked later share; each worker has its own.

    A worker takes a free slot, and the process that it was forked from gives it back once nobody refers to the images.
    """

    def __init__(self, workers: int, size: int) -> None:
        self._each = _slots_each(workers)
        self._size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        count = workers * self._each
        self._pixels = mmap.mmap(-1, count * self._size)
        self._used = mmap.mmap(-1, count)
        self._held: set[int] = set()  # by images of this process
        _SLOTS[id(self)] = self

    @staticmethod
    def bytes(workers: int, size: int) -> int:
        """Memory that they take at most."""
        return workers * _slots_each(workers) * size

    @property
    def in_use(self) -> int:
        """Slots that a worker fills, that are on their way, or that somebody refers to."""
        return sum(self._used[:])

    def take(self, worker: int, size: int) -> int | None:
        """A slot of this worker for so many bytes, if there is one."""
        first = worker * self._each
        free = (slot for slot in range(first, first + self._each) if not self._used[slot])
        slot = next(free, None) if size <= self._size else None
        if slot is not None:
            self._used[slot] = 1
        return slot

    def hold(self, slot: int) -> np.ndarray:
        """The bytes of a slot that has arrived; it is given back once nobody refers to them."""
        pixels = np.frombuffer(self._pixels, np.uint8, self._size, slot * self._size)
        self._held.add(slot)
        weakref.finalize(pixels, self._give_back, slot)
        return pixels

    def _give_back(self, slot: int) -> None:
        self._held.discard(slot)
        self._used[slot] = 0

    def forget_lost(self) -> None:
        """Take back what workers have filled that ended before it arrived."""
        for slot in range(len(self._used)):
            if slot not in self._held:
                self._used[slot] = 0

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """The slot as an array uint8 of this shape."""
        return np.frombuffer(self._pixels, np.uint8, math.prod(shape), slot * self._size).reshape(shape)


def _slots_each(workers: int) -> int:
    return max(LEAST_SLOTS, -(-HELD_BATCHES // workers) + LEAST_SLOTS - 1)


_SLOTS: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


class _InSlot:
    """A batch whose images stand in a slot. It arrives as a `Delivery`."""

    def __init__(self, batch: Batch, slots: Slots, slot: int) -> None:
        self.batch, self.slots, self.slot = batch, slots, slot

    def __reduce__(self) -> tuple[Any, ...]:
        images = _in_memory_order(self.batch.images)
        others = replace(self.batch, images=None, targets=_as_arrays(self.batch.targets))  # type: ignore[arg-type]
        return _read_slot, (id(self.slots), self.slot, tuple(images.shape), others)


def _read_slot(slots_id: int, slot: int, shape: tuple[int, ...], batch: Batch) -> Delivery:
    pixels = _SLOTS[slots_id].hold(slot)  # which the memory of all tensors that are made of it refers to
    return Delivery(_completed(pixels[: math.prod(shape)].reshape(shape), batch))


def sent(batch: Batch, shared: bool, slots: Slots | None = None, slot: int | None = None) -> Any:
    """A batch as a loader process sends it; its images may stand in a slot."""
    if slots is not None and slot is not None:
        return _InSlot(batch, slots, slot)
    if not shared:
        return _Piped(batch)
    try:  # here, where a failure can be answered: torch's own thread would lose the batch
        batch.targets.map(_share)
        _share(batch.images)
    except (RuntimeError, OSError):
        return _Piped(batch)
    return Delivery(batch)


def _share(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.share_memory_() if tensor.numel() else tensor  # type: ignore[no-untyped-call,no-any-return]


def workers_with_room(workers: int) -> int:
    """How many of so many workers can be talked to with the file descriptors of this process."""
    return min(max(_spare_descriptors() - _OTHERS, 0) // _DESCRIPTORS, workers)


def room_to_share(workers: int) -> bool:
    """Whether there are descriptors for the tensors that so many workers share with this process, too."""
    return _spare_descriptors() - _OTHERS >= 2 * _DESCRIPTORS * workers


def _spare_descriptors() -> int:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (1 << 30 if limit == resource.RLIM_INFINITY else limit) - len(os.listdir("/dev/fd"))
    except (ImportError, OSError):  # not a POSIX system
        return 1 << 30


def next_item(items: Iterator[Any], while_waiting: Callable[[], None]) -> Any:
    """The next item of a loader whose own time limit is `POLL`; None behind the last.

    ``while_waiting`` is called now and then, and may raise. Raises `RunError` where a worker has ended, or where
    nothing comes for `MAX_WAIT` seconds.
    """
    deadline = time.monotonic() + MAX_WAIT
    while True:
        try:
            with worker_failures():
                return next(items, None)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
        while_waiting()
        if time.monotonic() > deadline:
            raise RunError(f"the loader processes have sent nothing for {MAX_WAIT:.0f} s; {ADVICE}")


@contextmanager
def worker_failures() -> Iterator[None]:
    """Say in a sentence that a loader process has ended: torch raises that wherever the program is just then."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).split(". ")[0].strip().rstrip(".")
        raise RunError(f"a loader process ended unexpectedly ({reason}); {ADVICE}") from None
