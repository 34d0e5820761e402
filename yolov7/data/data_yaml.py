"""The YAML of a data set, in the dialects that people's tools write -> `DataConfig`."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from yolov7.config import InputError, from_mapping, read_bytes, read_yaml, unknown
from yolov7.config.errors import describe_value, shown
from yolov7.config.names import check_names, readable_names
from yolov7.config.options import MAX_CLASSES, MAX_COUNT, MAX_SIDE
from yolov7.config.paths import check_path
from yolov7.data.formats import Entry, Keypoints
from yolov7.data.keypoint_facts import check_flip, check_sigmas, limbs_of, with_known_flip
from yolov7.data.text import decode_text

logger = logging.getLogger(__name__)

MAX_KEYPOINTS = 1000
_MAX_PATH = 1000  # characters
_MAX_NAMES_FILE = 10_000_000  # bytes
_MEANT = {"validation": "val", "evaluation": "val", "training": "train", "testing": "test", "num_classes": "nc",
          "class_names": "names", "classes": "names", "root": "path", "dataset_path": "path"}
_RESEMBLES = 0.75  # of difflib: a key that is this like one of ours is a slip, not another tool's
_BESIDE_KPT_SHAPE = ("flip_idx", "kpt_names", "skeleton", "kpt_sigmas")
_LIST = "accepted: a list of class names (names: [cat, dog]), or their numbers with them (names: {0: cat, 1: dog})"


@dataclass(frozen=True)
class RunSettings:
    """What a data set suggests for one model, where no flag says otherwise."""

    epochs: int | None = field(default=None, metadata={"low": 1, "most": MAX_COUNT})
    img_size: tuple[int, ...] | None = field(default=None, metadata={"low": 32, "most": MAX_SIDE})
    batch_size: int | None = field(default=None, metadata={"low": 1, "most": MAX_COUNT})
    nominal_batch: int | None = field(default=None, metadata={"low": 1, "most": MAX_COUNT})
    hyp: str | None = None
    set: tuple[str, ...] = ()  # overrides of the recipe, unless --hyp names another one


@dataclass(frozen=True)
class DataConfig:
    """A data-set YAML: the keys of the reference implementation, with an entry of any format for each split."""

    train: Entry | None = None
    val: Entry | None = None
    test: Entry | None = None
    nc: int | None = None
    names: tuple[str, ...] | None = None
    path: str | tuple[str, ...] | None = None  # root of relative paths; of several, the first that exists
    download: str | None = None  # where images come from, said when they are missing (see `_where_from`)
    kpt_shape: tuple[int, ...] | None = None  # of the key points in label files: number, 2 or 3 values
    flip_idx: tuple[int, ...] | None = None  # which key point each becomes in a mirrored image
    kpt_names: tuple[str, ...] | None = None
    skeleton: tuple[tuple[int, ...], ...] | None = None  # pairs of key points that are drawn as lines, from 1 as COCO
    kpt_sigmas: tuple[float, ...] | None = None  # of OKS; also called sigmas
    # built-in set, made on first use in `path` below the working directory
    generate: Literal["shapes", "stick-figures"] | None = None
    settings: dict[str, RunSettings] = field(default_factory=dict)


def read_data_config(path: str | Path) -> DataConfig:
    """Read a data-set YAML; paths stay as written (see `yolov7.data`).

    Keys of other tools are named in the log and left out; a key that resembles one of ours is an `InputError`, and so
    is everything that is not as it must be.
    """
    content, where = read_yaml(path), str(path)
    own = _without_foreign_keys(content, where)
    if own.get("names") is not None:
        own["names"] = _names(own["names"], path)
    if isinstance(own.get("kpt_names"), dict):  # of each class
        lists = list(own["kpt_names"].values())
        own["kpt_names"] = lists[0] if lists.count(lists[0]) == len(lists) else None
    if own.get("download") is not None:
        own["download"] = _where_from(own["download"], own.get("path"))
    config = from_mapping(DataConfig, own, where)
    if config.nc is not None and not 1 <= config.nc <= MAX_CLASSES:
        raise InputError(f"{where}, nc: found {config.nc}; accepted: 1 to {MAX_CLASSES}")
    for split in ("train", "val", "test"):
        if getattr(config, split) in ((), "", {}):
            raise InputError(f"{where}, {split}: is empty; leave it out, or name a folder or list of images")
    for key in ("path", "train", "val", "test"):
        for name in _paths(getattr(config, key)):
            check_path(name, f"{where}, {key}")
    if config.names is not None and config.nc not in (None, len(config.names)):
        raise InputError(f"{where}: nc is {config.nc}, but names has {len(config.names)} entries")
    return config


def keypoints_of(config: DataConfig, where: str) -> Keypoints | None:
    """What ``kpt_shape`` and the keys beside it say, if there is the first. Raises `InputError`."""
    if config.kpt_shape is None:
        if given := [key for key in _BESIDE_KPT_SHAPE if getattr(config, key)]:
            raise InputError(f"{where}: {' and '.join(given)} need kpt_shape: [number of key points, 2 or 3]")
        return None
    shape, flip = config.kpt_shape, config.flip_idx or ()
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise InputError(f"{where}, kpt_shape: found {shown(list(shape))}; accepted: [number of key points (1 to "
                         f"{MAX_KEYPOINTS}), 2 (x y) or 3 (x y visibility)]")
    names = config.kpt_names or tuple(map(str, range(shape[0])))
    if len(names) != shape[0]:
        raise InputError(f"{where}, kpt_names: found {len(names)} names; accepted: {shape[0]}, as kpt_shape says")
    check_flip(flip, names, f"{where}, flip_idx")
    check_sigmas(config.kpt_sigmas or (), shape[0], f"{where}, kpt_sigmas")
    limbs = limbs_of(config.skeleton, shape[0], f"{where}, skeleton")
    return with_known_flip(Keypoints(names, shape[1], flip, limbs, config.kpt_sigmas or (), bool(config.kpt_names)))


def _paths(entry: Entry | None) -> Iterable[str]:
    return (entry,) if isinstance(entry, str) else entry.values() if isinstance(entry, dict) else entry or ()


def _without_foreign_keys(content: dict[Any, Any], where: str) -> dict[str, Any]:
    own = {"sigmas", *(item.name for item in fields(DataConfig))}
    foreign = [key for key in content if key not in own]
    for key in foreign:
        if (meant := _MEANT.get(str(key).lower())) and meant not in content:
            raise InputError(f"{where}: unknown key {shown(key)}; did you mean {meant!r}?")
        if difflib.get_close_matches(str(key).lower(), own, n=1, cutoff=_RESEMBLES):
            raise InputError(f"{where}: {unknown('key', key, sorted(own))}")
    if foreign:
        logger.info("%s: keys of other tools, which are not read: %s", where, ", ".join(map(str, foreign)))
    kept = {key: value for key, value in content.items() if key in own}
    if "sigmas" in kept:
        kept.setdefault("kpt_sigmas", kept.pop("sigmas"))
    return kept


def _names(found: Any, file: str | Path) -> tuple[str, ...]:
    """Names as texts; numbers are names, too. A text may name a file of names beside the YAML."""
    where = str(file)
    if isinstance(found, str) and "," not in found and "\0" not in found and len(found) < _MAX_PATH:
        for place in (Path(file).parent, Path.cwd()):
            if (place / found).is_file():
                return read_names(place / found)
    if isinstance(found, dict):
        found = _in_order(found, where)
    if not isinstance(found, (list, tuple)) or not found:
        hint = f"; a list looks like this: names: [{found}]" if isinstance(found, str) and "," in found else ""
        raise InputError(f"{where}, names: found {describe_value(found)}; {_LIST}{hint}")
    for index, name in enumerate(found):
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise InputError(f"{where}, names[{index}]: found {describe_value(name)}; accepted: a text (in quotes, "
                             "where YAML takes it for something else)")
    names = readable_names(found)
    check_names(names, f"{where}, names")
    return names


def read_names(file: Path) -> tuple[str, ...]:
    """A file with a class name in each line (``classes.txt``, ``obj.names``). Raises `InputError`."""
    text, encoding = decode_text(read_bytes(file, _MAX_NAMES_FILE))
    names = readable_names(line.strip() for line in text.splitlines() if line.strip())
    check_names(names, str(file))
    logger.info("%s: %d class names%s", file, len(names), "" if encoding == "UTF-8" else f", read as {encoding}")
    return names


def _in_order(found: dict[Any, Any], where: str) -> list[Any]:
    """The names of ``{0: cat, 1: dog}``; their numbers may be texts."""
    numbered = {int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 10 else key: name
                for key, name in found.items()}
    if len(numbered) == len(found) and set(numbered) == set(range(len(found))):
        return [numbered[number] for number in range(len(numbered))]
    if not all(isinstance(key, int) for key in numbered):
        raise InputError(f"{where}, names: found the keys {shown(list(found)[:5])}; {_LIST}")
    raise InputError(f"{where}, names: found the numbers {shown(sorted(numbered))}; accepted: 0 to {len(found) - 1}")


def _where_from(download: Any, path: Any) -> str:
    """What to say of ``download`` when images are missing: an address is shown, a script is not."""
    if isinstance(download, str) and re.fullmatch(r"https?://\S{1,500}", download.strip()):
        return f"to be had from (never fetched by itself): {download.strip()}"
    folder = f" {path!r}" if isinstance(path, str) else ""
    return f"its download script, which is never run, would make the folder{folder}"
