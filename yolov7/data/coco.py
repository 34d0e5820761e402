"""COCO JSON -> `ImageSet` (spec of the data, section 6), and folders in COCO layout."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolov7.config import InputError, nearest
from yolov7.data.coco_objects import read_objects
from yolov7.data.coco_shapes import keypoint_names
from yolov7.data.entries import Entries, empty_entries, faults_of, image_set_of, join, take
from yolov7.data.image_set import ImageSet
from yolov7.data.label_cache import Cached, LabelCache, check_labels
from yolov7.data.scan import fingerprints, map_chunks, read_headers, without_collector

logger = logging.getLogger(__name__)

_LARGE = 50_000_000  # bytes: about a second

# --- the file --------------------------------------------------------------------------------------------------


def read_annotations(file: Path) -> dict[str, Any]:
    """A COCO JSON file whose ``images`` and ``categories`` have what is needed of them."""
    try:
        if (size := file.stat().st_size) > _LARGE:
            logger.info("reading %s (%d MB)", file, size / 1e6)
        with without_collector():
            content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; accepted: COCO's keys images, categories, ...")
    _check_rows(content, "images", ("id", "file_name"), file)
    _check_rows(content, "categories", ("id", "name"), file)
    _check_rows(content, "annotations", ("id", "image_id", "category_id", "bbox"), file)
    if not content["categories"]:
        raise InputError(f"{file}: `categories` is empty; accepted: at least one class")
    return content


def _check_rows(content: dict[str, Any], key: str, needed: tuple[str, ...], file: Path) -> None:
    if key == "annotations":
        content.setdefault(key, [])  # COCO's test splits have none
    if key not in content:
        raise InputError(f"{file}: the key {key!r} is missing{nearest(key, content)}")
    rows = content[key]
    if not isinstance(rows, list):
        raise InputError(f"{file}, {key}: holds a {type(rows).__name__}; accepted: a list")
    for number, row in enumerate(rows):
        for name in needed:
            if not isinstance(row, dict) or name not in row:
                raise InputError(f"{file}, {key}[{number}]: the key {name!r} is missing")


def read_categories(content: dict[str, Any], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes, sorted by id: label ``i`` is the i-th of them."""
    categories = content["categories"]
    for category in categories:
        if not isinstance(category["id"], int) or isinstance(category["id"], bool):
            raise InputError(f"{file}, categories: found the id {category['id']!r}; accepted: whole numbers")
    categories = sorted(categories, key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids[:-1], ids[1:], strict=True) if a == b)
        raise InputError(f"{file}, categories: the id {twice} stands twice")
    return ids, tuple(str(category["name"]) for category in categories)


# --- a split ---------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """The pictures and classes of a JSON file."""

    ids: list[int | str]
    files: list[str]  # relative to the pictures' folder
    category_ids: tuple[int, ...]
    names: tuple[str, ...]
    keypoint_names: tuple[str, ...]


def read_coco(
    folders: Sequence[Path], file: Path, names: tuple[str, ...] | None, split: str, cache: LabelCache | None = None
) -> ImageSet:
    """Read one split. ``names`` replace the file's own class names and must match them in number.

    Of several ``folders`` the first that has the pictures is used. Crowds are no training objects. Faulty pictures
    and objects are listed in the result's ``faults``. With a ``cache`` neither the file nor a picture is opened that
    has not changed since.
    """
    with without_collector():
        table, pictures, entries = _Reader(folders, file, split, cache or LabelCache(None)).read()
    if names is not None and len(names) != len(table.names):
        raise InputError(f"{file}: has {len(table.names)} categories, but the data set names {len(names)} classes")
    faults = faults_of(entries, pictures, str(file), str(file))
    ids = [table.ids[row] for row in np.flatnonzero(entries.usable).tolist()]
    return image_set_of(
        entries, pictures, ids, faults, str(file),
        names=names or table.names, category_ids=table.category_ids, keypoint_names=table.keypoint_names,
        annotation_file=str(file), split=split,
    )


class _Reader:
    """One JSON file, opened at most once, and the cache of what was read of it."""

    def __init__(self, folders: Sequence[Path], file: Path, split: str, cache: LabelCache) -> None:
        self.folders, self.file, self.split, self.cache = folders, file, split, cache
        self.described = {"reader": "coco json"}
        self.stamp = fingerprints([str(file)])[0].tolist()
        self.cached = cache.load(self.described)
        self.known = _known_table(self.cached, self.stamp)  # what an unchanged file would say

    @cached_property
    def content(self) -> dict[str, Any]:
        return read_annotations(self.file)

    def read(self) -> tuple[_Table, list[str], Entries]:
        """The table, the paths of its pictures, and their objects."""
        table = self.known or _read_table(self.content, self.file)
        folder = _picture_folder(self.folders, table.files, self.file)
        pictures = [os.path.join(folder, name) for name in table.files]
        stats = fingerprints(pictures)
        if self.cached and self.known and np.array_equal(stats, self.cached.stats):
            return table, pictures, self.cached.entries
        headers = self._headers(pictures, table.files, stats)
        if self.cached and self.known and _same_headers(headers, self.cached.entries):
            entries = self.cached.entries
        else:
            entries = self._objects(table, headers)
        extra = {"json": self.stamp, **table._asdict()}
        del extra["files"]
        self.cache.store(Cached(self.described, table.files, stats, entries, extra))
        return table, pictures, entries

    def _objects(self, table: _Table, headers: Entries) -> Entries:
        content = self.content
        try:
            return read_objects(content, table.ids, table.category_ids, headers, table.keypoint_names)
        except InputError as error:
            raise InputError(f"{self.file}, {error}") from None

    def _headers(self, pictures: list[str], files: list[str], stats: np.ndarray) -> Entries:
        """The sizes of all pictures, as entries without objects; those that have not changed are not opened."""
        rows, old = np.full(len(files), -1), []
        if self.cached is not None:
            rows, old = self.cached.rows(files, stats), [_headers_of(self.cached.entries)]
        new = np.flatnonzero(rows < 0)
        columns = [[pictures[row] for row in new.tolist()]]
        parts = map_chunks(scan_headers, columns, f"{self.split}: reading headers")
        rows[new] = np.arange(len(new)) + sum(map(len, old))
        return take(join(old + parts), rows) if old or parts else scan_headers([])


def scan_headers(pictures: Sequence[str]) -> Entries:
    """Pictures without objects."""
    return empty_entries(*read_headers(pictures))


def _headers_of(entries: Entries) -> Entries:
    """Only what was found in the headers."""
    findings = [item for item in entries.findings if item.entry >= 0 and not entries.sizes[item.entry, 0]]
    return empty_entries(entries.sizes, findings)


def _same_headers(headers: Entries, entries: Entries) -> bool:
    return np.array_equal(headers.sizes, entries.sizes) and headers.findings == _headers_of(entries).findings


def _read_table(content: dict[str, Any], file: Path) -> _Table:
    category_ids, names = read_categories(content, file)
    images = content["images"]
    for number, image in enumerate(images):
        if not isinstance(image["id"], (int, str)):
            raise InputError(f"{file}, images[{number}]: found the id {image['id']!r}; accepted: a number or a text")
    ids, files = [image["id"] for image in images], [str(image["file_name"]) for image in images]
    return _Table(ids, files, category_ids, names, keypoint_names(content["categories"], file))


def _known_table(cached: Cached | None, stamp: list[int]) -> _Table | None:
    """What the JSON file said when it was read for the cache, if it has not changed since."""
    try:
        if cached is None or cached.extra["json"] != stamp or stamp[0] < 0:
            return None
        extra = cached.extra
        texts = [*extra["names"], *extra["keypoint_names"]]
        table = _Table(extra["ids"], list(cached.keys), tuple(extra["category_ids"]), tuple(extra["names"]),
                       tuple(extra["keypoint_names"]))
        fits = len(table.ids) == len(table.files) and len(table.names) == len(table.category_ids)
        check_labels(cached.entries.labels, len(table.names))
    except (KeyError, TypeError, ValueError):
        return None
    fits &= all(isinstance(text, str) for text in texts)
    fits &= all(isinstance(i, (int, str)) for i in (*table.ids, *table.category_ids))
    return table if fits and cached.entries.keypoints.shape[1] == len(table.keypoint_names) else None


def names_of(file: Path, cache: LabelCache) -> tuple[str, ...]:
    """The class names of a JSON file, which is not opened where the cache knows them."""
    extra = cache.peek()
    names = extra.get("names")
    unchanged = extra.get("json") == fingerprints([str(file)])[0].tolist()
    if unchanged and isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return read_categories(read_annotations(file), file)[1]


# --- folders ---------------------------------------------------------------------------------------------------


def coco_patterns(split: str) -> list[str]:
    """Where the JSON file of a split is looked for in a folder in COCO layout."""
    stems = [f"instances_{split}*", split] + (["image_info_test-dev*"] if split == "test" else [])
    folders = [split, "valid"] if split == "val" else [split]
    return [f"annotations/{stem}.json" for stem in stems] + [f"{folder}/_annotations.coco.json" for folder in folders]


def find_coco_file(root: Path, split: str) -> Path | None:
    """The JSON file of a split in a folder in COCO layout. Raises `InputError` where several fit."""
    files = sorted({file for pattern in coco_patterns(split) for file in root.glob(pattern)})
    if len(files) > 1:
        found = ", ".join(file.name for file in files)
        raise InputError(f"--data {root}: several files fit the split {split!r}: {found}; name one in a data-set YAML")
    return files[0] if files else None


def coco_picture_folders(root: Path, file: Path, split: str) -> list[Path]:
    """Where the pictures of a JSON file may be in a folder in COCO layout, likeliest first."""
    year = file.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    patterns = [f"images/{year}", year, f"images/{split}*", f"{split}*", "images"]
    found = [folder for pattern in patterns for folder in sorted(root.glob(pattern)) if folder.is_dir()]
    return [*dict.fromkeys(found), root]


def _picture_folder(folders: Sequence[Path], names: list[str], file: Path) -> Path:
    """Of several folders the first that has one of the first pictures."""
    if len(folders) == 1:
        return folders[0]
    for folder in folders:
        if any((folder / name).is_file() for name in names[:20]):
            return folder
    tried = ", ".join(map(str, folders))
    raise InputError(f"{file}: none of its first pictures ({', '.join(names[:3])}) was found in: {tried}")
