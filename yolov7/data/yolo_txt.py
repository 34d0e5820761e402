"""Folders or lists of images with YOLO label files -> `ImageSet` (docs/reference.md, Label files)."""

from __future__ import annotations

import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.formats import Entry, Format, SplitSource, ways_of_writing
from yolov7.data.image_set import ImageSet, category_ids
from yolov7.data.images import IMAGE_SUFFIXES
from yolov7.data.label_cache import BESIDE_THE_DATA, Cached, LabelCache, read_changed
from yolov7.data.objects import Objects, Ragged, no_objects, starts_of
from yolov7.data.regular import read_regular
from yolov7.data.scan import (
    UNREADABLE,
    Entries,
    Finding,
    fingerprints,
    image_set_of,
    read_headers,
    tidy,
)

logger = logging.getLogger(__name__)

TOLERANCE = 1e-2  # by which a normalised value may leave 0 ... 1: it is clipped
MAX_LABELS, MAX_LIST = 1 << 26, 1 << 29  # bytes of a label file, of a list of images
_LABEL_FOLDERS = ("labels", "annotations")
_COLUMNS = "5 columns (class cx cy w h), or an odd number from 7 on (class x1 y1 x2 y2 x3 y3 ...)"
_OTHER_SUFFIXES = (".txt", ".json", ".yaml", ".xml", ".csv", ".md")  # expected beside images


class _LabelError(Exception):
    """Why a label file cannot be used, without its name."""


class YoloTxt(Format):
    """Folders or lists of images, each with a label file; only a YAML can name their classes."""

    name = "yolo"
    entries = "a folder or a list of images, or several"

    def claims(self, entry: Entry) -> bool:
        """A path or several."""
        return not isinstance(entry, dict)

    def read(self, source: SplitSource, names: tuple[str, ...] | None) -> ImageSet:
        """An image without a label file has no objects; a class index out of range is an `InputError`."""
        assert names is not None
        paths = (source.entry,) if isinstance(source.entry, str) else source.entry
        places = [source.find(path) for path in paths]
        images = find_images(places, source.bases)
        label_files = label_paths(images)
        entries = _read_entries(images, label_files, names, source.split, source.cache(places))
        ids = _image_ids([images[row] for row in np.flatnonzero(entries.usable).tolist()])
        return image_set_of(entries, images, ids, label_files, source.where, names=names,
                            category_ids=category_ids(names), split=source.split,
                            unlabelled="" if any(map(os.path.exists, label_files)) else _looked_for(images[0]))


def _read_entries(images: Sequence[str], label_files: Sequence[str], names: tuple[str, ...], split: str,
                  cache: LabelCache) -> Entries:
    """What is in the cache and has not changed since is not read again."""
    keys = cache.keys(f"{image}\n{file}" for image, file in zip(images, label_files, strict=True))
    stats = np.concatenate((fingerprints(images), fingerprints(label_files)), axis=1)  # [I, 4]
    described = {"reader": "yolo txt", "names": list(names)}
    cached = cache.load(described, len(names))
    if cached and np.array_equal(stats, cached.stats) and keys == cached.keys:
        return cached.entries
    read = partial(scan_labels, num_classes=len(names))
    entries = read_changed(read, (images, label_files), cached, keys, stats, f"{split}: reading labels")
    cache.store(Cached(described, keys, stats, entries))
    return entries


def _looked_for(image: str) -> str:
    """Where the label file of an image was looked for, for messages."""
    folder, _, name = image.rpartition(os.sep)
    stem = os.path.splitext(name)[0]
    return ", ".join(f"{place}{os.sep}{stem}.txt" for place in label_folders(folder))


def _image_ids(paths: Sequence[str]) -> Sequence[int | str]:
    """File names without suffix, as numbers where all are (as COCO's); 1, 2, ... where they are not unique."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return stems if len(set(stems)) == len(stems) else list(range(1, len(stems) + 1))


# --- images --------------------------------------------------------------------------------------------------


def find_images(sources: Sequence[Path], bases: Sequence[Path]) -> list[str]:
    """Absolute paths of the images in folders (searched recursively, sorted) and list files (in their order).

    A line ``./x`` of a list is relative to the list's folder; other relative lines are relative to the first of
    ``bases``, else of the list's folder, where they exist. Missing images are kept: they are faults, not nothing.
    """
    images: list[str] = []
    for source in sources:
        found = _images_in_folder(source) if source.is_dir() else _images_in_list(source, bases)
        if not found:
            what = f"no image in this folder ({', '.join(IMAGE_SUFFIXES)})" if source.is_dir() else "an empty list"
            raise InputError(f"{source}: {what}")
        images += found
    return list(dict.fromkeys(images))


def _images_in_folder(folder: Path) -> list[str]:
    found, others, visited = [], Counter[str](), set()
    for place, folders, files in os.walk(os.path.abspath(folder), followlinks=True):
        real = os.path.realpath(place)
        if real in visited or os.path.basename(place) == BESIDE_THE_DATA:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        found += [os.path.join(place, file) for file in images]
        if len(images) < len(files):
            others.update(os.path.splitext(file)[1].lower() for file in set(files) - set(images))
    left_out = {suffix or "none": count for suffix, count in others.items() if suffix not in _OTHER_SUFFIXES}
    if left_out:
        shown = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(left_out.items()))
        logger.info("%s: %d files with other suffixes are left out (%s)", folder, sum(left_out.values()), shown)
    return sorted(found)


def _images_in_list(file: Path, bases: Sequence[Path]) -> list[str]:
    if file.suffix.lower() == ".json":
        raise InputError(f"{file}: is JSON, not a list of images; COCO JSON is named with the folder of its images: "
                         f"{{images: FOLDER, annotations: {file.name}}}")
    try:
        lines = read_regular(file, MAX_LIST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list of images: {error}") from None
    places = [os.path.abspath(place) for place in (*bases, file.parent)]
    return [_image_of_line(line, places) for line in map(str.strip, lines) if line and not line.startswith("#")]


def _image_of_line(line: str, places: Sequence[str]) -> str:
    if line.startswith("./"):
        places = places[-1:]
    ways = ways_of_writing(line) if "\\" in line else (line,)
    candidates = [os.path.normpath(os.path.join(place, way)) for way in ways for place in places]
    return next(filter(os.path.exists, candidates), candidates[0]) if len(candidates) > 1 else candidates[0]


# --- label files -----------------------------------------------------------------------------------------------


def label_paths(images: Iterable[str]) -> list[str]:
    """The label file of each image: its path with ``images`` -> ``labels`` and the suffix ``.txt``.

    Of several components ``images`` the last is replaced, else the first (as the reference implementation does). A
    file that is not there is looked for in a folder ``annotations`` instead; where none of these folders is there,
    beside the image. Upper and lower case of these words do not matter.
    """
    places, stems, is_folder = cache(label_folders), cache(_text_files), cache(os.path.isdir)  # each is looked up once

    def find(folder: str, name: str) -> str:
        stem, there = os.path.splitext(name)[0], [place for place in places(folder)[:-1] if is_folder(place)]
        found = (f"{place}{os.sep}{file}" for place in there or [folder] if (file := stems(place).get(stem)))
        return next(found, f"{places(folder)[0]}{os.sep}{stem}.txt")

    return [find(folder, name) for folder, _, name in (image.rpartition(os.sep) for image in images)]


def label_folders(folder: str) -> list[str]:
    """Where the label files of the images in a folder are looked for, in this order."""
    parts = folder.split(os.sep)
    places = [i for i, part in enumerate(parts) if part.lower() == "images"]
    found = []
    for i in dict.fromkeys((*places[-1:], *places[:1])):
        found += [os.sep.join([*parts[:i], name, *parts[i + 1 :]]) for name in _siblings(os.sep.join(parts[:i]))]
    return [*found, folder]


def _siblings(folder: str) -> list[str]:
    """Folders of labels in a folder, the likeliest first."""
    try:
        names = sorted(os.listdir(folder or os.sep))
    except OSError:
        return []
    return [name for word in _LABEL_FOLDERS for name in names if name.lower() == word]


def _text_files(folder: str) -> dict[str, str]:
    """The text files of a folder by their stems."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(".txt")}


# --- rows ------------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The numbers of all rows of some label files."""

    values: np.ndarray  # float64 [V]; a row without numbers has one NaN
    lengths: np.ndarray  # int64 [R] values of each row
    files: np.ndarray  # int64 [R] file of each row
    lines: np.ndarray  # int64 [R] its line, from 1
    texts: list[str]  # of the files


def scan_labels(images: Sequence[str], label_files: Sequence[str], num_classes: int) -> Entries:
    """Headers of images and rows of their label files. Raises `InputError` for a class index out of range."""
    sizes, findings = read_headers(images)
    usable = sizes[:, 0] > 0
    rows = _read_rows(label_files, usable, findings)
    bad = _bad_rows(rows, num_classes)
    for t in np.flatnonzero(bad).tolist():
        file, line = int(rows.files[t]), int(rows.lines[t])
        if not usable[file]:
            continue  # one reason is enough
        try:
            check_row(rows.texts[file].splitlines()[line - 1].split(), num_classes)
        except _LabelError as error:
            findings.append(Finding(file, False, f"line {line}: {error}; the image is skipped"))
            usable[file] = False
        except InputError as error:
            raise InputError(f"{label_files[file]}, line {line}: {error}") from None
    good = usable[rows.files]
    lines = rows.lines[good]
    counts = np.bincount(rows.files[good], minlength=len(sizes))
    return tidy(_objects(rows, good, sizes), counts, sizes, usable, findings, lambda t: f"line {lines[t]}")


def _read_rows(label_files: Sequence[str], usable: np.ndarray, findings: list[Finding]) -> _Rows:
    values, lengths, files, lines, texts = array("d"), array("q"), array("q"), array("q"), []
    for number, file in enumerate(label_files):
        texts.append(_read_text(number, file, usable, findings) if usable[number] else "")
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
            files.append(number)
            lines.append(line)
    return _Rows(np.array(values), np.array(lengths), np.array(files), np.array(lines), texts)


def _read_text(number: int, file: str, usable: np.ndarray, findings: list[Finding]) -> str:
    """The text of a label file; empty where there is none, or where it cannot be read."""
    try:
        return read_regular(file, MAX_LABELS).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as error:
        reason = f"{UNREADABLE} ({error.strerror})"
    except UnicodeDecodeError as error:
        reason = f"{UNREADABLE} as text ({error})"
    findings.append(Finding(number, False, f"{reason}; the image is skipped"))
    usable[number] = False
    return ""


def _bad_rows(rows: _Rows, num_classes: int) -> np.ndarray:
    """Which rows `check_row` refuses: bool ``[R]``."""
    starts = starts_of(rows.lengths)[:-1]
    labels = rows.values[starts]
    outside = ~((rows.values >= -TOLERANCE) & (rows.values <= 1 + TOLERANCE))  # NaN is outside as well
    outside[starts] = False
    columns_fit = (rows.lengths == 5) | ((rows.lengths >= 7) & (rows.lengths % 2 == 1))
    label_fits = (labels == np.floor(labels)) & (labels >= 0) & (labels < num_classes)
    values_fit = ~np.logical_or.reduceat(outside, starts) if len(starts) else np.zeros(0, bool)
    bad: np.ndarray = ~(columns_fit & label_fits & values_fit)
    return bad


def _objects(rows: _Rows, good: np.ndarray, sizes: np.ndarray) -> Objects:
    """The good rows in native pixels; boxes are float64."""
    lengths = rows.lengths[good]
    values = rows.values[np.repeat(good, rows.lengths)]
    starts = starts_of(lengths)[:-1]
    labels = values[starts].astype(np.int64)
    width_height = sizes[rows.files[good]][:, ::-1].astype(np.float64)  # [R, 2]
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
    return no_objects().like(boxes, labels, polygons=Ragged(points, counts))


def check_row(columns: Sequence[str], num_classes: int) -> None:
    """Say what is wrong with a row: a box (5 columns) or a polygon (an odd number from 7 on), normalised."""
    if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
        raise _LabelError(f"{len(columns)} columns; accepted: {_COLUMNS}")
    label, *values = map(_number, columns)
    if label != int(label):
        raise _LabelError(f"class {columns[0]}; accepted: a whole number")
    if not 0 <= label < num_classes:
        raise InputError(f"found class index {columns[0]}; accepted: 0 to {num_classes - 1}")
    if min(values) < -TOLERANCE or max(values) > 1 + TOLERANCE:
        worst = max(values, key=lambda value: abs(value - 0.5))
        raise _LabelError(f"the value {worst:g}; accepted: 0 to 1 (fractions of width and height)")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _LabelError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise _LabelError(f"{text!r} is not a finite number")
    return value
