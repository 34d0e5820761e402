"""CUDA graphs: work of a device that is recorded once and replayed with one command of the host.

What is replayed reads and writes the memory of the recording, so that everything that changes from one time to the
next is copied into tensors that stay. Recordings of a pool share the memory of what lies between: only one of them
runs at a time, and nothing in there outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from yolov7.config import InputError

Replay = Callable[[], None]


class GraphPool:
    """Where the recordings of a device keep what lies between, and the stream that they are made on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.MemPool()

    def record(self, work: Callable[[], None]) -> Replay:
        """Record the work without doing it; it must have been done `aside` before, which loads its kernels."""
        graph = torch.cuda.CUDAGraph()
        # another thread may pin memory meanwhile, as the loader's does
        pool: Any = self._pool.id
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool, self._stream, "thread_local"):
            work()

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do work as it would be recorded: on the same stream, with the same memory, behind all work before it.

        Only what the thread itself asks for comes from the pool, which the backward pass does not; the activations of
        a forward pass do.
        """
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream), torch.cuda.use_mem_pool(self._pool):
                yield
            current.wait_stream(self._stream)

    def bytes(self) -> int:
        """Memory that the pool holds."""
        return sum(segment["total_size"] for segment in self._pool.snapshot())  # type: ignore[no-untyped-call]


def check_graphs(device: torch.device, flag: str = "--cuda-graphs") -> None:
    """Raise `InputError` where there are no CUDA graphs."""
    if device.type != "cuda":
        raise InputError(f"{flag}: is for CUDA devices, this run is on {device}; leave the flag out")
