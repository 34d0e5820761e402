"""How batches come from loader processes: in shared memory, or through pipes where there is too little of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from yolov7.config import RunError
from yolov7.structures import Batch

MAX_WAIT = 300.0  # seconds for a batch
POLL = 1.0  # seconds between looks at the world while waiting
PIPED = ("shared memory is short (a container's grows with --shm-size): batches come from the loader processes through "
         "pipes, which is slower")
ADVICE = "fewer --workers need less memory, --workers 0 needs no loader process; a container's shared memory grows " \
         "with --shm-size"
_DESCRIPTORS = 12  # of each worker, its queues and its loader of the other split; as many again for shared tensors
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
        targets = self.batch.targets.map(lambda tensor: tensor.numpy())  # type: ignore[arg-type,return-value]
        pixels = self.batch.images.permute(0, 2, 3, 1).numpy()  # in their memory order, which is kept
        return _arrived, (pixels, replace(self.batch, images=None, targets=targets))  # type: ignore[arg-type]


def _arrived(pixels: Any, batch: Batch) -> Delivery:
    targets = batch.targets.map(torch.from_numpy)  # type: ignore[arg-type]
    return Delivery(replace(batch, images=torch.from_numpy(pixels).permute(0, 3, 1, 2), targets=targets), piped=True)


def sent(batch: Batch, shared: bool) -> Delivery | _Piped:
    """A batch as a loader process sends it."""
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


def room_for(workers: int) -> tuple[bool, bool]:
    """Whether so many workers can be talked to with the file descriptors of this process, and share tensors with it."""
    spare = _spare_descriptors() - _OTHERS
    return spare >= _DESCRIPTORS * workers, spare >= 2 * _DESCRIPTORS * workers


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
