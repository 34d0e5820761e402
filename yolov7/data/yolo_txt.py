"""Folders or lists of pictures with YOLO label files -> `ImageSet` (spec of the data, sections 1 to 4)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import (
    Fault,
    ImageRecord,
    ImageSet,
    ObjectRecord,
    build_image_set,
    no_outline,
    picture_size,
    tidy_objects,
)
from yolov7.data.images import IMAGE_SUFFIXES

TOLERANCE = 1e-3  # by which a normalised value may leave 0 ... 1
_COLUMNS = "5 columns (class cx cy w h), or an odd number from 7 on (class x1 y1 x2 y2 x3 y3 ...)"


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
    found, visited = [], set()
    for place, folders, files in os.walk(os.path.abspath(folder), followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link to a folder above: it would never end
            folders.clear()
            continue
        visited.add(real)
        found += [os.path.join(place, file) for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(found)


def _pictures_in_list(file: Path, bases: Sequence[Path]) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list of pictures: {error}") from None
    return [_picture_of_line(line, file.parent, bases) for line in map(str.strip, lines) if line]


def _picture_of_line(line: str, folder: Path, bases: Sequence[Path]) -> str:
    if line.startswith("./"):
        return os.path.abspath(folder / line)
    candidates = [os.path.abspath(base / line) for base in (*bases, folder)]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def label_path(picture: str) -> str:
    """The label file of a picture: its path with ``images`` -> ``labels`` and the suffix ``.txt``.

    Of several components ``images`` the last is replaced, else the first (as the original does) where only that
    file exists. Without a labels folder the file is looked for beside the picture.
    """
    beside = os.path.splitext(picture)[0] + ".txt"
    parts = beside.split(os.sep)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if not places:
        return beside
    last, first = (os.sep.join([*parts[:i], "labels", *parts[i + 1 :]]) for i in (places[-1], places[0]))
    existing = next((path for path in (last, first) if os.path.isfile(path)), None)
    if existing:
        return existing
    folders = (os.sep.join([*parts[:i], "labels"]) for i in (places[-1], places[0]))
    return last if any(_is_folder(folder) for folder in folders) else beside


@cache
def _is_folder(path: str) -> bool:
    return os.path.isdir(path)


# --- labels ----------------------------------------------------------------------------------------------------


def read_yolo_txt(pictures: Sequence[str], names: tuple[str, ...], split: str, source: str) -> ImageSet:
    """Read the labels of these pictures. A picture without a label file has no objects.

    Faulty pictures, files and objects are listed in the result's ``faults``; a class index out of range is an
    `InputError`.
    """
    _is_folder.cache_clear()
    faults: list[Fault] = []
    usable = []
    for path in pictures:
        size = picture_size(path, faults) if os.path.exists(path) else None
        if not os.path.exists(path):
            faults.append(Fault(path, f"missing, but named by {source}; the picture is skipped"))
        objects = _read_objects(label_path(path), size, len(names), faults) if size else None
        if size and objects is not None:
            usable.append((path, size, objects))
    ids = _image_ids([path for path, _, _ in usable])
    records = [ImageRecord(path, i, size, objects) for i, (path, size, objects) in zip(ids, usable, strict=True)]
    category_ids = tuple(range(1, len(names) + 1))
    return build_image_set(records, names, category_ids, faults, annotation_file=None, split=split, source=source)


def _image_ids(paths: Sequence[str]) -> Sequence[int | str]:
    """File names without suffix, as numbers where all are (as COCO's); 1, 2, ... where they are not unique."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return stems if len(set(stems)) == len(stems) else list(range(1, len(stems) + 1))


def _read_objects(
    file: str, size: tuple[int, int], num_classes: int, faults: list[Fault]
) -> list[ObjectRecord] | None:
    """The objects of one label file, or nothing where a row is garbage: then the picture is skipped."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(file, f"cannot be read as text ({error}); the picture is skipped"))
        return None
    objects = []
    for number, line in enumerate(lines, 1):
        columns = line.split()
        if not columns:
            continue
        try:
            objects.append(parse_row(columns, size, num_classes, f"line {number}"))
        except _LabelError as error:
            faults.append(Fault(file, f"line {number}: {error}; the picture is skipped"))
            return None
        except InputError as error:
            raise InputError(f"{file}, {error}") from None
    return tidy_objects(objects, size, file, faults)


def parse_row(columns: Sequence[str], size: tuple[int, int], num_classes: int, where: str) -> ObjectRecord:
    """One row: a box (5 columns) or a polygon (an odd number from 7 on), normalised -> native pixels."""
    if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
        raise _LabelError(f"{len(columns)} columns; accepted: {_COLUMNS}")
    label, *values = _numbers(columns)
    if label != int(label):
        raise _LabelError(f"class {columns[0]}; accepted: a whole number")
    if not 0 <= label < num_classes:
        raise InputError(f"{where}: found class index {columns[0]}; accepted: 0 to {num_classes - 1}")
    if min(values) < -TOLERANCE or max(values) > 1 + TOLERANCE:
        worst = max(values, key=lambda value: abs(value - 0.5))
        raise _LabelError(f"the value {worst:g}; accepted: 0 to 1 (fractions of width and height)")
    values = [min(max(value, 0.0), 1.0) for value in values]
    height, width = size
    if len(values) == 4:
        cx, cy, w, h = (value * side for value, side in zip(values, (width, height) * 2, strict=True))
        return ObjectRecord((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), int(label), no_outline(), where)
    outline = (np.array(values).reshape(-1, 2) * (width, height)).astype(np.float32)  # [K, 2]
    (x1, y1), (x2, y2) = outline.min(0).tolist(), outline.max(0).tolist()
    return ObjectRecord((x1, y1, x2, y2), int(label), outline, where)


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
