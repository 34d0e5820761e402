"""Making the next items while the present one is worked on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
POLL = 0.2  # seconds after which a waiting thread looks whether it is still wanted


class _End:
    """The end of the items, or the error that ended them."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(
    items: Generator[T, None, None], depth: int = 2, stop: Callable[[], None] = lambda: None
) -> Generator[T, None, None]:
    """The items in their order, made in a thread of their own that is at most ``depth`` of them ahead.

    An error in that thread is raised here. Closing this generator closes ``items`` after the one that is being made;
    ``stop`` is called first, for items that may be long in coming.
    """
    ready: Queue[T | _End] = Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_make, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while not isinstance(item := _get(ready), _End):
            yield item
            del item  # not kept while the next one is waited for
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        stop()
        thread.join()


def _make(items: Generator[T, None, None], ready: Queue[T | _End], stopped: threading.Event) -> None:
    end = _End()
    try:
        with closing(items):
            _put_all(items, ready, stopped)
    except BaseException as error:  # whatever it is, it ends the run over there
        end = _End(error)
    _put(end, ready, stopped)


def _put_all(items: Iterable[T], ready: Queue[T | _End], stopped: threading.Event) -> None:
    for item in items:
        if not _put(item, ready, stopped):
            return
        del item


def _get(ready: Queue[T | _End]) -> T | _End:
    while True:
        try:
            return ready.get(timeout=POLL)  # without a time limit, Ctrl-C would have to wait on some systems
        except Empty:
            continue


def _put(item: T | _End, ready: Queue[T | _End], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=POLL)
        except Full:
            continue
        return True
    return False
