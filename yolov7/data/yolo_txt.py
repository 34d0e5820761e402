"""Folders or lists of images with YOLO label files -> `ImageSet` (docs/reference.md, Label files)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from yolov7.config import InputError, read_bytes
from yolov7.config.errors import shown
from yolov7.data.darknet import NAMES_FILES, names_file
from yolov7.data.data_yaml import read_names
from yolov7.data.foreign.recognise import refusal
from yolov7.data.formats import Entry, Format, Keypoints, SplitSource, ways_of_writing
from yolov7.data.image_set import ImageSet, category_ids
from yolov7.data.images import IMAGE_SUFFIXES
from yolov7.data.keypoint_facts import person_if_unsaid
from yolov7.data.label_cache import BESIDE_THE_DATA, Cached, LabelCache, read_changed
from yolov7.data.label_rows import scan_labels
from yolov7.data.scan import Entries, fingerprints, image_set_of
from yolov7.data.text import decode_text

logger = logging.getLogger(__name__)

_LABEL_FOLDERS = ("labels", "annotations")
_MAX_LIST = 1 << 30  # bytes
_MAX_DIGITS = 19  # of a name that is a number: 64 bits
_OTHER_SUFFIXES = (".txt", ".json", ".yaml", ".xml", ".csv", ".md")  # expected beside images


class YoloTxt(Format):
    """Folders or lists of images, each with a label file; a YAML or a text file names their classes."""

    name = "yolo"
    entries = "a folder or a list of images, or several"

    def claims(self, entry: Entry) -> bool:
        """A path or several."""
        return not isinstance(entry, dict)

    def layouts(self, split: str) -> list[str]:
        """Folders of images beside a text file of class names."""
        return [f"{folder} beside {NAMES_FILES[0]}" for folder in _folders(split)]

    def entry_of_folder(self, root: Path, split: str) -> Entry | None:
        """The folder of a split's images, where a text file names the classes."""
        if not names_file(root, root / "labels", root / "images"):
            return None
        return next((folder for folder in _folders(split) if _has_image(root / folder)), None)

    def class_names(self, source: SplitSource) -> tuple[tuple[str, ...], str] | None:
        """Those of a text file beside the YAML, the images or their labels."""
        places = [Path(place) for path in _paths(source) for place in source.candidates(path) if os.path.exists(place)]
        folders = [place if place.is_dir() else place.parent for place in places]
        labels = [Path(folder) for place in folders for folder in label_folders(str(place))]
        roots = [Path(base, *under) for base in source.bases for under in ((), ("labels",), ("images",))]
        file = names_file(*labels, *folders, *roots)
        return (read_names(file), str(file)) if file else None

    def read(self, source: SplitSource, names: tuple[str, ...] | None) -> ImageSet:
        """An image without a label file has no objects; a class index out of range is an `InputError`."""
        if names is None:
            found = self.class_names(source)
            assert found is not None  # a data set without names was not opened
            names = found[0]
        places = [source.find(path) for path in _paths(source)]
        images = find_images(places, source.bases)
        label_files = label_paths(images)
        entries = _read_entries(images, label_files, names, source, source.cache(places))
        ids = _image_ids(images)
        keypoints = person_if_unsaid(source.keypoints or Keypoints(), source.data)
        return image_set_of(entries, images, [ids[row] for row in np.flatnonzero(entries.usable).tolist()],
                            label_files, source.where, names=names, category_ids=category_ids(names),
                            keypoint_names=keypoints.names, keypoint_flip=keypoints.flip,
                            keypoint_limbs=keypoints.limbs, keypoint_sigmas=keypoints.sigmas, split=source.split,
                            unlabelled="" if any(map(os.path.exists, label_files)) else _looked_for(images[0]))


def _paths(source: SplitSource) -> tuple[str, ...]:
    assert not isinstance(source.entry, dict)  # `claims` has seen it
    return (source.entry,) if isinstance(source.entry, str) else source.entry


def _folders(split: str) -> list[str]:
    """Where a folder may have the images of a split, the likeliest first."""
    words = (split, "valid", "validation") if split == "val" else (split,)
    return [pattern.format(word) for pattern in ("images/{}", "{}/images", "{}") for word in words]


def _has_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries)
    except OSError:
        return False


def _read_entries(images: Sequence[str], label_files: Sequence[str], names: tuple[str, ...],
                  source: SplitSource, cache: LabelCache) -> Entries:
    """What is in the cache and has not changed since is not read again."""
    keys = cache.keys(f"{image}\n{file}" for image, file in zip(images, label_files, strict=True))
    stats = np.concatenate((fingerprints(images), fingerprints(label_files)), axis=1)  # [I, 4]
    keypoints = source.keypoints
    shape = [len(keypoints.names), keypoints.values] if keypoints else None
    described = {"reader": "yolo txt", "names": list(names), "keypoints": shape}
    cached = cache.load(described, len(names))
    if cached and np.array_equal(stats, cached.stats) and keys == cached.keys:
        return cached.entries
    read = partial(scan_labels, num_classes=len(names), keypoints=keypoints)
    entries = read_changed(read, (images, label_files), cached, keys, stats, f"{source.split}: reading labels")
    cache.store(Cached(described, keys, stats, entries))
    return entries


def _looked_for(image: str) -> str:
    """Where the label file of an image was looked for, for messages."""
    folder, _, name = image.rpartition(os.sep)
    stem = os.path.splitext(name)[0]
    return ", ".join(f"{place}{os.sep}{stem}.txt" for place in label_folders(folder))


def _image_ids(paths: Sequence[str]) -> Sequence[int]:
    """File names without suffix where all are numbers (as COCO's), and differ; else 1, 2, ... in their order.

    COCO's tools want numbers; those that `yolov7 data convert` writes are the same.
    """
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isascii() and stem.isdigit() and len(stem) < _MAX_DIGITS for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return range(1, len(stems) + 1)


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
            if source.is_dir() and (said := refusal(source, readable=False)):
                raise InputError(said)
            what = f"no image in this folder ({', '.join(IMAGE_SUFFIXES)})" if source.is_dir() else "an empty list"
            raise InputError(f"{source}: {what}")
        images += found
    unique = list(dict.fromkeys(images))
    if len(unique) < len(images):
        logger.info("%s: %d images are named more than once; each is taken once", ", ".join(map(str, sources)),
                    len(images) - len(unique))
    return unique


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
    if said := refusal(file, readable=False):
        raise InputError(said)
    if file.suffix.lower() == ".json":
        raise InputError(f"{file}: is JSON, not a list of images; COCO JSON is named with the folder of its images: "
                         f"{{images: FOLDER, annotations: {file.name}}}")
    text, encoding = decode_text(read_bytes(file, _MAX_LIST))
    if "\0" in text:
        raise InputError(f"{file}: cannot be read as a list of images: it holds zeros; accepted: a path in each line")
    if encoding != "UTF-8":
        logger.info("%s: read as %s", file, encoding)
    lines = text.splitlines()
    places = [os.path.abspath(place) for place in (*bases, file.parent)]
    entries = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    images = [_image_of_line(line, places) for line in entries]
    odd = [line for line, (_, as_written) in zip(entries, images, strict=True) if not as_written]
    if odd:
        logger.info("%s: %d images were not found as they are written (%s), and were found otherwise", file, len(odd),
                    shown(odd[0]))
    return [image for image, _ in images]


def _image_of_line(line: str, places: Sequence[str]) -> tuple[str, bool]:
    """The path of an image, and whether it is as written; a missing one is."""
    if line.startswith("./"):
        places = places[-1:]
    for way in ways_of_writing(line):
        for place in places:
            path = os.path.normpath(os.path.join(place, way))
            if os.path.exists(path):
                return path, way == line
    return os.path.normpath(os.path.join(places[0], line)), True


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
