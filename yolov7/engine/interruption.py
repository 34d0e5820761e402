"""The end of a run before its end: SIGINT and SIGTERM, which a run answers with a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
GRACE = 10.0  # seconds for a batch that is waited for when a signal comes
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that ended on a signal; its message says how to go on, ``code`` is the exit code of the shell's custom."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopSignal:
    """Notes the first signal instead of dying of it; a second SIGINT ends the process at once.

    Use in a ``with`` statement; outside of the main thread, where Python delivers no signals, it notes none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt("interrupted twice: no checkpoint was written")
        if not self.received:
            logger.info("%s: writing a checkpoint first (Ctrl-C again: stop at once)", signal.Signals(number).name)
            self._since = time.monotonic()
        self.received = number

    def give_up(self) -> None:
        """Raise `Interrupted` where a signal came a while ago and what it waits for has not come since."""
        if self.received and time.monotonic() - self._since > GRACE:
            raise Interrupted("interrupted", self.code)

    @property
    def code(self) -> int:
        """Exit code of a process that ended on the signal."""
        return 128 + self.received

    def guard(self, items: Iterable[T]) -> Iterator[T]:
        """The items until a signal comes, then `Interrupted` instead of the next one."""
        for item in items:
            if self.received:
                raise Interrupted("interrupted", self.code)
            yield item
