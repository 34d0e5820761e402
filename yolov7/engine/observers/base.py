"""The protocol of observers, and the threads that keep them away from a run.

An observer is told what has happened, each in a thread of its own and never inside of a step. What it raises is
reported once, and it is told nothing more; one that is too slow misses what does not fit into its queue. It can end a
run early, and nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from yolov7.engine.log import EpochRecord

logger = logging.getLogger(__name__)

WAITING = 500  # messages that an observer may be behind
LAST_WORD = 60.0  # seconds for what is left at the end of a run
_END = object()


@dataclass(frozen=True)
class RunFacts:
    """What a run is."""

    folder: Path
    settings: Mapping[str, Any]  # plain values, as in its ``config.yaml``
    terms: Mapping[str, str]  # of the loss, with their short names
    batches: int  # of an epoch
    first_epoch: int = 0  # that is done by this start of the run: more than 0 where it goes on
    first_step: int = 0  # batches before this start


@dataclass(frozen=True)
class Table:
    """Rows under columns, such as the classes of an evaluation."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]] = field(repr=False)


class Observer:
    """What can be told of a run; a subclass has those methods that it is interested in. Epochs count from 1."""

    stop = ""  # a reason: the run is to end after this epoch

    def run_begins(self, run: RunFacts) -> None:
        """First of all."""

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        """Now and then: batches so far in the whole run, and numbers by their names (``step/lr``)."""

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        """What stands in ``results.csv``, also by names (``metrics/AP``)."""

    def evaluated(self, epoch: int, tables: Mapping[str, Table]) -> None:
        """The numbers class by class."""

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        """An image uint8 ``[H, W, 3]`` RGB: the first batches, and predictions beside the ground truth."""

    def checkpoint_written(self, path: Path, epoch: int, best: bool) -> None:
        """Weights that are whole; of the best epoch so far or the latest one."""

    def run_ends(self, outcome: str) -> None:
        """Last of all: ``finished``, ``interrupted`` or ``failed``. Not told where the process is killed."""


class Observers:
    """Several observers, each with its thread; no method raises or waits for one of them, but `close` for a while."""

    def __init__(self, observers: Mapping[str, Observer]) -> None:
        self._lanes = [_Lane(name, observer) for name, observer in observers.items()]

    def begin(self, run: RunFacts) -> None:
        """Tell them that the run begins, and wait for that: processes are forked later, and nobody imports then."""
        for lane in self._lanes:
            lane.add(("run_begins", (run,)))
        for lane in self._lanes:
            if not lane.has_begun.wait(LAST_WORD):
                logger.warning("--log %s: has not begun within %.0f s; the run does not wait for it", lane.name,
                               LAST_WORD)

    def tell(self, event: str, *facts: Any) -> None:
        """Call this method of every observer, as soon as its thread comes to it."""
        for lane in self._lanes:
            lane.add((event, facts))

    @property
    def stop(self) -> str:
        """Why the run is to end, and who says so; '' where nobody does."""
        return next((f"{lane.name}: {reason}" for lane in self._lanes if (reason := lane.stop)), "")

    def close(self) -> None:
        """Let the observers finish, for `LAST_WORD` seconds; more calls do nothing."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.add(_END)
        for lane in lanes:
            lane.join()

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()


class _Lane:
    """An observer, its thread and what it has not been told yet."""

    def __init__(self, name: str, observer: Observer) -> None:
        self.name, self.observer = name, observer
        self._waiting: queue.Queue[Any] = queue.Queue(WAITING)
        self._failed = self._missed = False
        self.has_begun = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"observer {name}", daemon=True)
        self._thread.start()

    @property
    def stop(self) -> str:
        return "" if self._failed else str(self.observer.stop)

    def add(self, message: Any) -> None:
        try:
            self._waiting.put(message, timeout=LAST_WORD if message is _END else 0)
        except queue.Full:
            if not self._missed:
                logger.warning("--log %s: is too slow, and misses some of what happens; the run goes on", self.name)
            self._missed = True

    def join(self) -> None:
        self._thread.join(LAST_WORD)
        if self._thread.is_alive():
            logger.warning("--log %s: was not done %.0f s after the run, and is left alone", self.name, LAST_WORD)

    def _work(self) -> None:
        while (message := self._waiting.get()) is not _END:
            event, facts = message
            try:
                if not self._failed:
                    getattr(self.observer, event)(*facts)
            except Exception as error:  # of a package that we do not know
                self._failed = True
                logger.warning("--log %s: %s failed (%s: %s); it is told nothing more, the run goes on", self.name,
                               event, type(error).__name__, error)
            self.has_begun.set()
