"""Arguments of Python calls: the rules of the command line's flags, in messages that name the arguments."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from yolov7.config.errors import InputError, RunError, unknown
from yolov7.config.flags import check_paths, flag_fields, flag_of
from yolov7.config.messages import with_names
from yolov7.config.options import DetectOptions, MaskMode, MaskScores, NetworkOptions, Precision, TrackerName
from yolov7.config.schema import from_mapping

T = TypeVar("T")


def same_as(options: type, name: str) -> Any:
    """A field with the default, the help and the limits of a flag."""
    (field,) = (field for field in dataclasses.fields(options) if field.name == name)
    return dataclasses.field(default=field.default, metadata={**field.metadata, "flag": flag_of(name)})


@dataclass(frozen=True)
class LoadArguments:
    """Of `yolov7.load`."""

    weights: tuple[str, ...] = same_as(NetworkOptions, "weights")
    device: str = same_as(NetworkOptions, "device")
    precision: Precision = same_as(NetworkOptions, "precision")
    augment: bool = same_as(NetworkOptions, "augment")
    half_decode: bool = same_as(NetworkOptions, "half_decode")
    compile: bool = same_as(NetworkOptions, "compile")
    fast: bool = same_as(NetworkOptions, "fast")
    cfg: str | None = same_as(NetworkOptions, "cfg")


@dataclass(frozen=True)
class CallArguments:
    """Of a model that is called."""

    conf: float = same_as(DetectOptions, "conf_thres")
    iou: float = same_as(DetectOptions, "iou_thres")
    classes: tuple[str, ...] | None = same_as(DetectOptions, "classes")
    size: int | None = same_as(DetectOptions, "img_size")
    max_det: int = same_as(DetectOptions, "max_det")
    agnostic: bool = same_as(DetectOptions, "agnostic_nms")
    masks: MaskMode | None = same_as(DetectOptions, "masks")
    mask_scores: MaskScores | None = same_as(DetectOptions, "mask_scores")
    tile: int | None = same_as(DetectOptions, "tile")
    overlap: float = same_as(DetectOptions, "overlap")


@dataclass(frozen=True)
class TrackArguments(CallArguments):
    """Of ``model.track()``."""

    tracker: TrackerName | None = same_as(DetectOptions, "track")
    buffer: float = same_as(DetectOptions, "track_buffer")


ARGUMENTS = {field.metadata["flag"]: field.name for call in (LoadArguments, TrackArguments)
             for field in dataclasses.fields(call)} | {"--source": "source"}  # of load and of a model, by flag


def python_names(options: type) -> dict[str, str]:
    """The arguments of a command's function, by flag."""
    return {flag_of(field.name): field.name for field in dataclasses.fields(options)}


def check_arguments(cls: type[T], call: str, **given: Any) -> T:
    """The arguments of a call, read as the flags of the same meaning are; raises `InputError`.

    None stands for an argument that is not given where it has no default.
    """
    fields = {field.name: field for field in flag_fields(cls)}
    if odd := [name for name in given if name not in fields]:
        raise InputError(f"{call}: {unknown('argument', odd[0], fields)}")
    several = {name for name, hint in typing.get_type_hints(cls).items() if "tuple" in str(hint)}
    plain = {name: _in_numbers(_plain(name, value, name in several), fields[name]) for name, value in given.items()}
    arguments = from_mapping(cls, {name: value for name, value in plain.items()
                                   if value is not None or fields[name].default is not None}, call)
    values = vars(arguments)
    check_paths(values, f"{call}, {{}}")
    if values.get("classes") == () and given.get("classes") is not None:
        raise InputError(f"{call}, classes: is empty; accepted: names or numbers, or None for all")
    return arguments


def _plain(name: str, value: Any, several: bool) -> Any:
    """What Python programs have for a number, a list, a path or a device, as the files and flags have it."""
    if name == "device":
        own = _is_number(value) or type(value).__name__ == "device"  # torch.device
        return "" if value is None else str(value) if own else value
    if value is None:
        return None
    if name == "resume" and isinstance(value, bool):
        return "" if value else None
    if name == "set" and isinstance(value, Mapping):
        return [f"{key}={json.dumps(_value(item))}" for key, item in value.items()]
    if name in ("classes", "freeze"):
        return [str(item) if _is_number(item) else item for item in _items(value)]
    return _items(value) if several else _value(value)


def _in_numbers(value: Any, field: dataclasses.Field[Any]) -> Any:
    """A number for a word that stands for it."""
    words: Mapping[str, float] = field.metadata.get("words", {})
    return words.get(value, value) if isinstance(value, str) else value


def _is_number(value: Any) -> bool:
    return type(value) is int and abs(value) < 10**9  # others are no device or class, and may be too long for a text


def _items(value: Any) -> list[Any]:
    """Several, or one alone."""
    value = _value(value)
    return [_value(item) for item in value] if isinstance(value, (list, tuple, set, frozenset, range)) else [value]


def _value(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value  # of NumPy or torch


@contextmanager
def named_as_arguments(names: Mapping[str, str] = ARGUMENTS) -> Iterator[None]:
    """Errors of the functions that commands use, too, name the arguments of Python calls instead of flags."""
    try:
        yield
    except (InputError, RunError) as error:
        raise type(error)(with_names(str(error), names)) from None
