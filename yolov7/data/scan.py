"""Many small files at once: fingerprints, headers of pictures, and work in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from yolov7.config import InputError
from yolov7.data.entries import SOURCE, Finding
from yolov7.data.images import PictureError, check_picture

T = TypeVar("T")
CHUNK = 500  # files: about a tenth of a second
PARALLEL_FROM = 1000  # files; fewer are read sooner than processes start


def available_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def fingerprints(paths: Sequence[str]) -> np.ndarray:
    """Size and time of change (nanoseconds) of files: int64 ``[N, 2]``; -1 where there is none."""
    found = np.full((len(paths), 2), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            stat = os.stat(path)
        except (OSError, ValueError):  # ValueError: no file name at all
            continue
        found[row] = stat.st_size, stat.st_mtime_ns
    return found


def read_headers(pictures: Sequence[str]) -> tuple[np.ndarray, list[Finding]]:
    """Height and width of pictures, int32 ``[I, 2]``, 0 for those that cannot be used, and why not."""
    sizes, findings = np.zeros((len(pictures), 2), np.int32), []
    for row, path in enumerate(pictures):
        try:
            sizes[row] = check_picture(path)
        except PictureError as error:
            named = f"missing, but named by {SOURCE}"
            reason = str(error) if os.path.exists(path) else named
            findings.append(Finding(row, True, f"{reason}; the picture is skipped"))
    return sizes, findings


# --- processes -------------------------------------------------------------------------------------------------


def map_chunks(function: Callable[..., T], columns: Sequence[Sequence[str]], description: str) -> list[T]:
    """``function`` of each chunk of the ``columns`` (of one length), in their order; in processes where it pays.

    An `InputError` in one of them is raised here. No process outlives the call, whatever ends it.
    """
    count = len(columns[0])
    starts = range(0, count, CHUNK)
    chunks = [[column[start : start + CHUNK] for column in columns] for start in starts]
    results: list[T] = []
    progress = tqdm(total=count, desc=description, unit="picture", disable=None, leave=False)
    with progress as bar, closing(_results(function, chunks, count)) as parts:
        for chunk, result in zip(chunks, parts, strict=True):
            results.append(result)
            bar.update(len(chunk[0]))
    return results


def _results(function: Callable[..., T], chunks: list[Any], count: int) -> Generator[T, None, None]:
    workers = min(available_cores(), len(chunks))
    if workers < 2 or count < PARALLEL_FROM:
        yield from (function(*chunk) for chunk in chunks)
        return
    fork = "fork" in multiprocessing.get_all_start_methods()  # starts in no time
    context = multiprocessing.get_context("fork" if fork else None)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield from pool.map(function, *zip(*chunks, strict=True))
    except InputError as error:
        raise InputError(str(error)) from None  # without the text of the worker's traceback
    except BrokenProcessPool:
        raise RuntimeError("a process that reads the data ended unexpectedly; memory may be short") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def without_collector() -> Generator[None, None, None]:
    """No garbage collection meanwhile: it would visit millions of new lists again and again, three times the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _start_worker() -> None:
    gc.freeze()  # what the parent holds is not visited: it would be copied
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
