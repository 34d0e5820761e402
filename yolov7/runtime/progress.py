"""Progress of what takes long: a bar where somebody looks, now and then a line where nobody does.

In a terminal it is a bar that fits the width; what stands behind it is left out from the end where it does not fit. In
a notebook it is a widget, where ipywidgets is installed, else a bar of 80 columns. Everywhere else (nohup, Slurm, a
pipe) it is a line of the log: the first one after `FIRST_LINE` seconds, the others at least `BETWEEN_LINES` seconds
apart and spread over the time that is left, `MAX_LINES` at most. What takes less says nothing. Of several processes
only the first one speaks. No thread is started and nothing global is changed.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Generic, TextIO, TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_LINE, BETWEEN_LINES = 10.0, 30.0  # seconds
MAX_LINES = 20  # of one thing that takes long
SHORT = 0.3  # seconds; a bar that would live no longer is not shown
MIN_BAR = 6  # columns
COLUMNS = 80  # of a terminal that does not say how wide it is
NOTEBOOK_COLUMNS = 45  # behind the bar of a notebook


class Progress(Generic[T]):
    """Iterates over ``items`` and shows how far it is; without items, call `update` for what is done.

    ``total`` is by default the number of items, where that is known, ``unit`` what they are called, ``initial`` of them
    were done before. Best used in a ``with`` statement: its end removes the bar, whatever ends it.
    """

    def __init__(self, items: Iterable[T] = (), description: str = "", total: int | None = None, unit: str = "items",
                 initial: int = 0, silent: bool = False) -> None:
        self._items = items
        if total is None and isinstance(items, Sized):
            total = len(items)
        self._sink = None if silent or not _speaks() else _open(description, total, unit, initial)

    def __iter__(self) -> Iterator[T]:
        if self._sink is None:
            yield from self._items
            return
        with self:
            for item in self._items:
                yield item
                self._sink.update(1)

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        if self._sink is not None:
            self._sink.update(count)

    def note(self, *parts: str) -> None:
        """What to show beside the bar from now on, the most important first."""
        if self._sink is not None:
            self._sink.parts = parts

    def close(self) -> None:
        """Remove the bar; more calls do nothing."""
        if self._sink is not None:
            self._sink.close()

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes lines of the log above the bars of a terminal, not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        with _above_bars():
            super().emit(record)


def duration_text(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if not seconds < 3600:  # hours, or not a number
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def is_terminal(stream: Any) -> bool:
    """Whether somebody may look at what a stream shows, and it can take back what it has shown."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # none at all, or closed
        return False


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"  # as torchrun says


def _open(description: str, total: int | None, unit: str, initial: int) -> Any:
    """A bar or lines, with ``update``, ``parts`` and ``close``; nothing where nobody would see them."""
    if (make := _kind_of_bar()) is not None:
        return make(description, total, unit, initial)
    return _Lines(description, total, unit, initial) if logger.isEnabledFor(logging.INFO) else None


def _kind_of_bar() -> Callable[[str, int | None, str, int], Any] | None:
    if in_notebook():
        return _widget if find_spec("ipywidgets") else _text_in_notebook
    return _bar if is_terminal(sys.stderr) else None


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


# --- bars --------------------------------------------------------------------------------------------------------


class _Fitted:
    """What both kinds of bars do: as many parts as there is room for, no thread that watches, a lock of their own."""

    monitor_interval = 0
    _lock = threading.RLock()
    parts: Sequence[str] = ()

    def fitted(self, state: dict[str, Any], room: int) -> dict[str, Any]:
        """The state of a bar with what fits into so many columns."""
        done, elapsed = state["n"] - state["initial"], state["elapsed"]
        parts = self.parts or ((f"{done / elapsed:.1f} {state['unit']}/s",) if done and elapsed else ())
        return {**state, "postfix": fitting(parts, room)}


class _Bar(_Fitted, tqdm):  # type: ignore[type-arg]
    """A bar of a terminal."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """See `tqdm`."""
        state = {**super().format_dict}
        state["ncols"] = columns = state["ncols"] or COLUMNS
        bare = {**state, "bar_format": state["bar_format"].replace("{bar}", ""), "ncols": None, "postfix": None}
        return self.fitted(state, columns - len(self.format_meter(**bare)) - MIN_BAR * bool(state["total"]))


def fitting(parts: Sequence[str], room: int) -> str:
    """As many parts, from the first on, as fit into so many columns behind a comma and a space."""
    text, left = "", room - 2
    for part in parts:
        longer = f"{text} {part}" if text else part
        if len(longer) > left:
            break
        text = longer
    return text


def _settings(description: str, total: int | None, unit: str, initial: int) -> dict[str, Any]:
    whole = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    endless = "{desc}: {n_fmt} {unit} [{elapsed}{postfix}]"
    return {"desc": description, "total": total, "unit": unit, "initial": initial, "leave": False, "miniters": 1,
            "bar_format": whole if total else endless}


def _bar(*what: Any) -> Any:
    return _Bar(**_settings(*what), file=sys.stderr, dynamic_ncols=True, delay=SHORT)


def _text_in_notebook(*what: Any) -> Any:
    return _Bar(**_settings(*what), file=sys.stdout, ncols=COLUMNS, delay=SHORT)  # what stderr shows there is red


def _widget(*what: Any) -> Any:
    return _widget_class()(**_settings(*what), ncols="100%")


@cache
def _widget_class() -> type[Any]:
    from tqdm.notebook import tqdm_notebook

    class Widget(_Fitted, tqdm_notebook):  # type: ignore[type-arg]
        """A bar of a notebook."""

        @property
        def format_dict(self) -> dict[str, Any]:
            """See `tqdm`."""
            return self.fitted({**super().format_dict, "ncols": None}, NOTEBOOK_COLUMNS)  # is a share of the page

    return Widget


def _above_bars() -> AbstractContextManager[None]:
    return _Bar.external_write_mode() if is_terminal(sys.stderr) and not in_notebook() else nullcontext()


# --- lines -------------------------------------------------------------------------------------------------------


class _Lines:
    """Lines of the log; see the rule at the head of this file."""

    def __init__(self, description: str, total: int | None, unit: str, initial: int) -> None:
        self._description, self._total, self._unit, self._initial = description, total, unit, initial
        self._done, self._said = initial, 0
        self._started = time.monotonic()
        self._next = self._started + FIRST_LINE
        self.parts: Sequence[str] = ()

    def update(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if (now := time.monotonic()) >= self._next and self._said < MAX_LINES and self._done != self._total:
            self._say(now - self._started)
            self._next = now + max(BETWEEN_LINES, (self._left(now) or 0) / (MAX_LINES - self._said + 1))

    def close(self) -> None:
        """Nothing is left to remove."""

    def _left(self, now: float) -> float | None:
        """Seconds, at the pace so far."""
        done = self._done - self._initial
        return None if self._total is None or not done else (
            (now - self._started) / done * max(self._total - self._done, 0))

    def _say(self, elapsed: float) -> None:
        self._said += 1
        left = self._left(self._started + elapsed)
        share = f"{self._done} {self._unit}" if self._total is None else (
            f"{self._done}/{self._total} {self._unit} ({100 * self._done / max(self._total, 1):.0f}%)")
        rest = "" if left is None else f", ~{duration_text(left)} left"
        beside = f"  {' '.join(self.parts)}" if self.parts else ""
        logger.info("%s: %s in %s%s%s", self._description, share, duration_text(elapsed), rest, beside)
