"""How fast a training goes: pictures a second, the share of time spent waiting for data, memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch

from yolov7.engine.memory import used_memory
from yolov7.structures import Batch


class Pace:
    """Wraps the batches of an epoch and measures what lies between them; nothing here waits for the device."""

    def __init__(self, batches: Iterable[Batch], processes: int = 1) -> None:
        self.batches, self.processes = batches, processes
        self.images = 0
        self.waited = 0.0  # seconds
        self._started = time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        self._started = asked = time.perf_counter()
        for batch in self.batches:
            self.waited += time.perf_counter() - asked
            yield batch
            self.images += len(batch.images) * self.processes
            asked = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first batch was asked for."""
        return time.perf_counter() - self._started

    def text(self, device: torch.device) -> dict[str, str]:
        """For a progress bar: pictures a second of all processes, share of waiting, and this one's memory."""
        found = {"img/s": f"{self.images / max(self.seconds, 1e-9):.1f}",
                 "data": f"{100 * self.waited / max(self.seconds, 1e-9):.0f}%"}
        return {**found, "mem": f"{used_memory(device) / 2**30:.1f}G"}
