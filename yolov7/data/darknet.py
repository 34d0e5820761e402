"""Data sets of Darknet: a ``.data`` file of ``key = value`` lines, and folders whose classes stand in a text file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from yolov7.config import InputError, read_bytes, unknown
from yolov7.config.errors import shown
from yolov7.config.options import MAX_CLASSES
from yolov7.data.data_yaml import DataConfig, read_names
from yolov7.data.formats import ways_of_writing
from yolov7.data.text import decode_text

logger = logging.getLogger(__name__)

SUFFIX = ".data"
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels")  # as LabelImg, CVAT and Roboflow call them
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}  # Darknet's words -> ours
_OTHER_KEYS = ("backup", "eval", "results", "top", "labels", "difficult", "map")  # of Darknet's own training
_MAX_SIZE = 1_000_000  # bytes


def read_darknet(file: Path) -> DataConfig:
    """A ``.data`` file: ``classes``, ``train``, ``valid`` and ``names``. Raises `InputError`."""
    values = _values(file)
    splits: dict[str, Any] = {_SPLITS[key]: value for key, value in values.items() if key in _SPLITS}
    classes = values.get("classes", "")
    if classes and not (classes.isascii() and classes.isdecimal() and 0 < int(classes[:9]) <= MAX_CLASSES):
        raise InputError(f"{file}, classes: found {shown(classes)}; accepted: 1 to {MAX_CLASSES}")
    names = _names(file, values.get("names"))
    if classes and names and int(classes) != len(names):
        raise InputError(f"{file}: classes is {classes}, but {values['names']} has {len(names)} names")
    return DataConfig(**splits, nc=int(classes) if classes else None, names=names)


def _values(file: Path) -> dict[str, str]:
    text = decode_text(read_bytes(file, _MAX_SIZE))[0]
    values: dict[str, str] = {}
    accepted = ("classes", "names", *_SPLITS, *_OTHER_KEYS)
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        if not equals or not value or "\0" in value:
            raise InputError(f"{file}, line {number}: found {shown(line)}; accepted: key = value, as Darknet has it")
        if key not in accepted:
            raise InputError(f"{file}, line {number}: {unknown('key', key, accepted)}")
        values[key] = value
    return values


def _names(file: Path, name: str | None) -> tuple[str, ...] | None:
    if name is None:
        return names_beside(file.parent)
    places = darknet_bases(file)
    found = [base / way for way in ways_of_writing(name) for base in places if (base / way).is_file()]
    if not found:
        looked_for = ", ".join(str(base / way) for way in ways_of_writing(name) for base in places)
        raise InputError(f"{file}, names: {name!r} was not found; looked for {looked_for}")
    return read_names(found[0])


def darknet_bases(file: Path) -> tuple[Path, ...]:
    """Where relative paths of a ``.data`` file may start: Darknet is run from a folder above, mostly."""
    folder = file.absolute().parent
    return tuple(dict.fromkeys((folder, folder.parent, Path.cwd())))


def names_beside(*folders: Path) -> tuple[str, ...] | None:
    """The classes that a text file in one of these folders lists."""
    file = names_file(*folders)
    return read_names(file) if file else None


def names_file(*folders: Path) -> Path | None:
    """The text file that lists the classes in the first of these folders that has one."""
    return next((folder / name for folder in folders for name in NAMES_FILES if (folder / name).is_file()), None)
