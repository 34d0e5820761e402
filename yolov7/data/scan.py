"""What was found in the files of a split: image by image, in the order in which a data set lists them.

An `ImageSet` is made of the usable ones. Many small files are read at once: their fingerprints, the headers of images,
and work in several processes.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, NamedTuple, TypeVar

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import Fault, ImageSet
from yolov7.data.images import ImageError, check_image
from yolov7.data.mirror import mirror_of
from yolov7.data.objects import Objects, concatenate, elements_of, no_objects, starts_of
from yolov7.data.rasterize import cut_off
from yolov7.data.tar_members import file_of_member, fingerprint, is_there
from yolov7.runtime.device import available_cores, may_start_processes
from yolov7.runtime.progress import Progress

T = TypeVar("T")
CHUNK = 500  # files: about a tenth of a second
PARALLEL_FROM = 1000  # files; fewer are read sooner than processes start
SOURCE = "\0"  # stands in a reason for the file that the image is named by: caches are kept when a folder moves
UNREADABLE = "cannot be read"  # begins the reasons that may go away without a change of the file
_MANY, _LEAVING, _MARGIN = 8, 0.1, 1.01  # objects that agree; the part of them that leaves; by how much
_OVERSHOOT = 1.0  # pixels by which a polygon leaves its image where moving its vertices to the border will do
_MIN_SIDE = 1e-3  # pixels; float32 does not tell narrower boxes from nothing


class Finding(NamedTuple):
    """A `Fault` whose file is known by its place."""

    entry: int  # the image's row; -1: none
    about_image: bool  # not about its annotations
    reason: str
    skipped: bool = True
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Entries:
    """I images, usable or not, and their objects (see `ImageSet`)."""

    sizes: np.ndarray  # int32 [I, 2] height, width; 0 where the image cannot be used
    usable: np.ndarray  # bool [I]
    offsets: np.ndarray  # int64 [I + 1]
    objects: Objects
    findings: tuple[Finding, ...] = ()  # in the order of the images

    def __len__(self) -> int:
        return len(self.sizes)


def empty_entries(sizes: np.ndarray, findings: Sequence[Finding]) -> Entries:
    """Images without any object; those without a size are not usable."""
    return Entries(sizes, sizes[:, 0] > 0, np.zeros(len(sizes) + 1, np.int64), no_objects(), tuple(findings))


# --- join and pick ---------------------------------------------------------------------------------------------


def join(parts: Sequence[Entries]) -> Entries:
    """Entries one behind the other."""
    first_rows = starts_of([len(part) for part in parts])
    findings = [finding._replace(entry=finding.entry + first)
                for part, first in zip(parts, first_rows.tolist(), strict=False) for finding in part.findings]
    sizes, usable, counts = (np.concatenate(column) for column in zip(
        *((part.sizes, part.usable, np.diff(part.offsets)) for part in parts), strict=True))
    return Entries(sizes, usable, starts_of(counts), concatenate([part.objects for part in parts]), tuple(findings))


def take(entries: Entries, rows: np.ndarray) -> Entries:
    """These rows (int64 ``[N]``) in this order."""
    if np.array_equal(rows, np.arange(len(entries))):
        return entries
    objects, counts = elements_of(entries.offsets, rows)
    of_row: dict[int, list[Finding]] = {}
    for finding in entries.findings:
        of_row.setdefault(finding.entry, []).append(finding)
    places = enumerate(rows.tolist()) if of_row else ()
    findings = [item._replace(entry=place) for place, row in places for item in of_row.get(row, ())]
    return Entries(entries.sizes[rows], entries.usable[rows], starts_of(counts), entries.objects[objects],
                   tuple(findings))


# --- corners -----------------------------------------------------------------------------------------------------


def are_corners(numbers: np.ndarray, boxes: np.ndarray, limits: np.ndarray) -> bool:
    """Whether what was read as a position and a size is two corners: boxes would be wrong without a word.

    ``numbers`` ``[N, 4]`` as they stand in the file, in pixels; ``boxes`` xyxy as they are read; ``limits`` width and
    height of their images. So it is where, of many, all are corners in the image, and some as read leave it: no tool
    writes such boxes.
    """
    if len(numbers) < _MANY:
        return False
    first, last = numbers[:, :2], numbers[:, 2:]
    fit = (first >= 0) & (last > first) & (last <= limits * _MARGIN)
    leave = ((boxes[:, 2:] > limits * _MARGIN) | (boxes[:, :2] < limits * (1 - _MARGIN))).any(1)
    return bool(fit.all() and leave.mean() > _LEAVING)


# --- tidy ------------------------------------------------------------------------------------------------------


def tidy(objects: Objects, counts: np.ndarray, sizes: np.ndarray, usable: np.ndarray, findings: Sequence[Finding],
         where: Callable[[int], str], exact: bool = False) -> Entries:
    """Clip objects to their images; drop and list those without area, outside the image, or repeated.

    ``counts`` int64 ``[I]`` are the objects of each image; boxes may be float64. Objects of images that are not
    ``usable`` are dropped without a word, and so are crowds. ``where(t)`` is the place of object ``t`` in its file, for
    messages. ``exact`` keeps the types of the columns.
    """
    image_index = np.repeat(np.arange(len(sizes)), counts)  # [T]
    limits = sizes[image_index][:, ::-1]  # [T, 2] width, height
    clipped = objects.clipped(limits)
    zero = ((objects.boxes[:, 2:] - objects.boxes[:, :2]) < _MIN_SIDE).any(1)
    outside = ((clipped.boxes[:, 2:] - clipped.boxes[:, :2]) < _MIN_SIDE).any(1)
    kept = usable[image_index] & ~zero & ~outside
    candidates = np.flatnonzero(kept & ~objects.crowd)
    keys = np.column_stack((image_index, objects.labels, clipped.boxes))[candidates]
    kept[candidates[_repeated(keys)]] = False
    found = list(findings)
    for t in np.flatnonzero(~kept & usable[image_index] & ~objects.crowd).tolist():
        width, height = objects.boxes[t, 2:] - objects.boxes[t, :2]
        reason = "the same class and box as an earlier one"
        if zero[t]:
            reason = f"a box of zero size ({width:g} x {height:g} px)"
        elif outside[t]:
            reason = f"a box outside the image of {limits[t, 0]} x {limits[t, 1]} px"
        found.append(Finding(int(image_index[t]), False, f"{where(t)}: {reason}; the object is dropped", skipped=False))
    offsets = starts_of(np.bincount(image_index[kept], minlength=len(sizes)))
    chosen = clipped[kept]
    if np.abs(objects.polygons.points - clipped.polygons.points).max(initial=0) > _OVERSHOOT:
        polygons = cut_off(objects.polygons, clipped.polygons, limits, np.flatnonzero(kept), _OVERSHOOT)
        chosen = replace(chosen, polygons=polygons)
    return Entries(np.asarray(sizes, np.int32), usable, offsets, chosen if exact else chosen.typed(),
                   tuple(sorted(found, key=lambda finding: finding.entry)))


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Which rows of ``[N, M]`` equal an earlier one: bool ``[N]``."""
    order = np.lexsort(keys.T)  # stable
    rows = keys[order]
    mask = np.zeros(len(keys), bool)
    mask[order[1:]] = (rows[1:] == rows[:-1]).all(1)
    return mask


# --- image set -------------------------------------------------------------------------------------------------


def image_set_of(entries: Entries, images: Sequence[str], image_ids: Sequence[int | str],
                 annotations: Sequence[str] | str, source: str, **described: Any) -> ImageSet:
    """The usable images; ``image_ids`` are theirs. Without any: `InputError` with the first reasons.

    ``annotations`` are the label files, or the one file for all images; ``described`` are the fields of `ImageSet`
    that are not about its images.
    """
    faults = []
    for entry, about_image, reason, skipped, kept in entries.findings:
        file = annotations if isinstance(annotations, str) else annotations[entry]
        faults.append(Fault(images[entry] if about_image else file, reason.replace(SOURCE, source), skipped, kept))
    if not entries.usable.any():
        reasons = "; ".join(map(str, faults[:3])) or "it names no image"
        raise InputError(f"{source}: no usable image ({len(faults)} skipped): {reasons}")
    rows = np.flatnonzero(entries.usable)
    chosen = take(replace(entries, findings=()), rows)
    paths = tuple(images) if len(rows) == len(images) else tuple(images[row] for row in rows.tolist())
    return ImageSet(paths=paths, image_ids=tuple(image_ids), sizes=chosen.sizes, offsets=chosen.offsets,
                    objects=chosen.objects, faults=tuple(faults), **described)


# --- many files ------------------------------------------------------------------------------------------------


def fingerprints(paths: Sequence[str]) -> np.ndarray:
    """Size and time of change (nanoseconds) of files: int64 ``[N, 2]``; -1 where there is none."""
    found = np.full((len(paths), 2), -1, np.int64)
    of_server: dict[str, tuple[int, int] | None] = {}  # of tar files: all images of one have the same
    for row, path in enumerate(paths):
        if file := file_of_member(path):
            if file not in of_server:
                of_server[file] = fingerprint(path) if mirror_of(file) else None
            if (stamp := of_server[file]) is not None:
                found[row] = stamp
                continue
        try:
            stat = os.stat(path)
        except (NotADirectoryError, FileNotFoundError):
            found[row] = fingerprint(path) or (-1, -1)
            continue
        except (OSError, ValueError):  # ValueError: no file name at all
            continue
        found[row] = stat.st_size, stat.st_mtime_ns
    return found


def read_headers(images: Sequence[str]) -> tuple[np.ndarray, list[Finding]]:
    """Height and width of images, int32 ``[I, 2]``, 0 for those that cannot be used, and why not."""
    sizes, findings = np.zeros((len(images), 2), np.int32), []
    for row, path in enumerate(images):
        try:
            sizes[row] = check_image(path)
        except ImageError as error:
            named = f"missing, but named by {SOURCE}"
            reason = str(error) if os.path.exists(path) or is_there(path) else named
            findings.append(Finding(row, True, f"{reason}; the image is skipped"))
    return sizes, findings


# --- processes -------------------------------------------------------------------------------------------------


def map_chunks(function: Callable[..., T], columns: Sequence[Sequence[str]], description: str, size: int = 0,
               parallel_from: int = 0) -> list[T]:
    """``function`` of each chunk of the ``columns`` (of one length), in their order; in processes where it pays.

    A chunk has ``size`` elements (default: `CHUNK`); fewer elements than ``parallel_from`` (default: `PARALLEL_FROM`)
    are done here.

    An `InputError` in one of them is raised here. No process outlives the call, whatever ends it.
    """
    count, size = len(columns[0]), size or CHUNK
    starts = range(0, count, size)
    chunks = [[column[start : start + size] for column in columns] for start in starts]
    results: list[T] = []
    progress = Progress[int](description=description, total=count, unit="images")
    with progress as bar, closing(_results(function, chunks, count >= (parallel_from or PARALLEL_FROM))) as parts:
        for chunk, result in zip(chunks, parts, strict=True):
            results.append(result)
            bar.update(len(chunk[0]))
    return results


def _results(function: Callable[..., T], chunks: list[Any], parallel: bool) -> Generator[T, None, None]:
    workers = min(available_cores(), len(chunks))
    if workers < 2 or not parallel or not may_start_processes():
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


def _start_worker() -> None:
    gc.freeze()  # what the parent holds is not visited: it would be copied
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
