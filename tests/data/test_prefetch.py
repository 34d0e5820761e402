"""Items made ahead in a thread: order, bounds, errors, and the end of the thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from itertools import count

import pytest

from yolov7.inference.detect import prefetch


def numbers(made: list[int], end: int | None = None, closed: list[bool] | None = None) -> Generator[int, None, None]:
    try:
        for number in count():
            if number == end:
                return
            made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(True)


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_order_is_kept_and_all_come() -> None:
    assert list(prefetch(prefetch(numbers([], 500), depth=3), depth=1)) == list(range(500))


def test_it_is_ahead_but_not_by_more_than_depth() -> None:
    made: list[int] = []
    items = prefetch(numbers(made), depth=2)
    assert next(items) == 0
    wait_until(lambda: len(made) == 4)  # one is handed over, two wait, one is in the maker's hand
    time.sleep(0.05)
    assert len(made) == 4
    items.close()


def test_both_work_at_the_same_time() -> None:
    def slow() -> Generator[int, None, None]:
        for number in range(10):
            time.sleep(0.03)
            yield number

    started = time.perf_counter()
    for _ in prefetch(slow()):
        time.sleep(0.03)
    assert time.perf_counter() - started < 0.5  # one after the other: 0.6


def test_an_error_comes_after_what_was_made() -> None:
    def failing() -> Generator[int, None, None]:
        yield from range(3)
        raise OSError("disk on fire")

    seen = []
    with pytest.raises(OSError, match="disk on fire"):
        for item in prefetch(prefetch(failing())):
            seen.append(item)
    assert seen == [0, 1, 2]


def test_closing_ends_the_threads_and_the_items() -> None:
    before = threading.active_count()
    closed: list[bool] = []
    items = prefetch(prefetch(numbers([], closed=closed)))
    assert [next(items) for _ in range(5)] == list(range(5))
    assert threading.active_count() == before + 2
    items.close()
    assert closed == [True]
    assert threading.active_count() == before


def test_items_that_wait_are_stopped() -> None:
    released = threading.Event()

    def waiting() -> Generator[int, None, None]:
        yield 1
        released.wait(10)

    started = time.perf_counter()
    items = prefetch(waiting(), stop=released.set)
    assert next(items) == 1
    items.close()
    assert time.perf_counter() - started < 5
