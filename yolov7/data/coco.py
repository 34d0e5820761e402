"""COCO JSON -> `ImageSet` (docs/reference.md, COCO JSON), and folders in COCO layout."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from yolov7.config import InputError
from yolov7.data.coco_annotations import read_objects
from yolov7.data.coco_content import FAULTS, grouping_categories, read_annotations
from yolov7.data.formats import Entry, Format, Keypoints, SplitSource, ways_of_writing
from yolov7.data.image_set import ImageSet
from yolov7.data.images import MAX_PIXELS, MIN_SIDE
from yolov7.data.keypoint_facts import announced, keypoints_of_categories
from yolov7.data.label_cache import Cached, check_labels, read_changed
from yolov7.data.mirror import Mirror, mirror_in
from yolov7.data.scan import (
    SOURCE,
    Entries,
    Finding,
    empty_entries,
    fingerprints,
    image_set_of,
    read_headers,
)
from yolov7.data.tar_members import file_of_member, is_there
from yolov7.runtime.memory import without_collector

logger = logging.getLogger(__name__)


class CocoJson(Format):
    """A JSON file and a folder of images; a folder in COCO layout holds both."""

    name = "coco"
    entries = "{images: FOLDER, annotations: FILE.json}"

    def claims(self, entry: Entry) -> bool:
        """Keys ``images`` and ``annotations``."""
        return isinstance(entry, dict) and set(entry) == {"images", "annotations"}

    def layouts(self, split: str) -> list[str]:
        """Where the JSON file of a split is looked for in a folder in COCO layout."""
        stems = [f"instances_{split}*", split] + (["image_info_test-dev*"] if split == "test" else [])
        folders = [split, "valid"] if split == "val" else [split]
        return [f"annotations/{stem}.json" for stem in stems] + [f"{name}/_annotations.coco.json" for name in folders]

    def entry_of_folder(self, root: Path, split: str) -> Entry | None:
        """The JSON file of the split; its images are looked for when it is read."""
        files = sorted({file for pattern in self.layouts(split) for file in root.glob(pattern)})
        if len(files) > 1:
            found = ", ".join(file.name for file in files)
            raise InputError(f"--data {root}: several files fit the split {split!r}: {found}; name one in a data-set "
                             "YAML")
        return {"images": "", "annotations": str(files[0])} if files else None

    def class_names(self, source: SplitSource) -> tuple[tuple[str, ...], str]:
        """Those of the JSON file, which is not opened where the cache knows them."""
        file = _annotation_file(source)
        return _known_names(source, file, "names") or _classes(file)[0], str(file)

    def headings(self, source: SplitSource) -> tuple[str, ...] | None:
        """Categories without annotations that are only the ``supercategory`` of others; of a missing file none."""
        assert isinstance(source.entry, dict)
        found = next(filter(os.path.isfile, source.candidates(source.entry["annotations"])), None)
        if found is None:
            return None
        file = Path(found)
        known = _known_names(source, file, "headings")
        return _classes(file)[1] if known is None else known

    def read(self, source: SplitSource, names: tuple[str, ...] | None) -> ImageSet:
        """With the classes of the file, whatever the YAML calls them."""
        file = _annotation_file(source)
        with without_collector():
            table, images, entries = _read(source, file)
        ids = [table.ids[row] for row in np.flatnonzero(entries.usable).tolist()]
        return image_set_of(
            entries, images, ids, str(file), str(file), names=table.names, category_ids=table.category_ids,
            keypoint_names=table.keypoint_names, keypoint_flip=table.keypoint_flip,
            keypoint_limbs=table.keypoint_limbs, keypoint_sigmas=table.keypoint_sigmas, annotation_file=str(file),
            split=source.split)


def _annotation_file(source: SplitSource) -> Path:
    assert isinstance(source.entry, dict)  # `claims` has seen it
    return source.find(source.entry["annotations"], "annotations")


def _known_names(source: SplitSource, file: Path, key: str) -> tuple[str, ...] | None:
    """Names that the cache has of a JSON file that has not changed since."""
    extra = source.cache([file]).peek()
    names = extra.get(key)
    unchanged = extra.get("json") == fingerprints([str(file)])[0].tolist()
    if not unchanged or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _classes(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names and headings of a JSON file."""
    return _classes_as_of(str(file), *fingerprints([str(file)])[0].tolist())


@lru_cache(maxsize=8)
def _classes_as_of(file: str, size: int, changed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both at once: a JSON file may be large."""
    content = read_annotations(Path(file))
    return read_categories(content, Path(file))[1], tuple(grouping_categories(content))


# --- the classes -------------------------------------------------------------------------------------------------


def read_categories(content: dict[str, Any], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes, sorted by id: label ``i`` is the i-th of them."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids[:-1], ids[1:], strict=True) if a == b)
        raise InputError(f"{file}, categories: the id {twice} stands twice")
    return ids, tuple(category["name"] for category in categories)


# --- a split ---------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """The images and classes of a JSON file."""

    files: list[str]  # relative to the images' folder
    ids: tuple[int | str, ...]
    category_ids: tuple[int, ...]
    names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    keypoint_flip: tuple[int, ...]
    keypoint_limbs: tuple[tuple[int, int], ...]
    keypoint_sigmas: tuple[float, ...]
    headings: tuple[str, ...]


def _read(source: SplitSource, file: Path) -> tuple[_Table, list[str], Entries]:
    """The table of a JSON file, the paths of its images, and their objects.

    Neither the file nor an image is opened that has not changed since it was read for the cache.
    """
    cache, described = source.cache([file]), _described(source.keypoints)
    stamp = fingerprints([str(file)])[0].tolist()
    cached = cache.load(described)
    known = _known_table(cached, stamp)  # what an unchanged file would say
    content = {} if known else read_annotations(file)
    table = known or _read_table(content, file, source)
    folder = _image_folder(source, file, table.files)
    mirror = mirror_in(source.bases[0])
    images = [os.path.join(folder, name) for name in table.files] if mirror else _image_paths(folder, table.files, file)
    stats = fingerprints(images)
    if cached and known and np.array_equal(stats, cached.stats):
        return table, images, cached.entries
    if mirror:
        content = content or read_annotations(file)
        headers = stated_headers(content["images"], images, mirror)
    else:
        headers_only = cached and replace(cached, entries=_headers_of(cached.entries))
        headers = read_changed(scan_headers, (images,), headers_only, table.files, stats,
                               f"{source.split}: reading headers")
    if cached and known and _same_headers(headers, cached.entries):
        entries = cached.entries
    else:
        entries = _objects(content or read_annotations(file), file, table, headers)
    extra = {"json": stamp, **table._asdict()}
    del extra["files"]
    cache.store(Cached(described, table.files, stats, entries, extra))
    return table, images, entries


def _described(keypoints: Keypoints | None) -> dict[str, Any]:
    """What of the data set's YAML decides what is read."""
    said = {} if keypoints is None else {"keypoints": json.loads(json.dumps(keypoints))}  # as the cache writes it
    return {"reader": "coco json", **said}


def _objects(content: dict[str, Any], file: Path, table: _Table, headers: Entries) -> Entries:
    try:
        left_out = (Finding(-1, False, reason, is_image) for reason, is_image in content[FAULTS])
        headers = replace(headers, findings=(*left_out, *headers.findings))
        return read_objects(content, table.ids, table.category_ids, headers, table.keypoint_names)
    except InputError as error:
        raise InputError(f"{file}, {error}") from None


def scan_headers(images: Sequence[str]) -> Entries:
    """Images without objects."""
    return empty_entries(*read_headers(images))


def stated_headers(rows: Sequence[dict[str, Any]], images: Sequence[str], mirror: Mirror) -> Entries:
    """Images without objects, as a data set on a server says: they were looked at when it was written.

    Those outside of its tar files are not usable.
    """
    sizes, findings = np.zeros((len(images), 2), np.int32), []
    files = [file_of_member(image) for image in images]
    known = {file for file in set(files) if mirror.name_of(file)}
    for row, (image, file, said) in enumerate(zip(images, files, rows, strict=True)):
        height, width = said.get("height"), said.get("width")
        if file not in known or ".." in image.split("/"):
            findings.append(Finding(row, True, "is in none of the tar files of its data set; the image is skipped"))
        elif isinstance(height, int) and isinstance(width, int) and min(height, width) >= MIN_SIDE \
                and height * width <= MAX_PIXELS:
            sizes[row] = height, width
        else:
            findings.append(Finding(row, True, f"{SOURCE} does not say its size; the image is skipped"))
    return empty_entries(sizes, findings)


def _headers_of(entries: Entries) -> Entries:
    """Only what was found in the headers."""
    findings = [item for item in entries.findings if item.entry >= 0 and not entries.sizes[item.entry, 0]]
    return empty_entries(entries.sizes, findings)


def _same_headers(headers: Entries, entries: Entries) -> bool:
    return np.array_equal(headers.sizes, entries.sizes) and headers.findings == _headers_of(entries).findings


def _read_table(content: dict[str, Any], file: Path, source: SplitSource) -> _Table:
    category_ids, names = read_categories(content, file)
    images = content["images"]
    files, ids = [image["file_name"] for image in images], tuple(image["id"] for image in images)
    keypoints = announced(keypoints_of_categories(content["categories"], file), source.keypoints, file, source.data)
    return _Table(files, ids, category_ids, names, keypoints.names, keypoints.flip, keypoints.limbs, keypoints.sigmas,
                  tuple(grouping_categories(content)))


def _known_table(cached: Cached | None, stamp: list[int]) -> _Table | None:
    """What the JSON file said when it was read for the cache, if it has not changed since."""
    try:
        if cached is None or cached.extra["json"] != stamp or stamp[0] < 0:
            return None
        columns = {name: tuple(cached.extra[name]) for name in _Table._fields[1:]}
        columns["keypoint_limbs"] = tuple((int(a), int(b)) for a, b in columns["keypoint_limbs"])
        table = _Table(list(cached.keys), **columns)
        fits = len(table.ids) == len(table.files) and len(table.names) == len(table.category_ids)
        check_labels(cached.entries.objects.labels, len(table.names))
    except (KeyError, TypeError, ValueError):
        return None
    fits &= all(isinstance(text, str) for text in (*table.names, *table.keypoint_names, *table.headings))
    fits &= all(isinstance(i, (int, str)) for i in (*table.ids, *table.category_ids, *table.keypoint_flip))
    fits &= all(isinstance(i, float) for i in table.keypoint_sigmas)
    return table if fits and cached.entries.objects.keypoints.shape[1] == len(table.keypoint_names) else None


def _image_paths(folder: Path, names: list[str], file: Path) -> list[str]:
    """Where images are: names with backslashes are also understood with slashes.

    Those with folders that are not there are understood without, if that leaves them different.
    """
    paths = [os.path.join(folder, name) for name in names]
    odd = [row for row, name in enumerate(names) if {*name} & {*"\\/%"} and not is_there(paths[row])]
    bare = [posixpath.basename(name.replace("\\", "/")) for name in names] if odd else []
    loose = len(set(bare)) == len(bare)
    found = 0
    for row in odd:
        bare_ways = (bare[row], unquote(bare[row])) if loose else ()
        ways = [os.path.join(folder, way) for way in (*ways_of_writing(names[row]), *bare_ways)]
        if path := next(filter(os.path.exists, ways), ""):
            paths[row], found = path, found + 1
    if found:
        logger.info("%s: %d images were found in %s, though not as they are written there (%s)", file, found, folder,
                    names[odd[0]][:200])
    return paths


def _image_folder(source: SplitSource, file: Path, names: list[str]) -> Path:
    """The folder of the images of a JSON file; in COCO layout the first that has one of the first images."""
    assert isinstance(source.entry, dict)
    if images := source.entry["images"]:
        return source.find(images, "images")
    root, year = source.bases[0], file.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    patterns = [f"images/{year}", year, f"images/{source.split}*", f"{source.split}*", "images"]  # likeliest first
    found = [folder for pattern in patterns for folder in sorted(root.glob(pattern)) if folder.is_dir()]
    folders = [*dict.fromkeys(found), root]
    for folder in folders:
        if len(folders) == 1 or any(is_there(folder / name) for name in names[:20]):
            return folder
    tried = ", ".join(map(str, folders))
    raise InputError(f"{file}: none of its first images ({', '.join(names[:3])}) was found in: {tried}")
