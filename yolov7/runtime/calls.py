"""What surrounds a command that a Python program calls: its messages are shown, and all is left as it was."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from yolov7.config.messages import LogFormatter, with_names
from yolov7.runtime.progress import LogHandler

PACKAGE = logging.getLogger("yolov7")


@contextmanager
def as_before(verbose: bool, names: Mapping[str, str]) -> Iterator[None]:
    """Show messages of the package while a command runs, with ``names`` for its flags; then leave torch's random
    numbers and the settings of the log as they were."""
    with shown_messages(verbose, names), _own_random_numbers():
        yield


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    import torch

    state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if devices:
            torch.cuda.set_rng_state_all(devices)


class _Messages:
    """The handler that calls of several threads share while any of them runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        self.before: tuple[int, bool] = (logging.NOTSET, True)
        self.handler = _Output()


class _Output(LogHandler):
    """Writes to what ``sys.stdout`` is now: in a notebook it is that of the cell."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self.stream = sys.stdout
        super().emit(record)


class _Formatter(LogFormatter):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__("%(message)s")
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return with_names(super().format(record), self.names)


_SHARED = _Messages()


@contextmanager
def shown_messages(verbose: bool, names: Mapping[str, str]) -> Iterator[None]:
    """Print what the package says, unless the program shows it already or has given its logger a level.

    ``logging.getLogger("yolov7").setLevel("WARNING")`` keeps it quiet.
    """
    with _SHARED.lock:
        mine = _SHARED.calls > 0 or not _is_set_up()
        if mine:
            _SHARED.calls += 1
            if _SHARED.calls == 1:
                _SHARED.before = (PACKAGE.level, PACKAGE.propagate)
                _SHARED.handler.setFormatter(_Formatter(names))
                PACKAGE.addHandler(_SHARED.handler)
                PACKAGE.setLevel(logging.DEBUG if verbose else logging.INFO)
                PACKAGE.propagate = False
    try:
        yield
    finally:
        with _SHARED.lock:
            _SHARED.calls -= mine
            if mine and not _SHARED.calls:
                PACKAGE.removeHandler(_SHARED.handler)
                PACKAGE.setLevel(_SHARED.before[0])
                PACKAGE.propagate = _SHARED.before[1]


def _is_set_up() -> bool:
    shown = PACKAGE.hasHandlers() and PACKAGE.isEnabledFor(logging.INFO)
    return PACKAGE.level != logging.NOTSET or bool(PACKAGE.handlers) or shown
