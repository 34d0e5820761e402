"""Folders or lists of pictures with YOLO label files -> `ImageSet` (spec of the data, sections 1 to 4)."""

from __future__ import annotations

import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.entries import (
    UNREADABLE,
    Entries,
    Finding,
    RawObjects,
    faults_of,
    image_set_of,
    join,
    starts_of,
    take,
    tidy,
)
from yolov7.data.image_set import ImageSet
from yolov7.data.images import IMAGE_SUFFIXES
from yolov7.data.label_cache import BESIDE_THE_DATA, Cached, LabelCache
from yolov7.data.scan import fingerprints, map_chunks, read_headers

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3  # by which a normalised value may leave 0 ... 1
_COLUMNS = "5 columns (class cx cy w h), or an odd number from 7 on (class x1 y1 x2 y2 x3 y3 ...)"
_OTHER_SUFFIXES = (".txt", ".json", ".yaml", ".xml", ".csv", ".md")  # expected beside pictures


class _LabelError(Exception):
    """Why a label file cannot be used, without its name."""


# --- pictures --------------------------------------------------------------------------------------------------


def find_pictures(sources: Sequence[Path], bases: Sequence[Path]) -> list[str]:
    """Absolute paths of the pictures in folders (searched recursively, sorted) and list files (in their order).

    A line ``./x`` of a list is relative to the list's folder; other relative lines are relative to the first of
    ``bases``, else of the list's folder, where they exist. Missing pictures are kept: they are faults, not nothing.
    """
    pictures: list[str] = []
    for source in sources:
        found = _pictures_in_folder(source) if source.is_dir() else _pictures_in_list(source, bases)
        if not found:
            what = f"no picture in this folder ({', '.join(IMAGE_SUFFIXES)})" if source.is_dir() else "an empty list"
            raise InputError(f"{source}: {what}")
        pictures += found
    return list(dict.fromkeys(pictures))


def _pictures_in_folder(folder: Path) -> list[str]:
    found, others, visited = [], Counter[str](), set()
    for place, folders, files in os.walk(os.path.abspath(folder), followlinks=True):
        real = os.path.realpath(place)
        if real in visited or os.path.basename(place) == BESIDE_THE_DATA:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        pictures = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        found += [os.path.join(place, file) for file in pictures]
        if len(pictures) < len(files):
            others.update(os.path.splitext(file)[1].lower() for file in set(files) - set(pictures))
    left_out = {suffix or "none": count for suffix, count in others.items() if suffix not in _OTHER_SUFFIXES}
    if left_out:
        shown = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(left_out.items()))
        logger.info("%s: %d files with other suffixes are left out (%s)", folder, sum(left_out.values()), shown)
    return sorted(found)


def _pictures_in_list(file: Path, bases: Sequence[Path]) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list of pictures: {error}") from None
    places = [os.path.abspath(place) for place in (*bases, file.parent)]
    return [_picture_of_line(line, places) for line in map(str.strip, lines) if line]


def _picture_of_line(line: str, places: Sequence[str]) -> str:
    if line.startswith("./"):
        places = places[-1:]
    candidates = [os.path.normpath(os.path.join(place, line)) for place in places]
    return next(filter(os.path.exists, candidates), candidates[0]) if len(candidates) > 1 else candidates[0]


# --- label files -----------------------------------------------------------------------------------------------


class _Places:
    """Where the label files of a folder's pictures may be; looks the folders up once."""

    def __init__(self) -> None:
        self._of_folder: dict[str, tuple[list[str], str]] = {}

    def label_path(self, picture: str) -> str:
        folder, _, name = picture.rpartition(os.sep)
        if folder not in self._of_folder:
            self._of_folder[folder] = _label_folders(folder)
        candidates, otherwise = self._of_folder[folder]
        stem = os.path.splitext(name)[0]
        paths = (f"{candidate}{os.sep}{stem}.txt" for candidate in candidates)
        return next(filter(os.path.isfile, paths), f"{otherwise}{os.sep}{stem}.txt")


def _label_folders(folder: str) -> tuple[list[str], str]:
    """Folders to look for a label file in, and the one to name where no file exists."""
    parts = folder.split(os.sep)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if not places:
        return [], folder
    chosen = dict.fromkeys((places[-1], places[0]))
    candidates = [os.sep.join([*parts[:i], "labels", *parts[i + 1 :]]) for i in chosen]
    if any(os.path.isdir(os.sep.join([*parts[:i], "labels"])) for i in chosen):
        return (candidates if len(candidates) > 1 else []), candidates[0]
    return [], folder


def label_path(picture: str) -> str:
    """The label file of a picture: its path with ``images`` -> ``labels`` and the suffix ``.txt``.

    Of several components ``images`` the last is replaced, else the first (as the original does) where only that
    file exists. Without a labels folder the file is looked for beside the picture.
    """
    return _Places().label_path(picture)


# --- labels ----------------------------------------------------------------------------------------------------


def read_yolo_txt(
    pictures: Sequence[str], names: tuple[str, ...], split: str, source: str, cache: LabelCache | None = None
) -> ImageSet:
    """Read the labels of these pictures. A picture without a label file has no objects.

    What is in the ``cache`` and has not changed since is not read again. Faulty pictures, files and objects are
    listed in the result's ``faults``; a class index out of range is an `InputError`.
    """
    places = _Places()
    label_files = [places.label_path(picture) for picture in pictures]
    entries = _read_entries(pictures, label_files, names, split, cache or LabelCache(None))
    faults = faults_of(entries, pictures, label_files, source)
    ids = _image_ids([pictures[row] for row in np.flatnonzero(entries.usable).tolist()])
    return image_set_of(
        entries, pictures, ids, faults, source,
        names=names, category_ids=tuple(range(1, len(names) + 1)), split=split,
    )


def _read_entries(
    pictures: Sequence[str], label_files: Sequence[str], names: tuple[str, ...], split: str, cache: LabelCache
) -> Entries:
    keys = cache.keys(f"{picture}\n{file}" for picture, file in zip(pictures, label_files, strict=True))
    stats = np.concatenate((fingerprints(pictures), fingerprints(label_files)), axis=1)  # [I, 4]
    described = {"reader": "yolo txt", "names": list(names)}
    cached = cache.load(described, len(names))
    if cached is not None and cached.holds(keys, stats):
        return cached.entries
    rows = cached.rows(keys, stats) if cached is not None else np.full(len(keys), -1)  # [I]
    new = np.flatnonzero(rows < 0)
    columns = [[paths[row] for row in new.tolist()] for paths in (pictures, label_files)]
    parts = map_chunks(partial(scan_labels, num_classes=len(names)), columns, f"{split}: reading labels")
    old = [cached.entries] if cached is not None else []
    rows[new] = np.arange(len(new)) + sum(map(len, old))
    entries = take(join(old + parts), rows)
    cache.store(Cached(described, keys, stats, entries))
    return entries


def _image_ids(paths: Sequence[str]) -> Sequence[int | str]:
    """File names without suffix, as numbers where all are (as COCO's); 1, 2, ... where they are not unique."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return stems if len(set(stems)) == len(stems) else list(range(1, len(stems) + 1))


# --- rows ------------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The numbers of all rows of some label files."""

    values: np.ndarray  # float64 [V]; a row without numbers has one NaN
    lengths: np.ndarray  # int64 [R] values of each row
    owners: np.ndarray  # int64 [R] file of each row
    lines: list[int]  # its line, from 1
    texts: list[str]  # of the files


def scan_labels(pictures: Sequence[str], label_files: Sequence[str], num_classes: int) -> Entries:
    """Headers of pictures and rows of their label files. Raises `InputError` for a class index out of range."""
    sizes, findings = read_headers(pictures)
    usable = sizes[:, 0] > 0
    rows = _read_rows(label_files, usable, findings)
    bad = _bad_rows(rows, num_classes)
    for t in np.flatnonzero(bad).tolist():
        file, line = int(rows.owners[t]), rows.lines[t]
        if not usable[file]:
            continue  # one reason is enough
        try:
            check_row(rows.texts[file].splitlines()[line - 1].split(), num_classes)
        except _LabelError as error:
            findings.append(Finding(file, False, f"line {line}: {error}; the picture is skipped"))
            usable[file] = False
        except InputError as error:
            raise InputError(f"{label_files[file]}, line {line}: {error}") from None
    good = usable[rows.owners]
    lines = np.array(rows.lines, np.int64)[good]
    return tidy(_objects(rows, good, sizes), sizes, usable, findings, lambda t: f"line {lines[t]}")


def _read_rows(label_files: Sequence[str], usable: np.ndarray, findings: list[Finding]) -> _Rows:
    values, texts = array("d"), []
    lengths: list[int] = []
    owners: list[int] = []
    lines: list[int] = []
    for number, file in enumerate(label_files):
        text = _read_text(number, file, findings) if usable[number] else ""
        usable[number] &= text is not None
        texts.append(text or "")
        for line, row in enumerate(texts[-1].splitlines(), 1):
            columns = row.split()
            if not columns:
                continue
            start = len(values)
            try:
                values.extend(map(float, columns))
            except ValueError:
                del values[start:]
                values.append(math.nan)
            lengths.append(len(values) - start)
            owners.append(number)
            lines.append(line)
    return _Rows(np.array(values), np.array(lengths, np.int64), np.array(owners, np.int64), lines, texts)


def _read_text(number: int, file: str, findings: list[Finding]) -> str | None:
    """The text of a label file, empty where there is none; nothing where it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read().decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as error:
        findings.append(Finding(number, False, f"{UNREADABLE} ({error.strerror}); the picture is skipped"))
    except UnicodeDecodeError as error:
        findings.append(Finding(number, False, f"{UNREADABLE} as text ({error}); the picture is skipped"))
    return None


def _bad_rows(rows: _Rows, num_classes: int) -> np.ndarray:
    """Which rows `check_row` refuses: bool ``[R]``."""
    starts = starts_of(rows.lengths)[:-1]
    labels = rows.values[starts]
    outside = ~((rows.values >= -TOLERANCE) & (rows.values <= 1 + TOLERANCE))  # NaN is outside as well
    outside[starts] = False
    columns_fit = (rows.lengths == 5) | ((rows.lengths >= 7) & (rows.lengths % 2 == 1))
    label_fits = (labels == np.floor(labels)) & (labels >= 0) & (labels < num_classes)
    values_fit = ~np.logical_or.reduceat(outside, starts) if len(starts) else np.zeros(0, bool)
    return ~(columns_fit & label_fits & values_fit)


def _objects(rows: _Rows, good: np.ndarray, sizes: np.ndarray) -> RawObjects:
    """The good rows in native pixels."""
    lengths = rows.lengths[good]
    values = rows.values[np.repeat(good, rows.lengths)]
    starts = starts_of(lengths)[:-1]
    labels = values[starts].astype(np.int64)
    owners = rows.owners[good]
    width_height = sizes[owners][:, ::-1].astype(np.float64)  # [R, 2]
    is_box = lengths == 5
    coordinate = np.ones(len(values), bool)
    coordinate[starts] = False
    of_box = np.repeat(is_box, lengths)
    np.clip(values, 0, 1, out=values)
    boxes = np.zeros((len(lengths), 4))
    centres = values[coordinate & of_box].reshape(-1, 4) * np.tile(width_height[is_box], 2)  # cx, cy, w, h
    boxes[is_box, :2] = centres[:, :2] - centres[:, 2:] / 2
    boxes[is_box, 2:] = centres[:, :2] + centres[:, 2:] / 2
    counts = np.where(is_box, 0, (lengths - 1) // 2)
    points = values[coordinate & ~of_box].reshape(-1, 2)
    points = (points * np.repeat(width_height, counts, axis=0)).astype(np.float32)
    if len(points):
        firsts = starts_of(counts[~is_box])[:-1]
        boxes[~is_box] = np.column_stack((np.minimum.reduceat(points, firsts), np.maximum.reduceat(points, firsts)))
    none = np.zeros((len(lengths), 0, 3), np.float32)
    return RawObjects(np.bincount(owners, minlength=len(sizes)), boxes, labels, points, counts, none)


def check_row(columns: Sequence[str], num_classes: int) -> None:
    """Say what is wrong with a row: a box (5 columns) or a polygon (an odd number from 7 on), normalised."""
    if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
        raise _LabelError(f"{len(columns)} columns; accepted: {_COLUMNS}")
    label, *values = _numbers(columns)
    if label != int(label):
        raise _LabelError(f"class {columns[0]}; accepted: a whole number")
    if not 0 <= label < num_classes:
        raise InputError(f"found class index {columns[0]}; accepted: 0 to {num_classes - 1}")
    if min(values) < -TOLERANCE or max(values) > 1 + TOLERANCE:
        worst = max(values, key=lambda value: abs(value - 0.5))
        raise _LabelError(f"the value {worst:g}; accepted: 0 to 1 (fractions of width and height)")


def _numbers(columns: Sequence[str]) -> list[float]:
    values = []
    for text in columns:
        try:
            value = float(text)
        except ValueError:
            raise _LabelError(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise _LabelError(f"{text!r} is not a finite number")
        values.append(value)
    return values
