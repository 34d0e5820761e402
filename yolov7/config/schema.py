"""Plain values -> frozen dataclasses, strictly; ``section.key=value`` overrides."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from yolov7.config.errors import InputError, describe_value, nearest, shown, unknown
from yolov7.config.plain_yaml import parse_yaml

T = TypeVar("T")

__all__ = ["check_ranges", "convert", "describe_value", "from_mapping", "option", "override", "shown", "to_mapping"]


def convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type, or an error that says what is accepted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        if isinstance(value, str) and value in arguments:
            return value
        choices = ", ".join(map(str, arguments))
        raise InputError(f"{where}: found {shown(value)}; accepted: {choices}{nearest(value, arguments)}")
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast("type[Any]", hint), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0]
        return tuple(convert(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {convert(k, arguments[0], where): convert(v, arguments[1], f"{where}.{str(k)[:50]}")
                for k, v in value.items()}
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [a for a in arguments if a is not type(None)]
    for option in options[:-1]:
        try:
            return convert(value, option, where)
        except InputError:
            continue
    return convert(value, options[-1], where)


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is bool and isinstance(value, int) and value in (0, 1):  # the reference implementation has 0 and 1
        return bool(value)
    if hint is float and isinstance(value, str):
        value = _number(value)  # YAML 1.1 reads 5e-4 as text
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    expected = {bool: "true or false", int: "a whole number", float: "a number that is finite", str: "a text",
                tuple: "a list"}
    accepted = expected.get(typing.get_origin(hint) or hint, "keys with values")
    raise InputError(f"{where}: found {describe_value(value)}; accepted: {accepted}")


def _number(text: str) -> float | str:
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def is_finite(value: float) -> bool:
    """Whether a number, of any size, is a finite float."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build a frozen dataclass from plain values; unknown keys, missing keys and wrong types are errors.

    ``where`` names the source (file and key) in messages.
    """
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: found {describe_value(mapping)}; accepted: keys {', '.join(_fields(cls))}")
    hints = typing.get_type_hints(cls)
    fields = _fields(cls)
    for key in mapping:
        if key not in fields:
            raise InputError(f"{where}: {unknown('key', key, fields)}")
    values = {key: convert(value, hints[key], f"{where}, {key}") for key, value in mapping.items()}
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and no_default:
            raise InputError(f"{where}: the key {name!r} is missing")
    return check_ranges(cls(**values), where)


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def check_ranges(config: T, where: str) -> T:
    """The same dataclass; raises `InputError` where a number is outside ``low`` to ``high`` of its field.

    ``most`` is a limit against slips and hostile files alone, which only those messages name that it concerns.
    """
    for field in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, field.name)
        low, high, most = (field.metadata.get(name) for name in ("low", "high", "most"))
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)):
                continue
            place = f"{where}, {field.name}: found {shown(number)}"
            if (low is not None and number < low) or (high is not None and number > high):
                limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
                raise InputError(f"{place}; accepted: {limits}")
            if most is not None and number > most:
                raise InputError(f"{place}; accepted: at most {most}")
    return config


def to_mapping(config: Any, whole: bool = False) -> dict[str, Any]:
    """A dataclass as plain values (tuples as lists), ready for YAML; the inverse of `from_mapping`.

    Fields under ``omit_default`` are left out where they have their default, unless ``whole``, so that a field that
    is added does not change existing files.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_mapping(value, whole)
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    fields = [field for field in dataclasses.fields(config)
              if whole or not field.metadata.get("omit_default") or getattr(config, field.name) != _default(field)]
    return {field.name: plain(getattr(config, field.name)) for field in fields}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def override(config: T, assignments: Sequence[str], flag: str = "--set") -> T:
    """A copy of ``config`` with ``section.key=value`` assignments applied; values are read as YAML."""
    mapping = to_mapping(config, whole=True)
    for assignment in assignments:
        where = f"{flag} {shown(assignment)}"
        path, separator, text = assignment.partition("=")
        if not separator:
            raise InputError(f"{where}: accepted: section.key=value")
        target, keys = mapping, path.strip().split(".")
        for key in keys[:-1]:
            if not isinstance(target.get(key), dict):
                sections = [name for name, value in target.items() if isinstance(value, dict)]
                raise InputError(f"{where}: {unknown('section', key, sections)}")
            target = target[key]
        if keys[-1] not in target or isinstance(target[keys[-1]], dict):
            raise InputError(f"{where}: {unknown('key', keys[-1], target)}")
        target[keys[-1]] = parse_yaml(text, where)
    return from_mapping(type(config), mapping, flag)


def option(default: Any, help_text: str, **metadata: Any) -> Any:
    """A dataclass field with its help, and optional limits (``low``, ``high``, ``most``) and settings of its flag.

    Those are ``metavar``, ``nargs`` and ``const`` of argparse, ``words`` that stand for numbers on the command line
    (``{"auto": 0}``), and the ``group`` it stands in (`help.GROUPS`); with
    ``flag=False`` the field is a key of files alone. ``model`` names one whose loss reads the key, where not all do.
    """
    return dataclasses.field(default=default, metadata={"help": help_text, **metadata})
