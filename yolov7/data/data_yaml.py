"""The YAML of a data set, in the dialects that people's tools write -> `DataConfig`."""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from yolov7.config import InputError, from_mapping, read_yaml, unknown
from yolov7.config.errors import describe_value, shown
from yolov7.config.names import check_names
from yolov7.config.options import MAX_CLASSES, MAX_COUNT, MAX_SIDE
from yolov7.data.formats import Entry

logger = logging.getLogger(__name__)

_RESEMBLES = 0.75  # of difflib: a key that is this like one of ours is a slip, not another tool's
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
    generate: Literal["shapes"] | None = None  # built-in set, made on first use in `path` below the working directory
    settings: dict[str, RunSettings] = field(default_factory=dict)


def read_data_config(path: str | Path) -> DataConfig:
    """Read a data-set YAML; paths stay as written (see `yolov7.data`).

    Keys of other tools are named in the log and left out; a key that resembles one of ours is an `InputError`, and so
    is everything that is not as it must be.
    """
    content, where = read_yaml(path), str(path)
    own = _without_foreign_keys(content, where)
    if own.get("names") is not None:
        own["names"] = _names(own["names"], where)
    if own.get("download") is not None:
        own["download"] = _where_from(own["download"], own.get("path"))
    config = from_mapping(DataConfig, own, where)
    if config.nc is not None and not 1 <= config.nc <= MAX_CLASSES:
        raise InputError(f"{where}, nc: found {config.nc}; accepted: 1 to {MAX_CLASSES}")
    for split in ("train", "val", "test"):
        if getattr(config, split) in ((), "", {}):
            raise InputError(f"{where}, {split}: is empty; leave it out, or name a folder or list of images")
    if config.names is not None and config.nc not in (None, len(config.names)):
        raise InputError(f"{where}: nc is {config.nc}, but names has {len(config.names)} entries")
    return config


def _without_foreign_keys(content: dict[Any, Any], where: str) -> dict[str, Any]:
    own = {item.name for item in fields(DataConfig)}
    foreign = [key for key in content if key not in own]
    for key in foreign:
        if difflib.get_close_matches(str(key).lower(), own, n=1, cutoff=_RESEMBLES):
            raise InputError(f"{where}: {unknown('key', key, sorted(own))}")
    if foreign:
        logger.info("%s: keys of other tools, which are not read: %s", where, ", ".join(map(str, foreign)))
    return {key: value for key, value in content.items() if key in own}


def _names(found: Any, where: str) -> tuple[str, ...]:
    """Names as texts; numbers are names, too."""
    if isinstance(found, dict):
        found = _in_order(found, where)
    if not isinstance(found, (list, tuple)) or not found:
        hint = f"; a list looks like this: names: [{found}]" if isinstance(found, str) and "," in found else ""
        raise InputError(f"{where}, names: found {describe_value(found)}; {_LIST}{hint}")
    for place, name in enumerate(found):
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise InputError(f"{where}, names[{place}]: found {describe_value(name)}; accepted: a text (in quotes, "
                             "where YAML takes it for something else)")
    names = tuple(map(str, found))
    check_names(names, f"{where}, names")
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
