"""Files of foreign data sets: bounded walks and reads, texts in any encoding, images by their names."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yolov7.config import InputError
from yolov7.config.schema import shown
from yolov7.data.foreign.columns import encoding_of
from yolov7.data.formats import ways_of_writing
from yolov7.data.images import IMAGE_SUFFIXES

MAX_BYTES = 64 * 2**20  # of one file that is read whole
_MAX_JSON = 256 * 2**20
_MAX_VALUES = 20_000_000  # of a JSON file: some 50 bytes each
_MAX_FILES = 2_000_000  # below one folder
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                "test": "test", "testing": "test"}


class UnusableError(Exception):
    """Why a file or an object of it cannot be used, without its name."""


# --- reading ---------------------------------------------------------------------------------------------------


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """A regular file of at most ``limit`` bytes. Raises `UnusableError`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError("is no regular file")
        if status.st_size > limit:
            raise UnusableError(f"has {status.st_size / 2**20:.0f} MB; accepted: up to {limit / 2**20:.0f} MB")
        with open(path, "rb") as stream:
            return stream.read(limit)
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror or error})") from None


def text_of(content: bytes) -> str:
    """A text in UTF-8 or UTF-16, else in CP1252, as older Windows tools write. Raises `UnusableError`."""
    for encoding in (encoding_of(content), "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UnusableError("is no text in UTF-8, UTF-16 or CP1252")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises `UnusableError`."""
    try:
        content = read_bytes(path, _MAX_JSON)
        if sum(map(content.count, (b",", b"[", b"{"))) > _MAX_VALUES:
            raise UnusableError(f"has more than {_MAX_VALUES:,} values")
        return json.loads(text_of(content))
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"is not valid JSON ({error})") from None


# --- finding ---------------------------------------------------------------------------------------------------


def files_below(root: Path, suffixes: Sequence[str]) -> list[str]:
    """Files with these suffixes in a folder and those in it, sorted; hidden ones are left out.

    Links are followed, but no folder is entered twice. Raises `InputError` where there are too many files.
    """
    found: list[str] = []
    visited: set[str] = set()
    count = 0
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        count += len(files) + len(folders)
        if count > _MAX_FILES:
            raise InputError(f"{root}: holds more than {_MAX_FILES:,} files; name the folder of the images: --images")
        if real not in visited:
            found += [os.path.join(place, name) for name in files
                      if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")]
        visited.add(real)
    return sorted(found)


def split_of_folders(path: str, root: Path) -> str:
    """The split that a folder between ``root`` and a file names: train, valid, test2017, ...; else an empty text."""
    for part in reversed(os.path.relpath(os.path.dirname(path), root).split(os.sep)):
        if split := _SPLIT_WORDS.get(re.sub(r"_?\d{4}$", "", part.lower())):
            return split
    return ""


def split_of_name(path: str) -> str:
    """The split that the name of a file with many images tells (``train-annotations-bbox.csv``)."""
    words = re.split(r"[^a-z]+", os.path.splitext(os.path.basename(path))[0].lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else ""


class ImageIndex:
    """The images below a folder by their names, which annotation files state with or without folder and suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: set[str] = set()  # by an annotation file
        self.paths = files_below(root, IMAGE_SUFFIXES)
        if not self.paths:  # annotations and images in folders side by side
            beside = (folder for folder in sorted(root.parent.iterdir()) if folder.name.lower() in _IMAGE_FOLDERS)
            self.paths = [path for folder in beside for path in files_below(folder, IMAGE_SUFFIXES)]
        self._by_name: dict[str, list[str]] = {}
        for path in self.paths:
            name = os.path.basename(path).casefold()
            for key in {name, os.path.splitext(name)[0]}:
                self._by_name.setdefault(key, []).append(path)

    def find(self, name: str, file: str, stem: str = "") -> str:
        """The image that an annotation file calls ``name``, else the one with the ``stem``. Raises `UnusableError`.

        Of several the nearest to the file; where two are equally near it is not known which one is meant.
        """
        path = self._find(name, file, stem)
        self.found.add(path)
        return path

    def _find(self, name: str, file: str, stem: str) -> str:
        for way in ways_of_writing(name):
            path = os.path.join(os.path.dirname(file), way)
            if way.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(path):
                return os.path.abspath(path)
        last = name.replace("\\", "/").rpartition("/")[2].casefold()
        candidates = next(filter(None, (self._by_name.get(key) for key in
                                        (last, os.path.splitext(last)[0], stem.casefold()) if key)), [])
        if not candidates:
            raise UnusableError(f"its image {shown(name or stem)} was not found below {self.root}")
        nearest, *others = sorted(candidates, key=lambda path: _distance(path, name, file))
        if others and _distance(nearest, name, file) == _distance(others[0], name, file) and \
                not os.path.samefile(nearest, others[0]):
            raise UnusableError(f"several images are called {shown(name or stem)}: {nearest}, {others[0]}")
        return nearest


def _distance(path: str, name: str, file: str) -> tuple[int, int]:
    """How far an image is from an annotation file that calls it ``name``.

    First by how many of its folders are not in the path or the name (``images/val`` for ``labels/val/1.xml``), then by
    the steps between the two.
    """
    folder, place = os.path.dirname(path), os.path.dirname(file)
    stated = {*name.replace("\\", "/").split("/"), *place.split(os.sep)}
    return -len(stated & set(folder.split(os.sep))), os.path.relpath(folder, place).count(os.sep)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a small text file that say something. Raises `UnusableError`."""
    return (line for line in map(str.strip, text_of(read_bytes(path, 2**24)).splitlines()) if line)
