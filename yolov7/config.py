"""Strict YAML -> frozen dataclasses, ``key=value`` overrides, and command-line flags from the same dataclasses.

Nothing read here is ever executed. Every fault is an `InputError`: one sentence that names the file, key or flag,
the value found, what is accepted and the nearest right name. This module imports nothing heavy, so that ``--help``
answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

T = TypeVar("T")
PACKAGE = Path(__file__).parent
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent  # wheel, or checkout


class InputError(ValueError):
    """The user's input is at fault: the message is shown as it is, without a traceback, with exit code 2."""


def reason_of(error: Exception) -> str:
    """The first line of another library's message, or the error's name."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def nearest(name: object, names: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the most similar name, or nothing."""
    match = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown(kind: str, name: object, names: Iterable[object]) -> str:
    """``unknown <kind> 'x'; accepted: a, b; did you mean 'a'?``"""
    names = list(names)
    return f"unknown {kind} {name!r}; accepted: {', '.join(map(str, names))}{nearest(name, names)}"


# --- files -----------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """YAML without code and without silently overwritten keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"{self.name}, line {line}: the key {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = yaml.load(stream, _StrictLoader)  # a SafeLoader: builds plain values only
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {_kind(content)}, expected keys with values")
    return content


def short_name(path: str | Path, prefixes: Sequence[str] = ()) -> str:
    """The name that a shipped file goes by: without folder, suffix, and the first of the prefixes that it has."""
    name = Path(path).name.removesuffix(".yaml")
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def shipped_files(folder: str, prefixes: Sequence[str] = ()) -> dict[str, Path]:
    """Names of the YAML files that travel with the package in ``cfg`` or ``data``: all, or those with a prefix."""
    files = sorted((SHIPPED / folder).rglob("*.yaml"))
    return {short_name(path, prefixes): path for path in files if path.name.startswith(tuple(prefixes) or "")}


def shipped_file(name: str, shipped: dict[str, Path], prefixes: Sequence[str] = ()) -> Path | None:
    """The shipped file that is meant by ``yolov7``, ``yolov7.yaml`` or ``cfg/paper/yolov7.yaml``; None for a path
    that leads elsewhere: a wrong path is an error, not another file of that name."""
    path = shipped.get(short_name(name, prefixes))
    folder = Path(name).parent
    return path if path and (folder == Path() or SHIPPED / folder == path.parent) else None


def find_yaml(name: str, folder: str, flag: str, prefixes: Sequence[str] = ()) -> Path:
    """The file that a flag names: an existing path first, then a shipped file by its name."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_files(folder, prefixes)
    if path := shipped_file(name, shipped, prefixes):
        return path
    raise InputError(
        f"{flag} {name!r}: no such file, and none is shipped under that name; shipped: "
        f"{', '.join(shipped)}{nearest(short_name(name, prefixes), shipped)}"
    )


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file under a temporary name, flush it to the disk, then rename it: a reader never sees half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- mappings -> dataclasses -----------------------------------------------------------------------------------


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names = {bool: "a switch", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "keys"}
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"


def convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type, or an error that says what is accepted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        choices = ", ".join(map(str, arguments))
        raise InputError(f"{where}: found {value!r}; accepted: {choices}{nearest(value, arguments)}")
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast("type[Any]", hint), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0]
        return tuple(convert(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {convert(k, arguments[0], where): convert(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
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
    if hint is bool and value in (0, 1) and not isinstance(value, float):  # the original writes switches as 0 and 1
        return bool(value)
    if hint is float and isinstance(value, str):
        value = _number(value)  # YAML 1.1 reads 5e-4 as text
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list"}
    accepted = expected.get(typing.get_origin(hint) or hint, "keys with values")
    raise InputError(f"{where}: found {_kind(value)}; accepted: {accepted}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build a frozen dataclass from plain values; unknown keys, missing keys and wrong types are errors.

    ``where`` names the source (file and key) in messages.
    """
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: found {_kind(mapping)}; accepted: keys {', '.join(_fields(cls))}")
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
    """Hold every number against the ``low`` and ``high`` of its field (see `option`)."""
    for field in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, field.name)
        low, high = field.metadata.get("low"), field.metadata.get("high")
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)):
                continue
            if (low is not None and number < low) or (high is not None and number > high):
                limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
                raise InputError(f"{where}, {field.name}: found {number}; accepted: {limits}")
    return config


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass as plain values (tuples as lists), ready for YAML; the inverse of `from_mapping`."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_mapping(value)
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def override(config: T, assignments: Sequence[str], flag: str = "--set") -> T:
    """A copy of ``config`` with ``section.key=value`` assignments applied; values are read as YAML."""
    mapping = to_mapping(config)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise InputError(f"{flag} {assignment!r}: accepted: section.key=value")
        target, keys = mapping, path.strip().split(".")
        for key in keys[:-1]:
            if not isinstance(target.get(key), dict):
                sections = [name for name, value in target.items() if isinstance(value, dict)]
                raise InputError(f"{flag} {assignment!r}: {unknown('section', key, sections)}")
            target = target[key]
        if keys[-1] not in target or isinstance(target[keys[-1]], dict):
            raise InputError(f"{flag} {assignment!r}: {unknown('key', keys[-1], target)}")
        target[keys[-1]] = yaml.safe_load(text)
    return from_mapping(type(config), mapping, flag)


# --- command line ----------------------------------------------------------------------------------------------


def option(default: Any, help_text: str, **metadata: Any) -> Any:
    """A dataclass field with its help; ``low``, ``high``, ``metavar``, ``nargs`` and ``const`` are optional."""
    return dataclasses.field(default=default, metadata={"help": help_text, **metadata})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parse_arguments(cls: type[T], arguments: Sequence[str], program: str, description: str) -> T:
    """Command-line flags of a dataclass: field ``batch_size`` is ``--batch-size``; its type, default and help are
    the field's own. ``--help`` prints and exits with 0; every fault is an `InputError`."""
    parser = _Parser(prog=program, description=description, allow_abbrev=False,
                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = typing.get_type_hints(cls)
    flags = []
    for field in dataclasses.fields(typing.cast(Any, cls)):
        flag = "--" + field.name.replace("_", "-")
        flags.append(flag)
        _add_flag(parser, flag, field, hints[field.name])
    parsed, rest = parser.parse_known_args(list(arguments))
    if rest:
        name = rest[0].partition("=")[0]
        kind = "flag" if name.startswith("-") else "argument"
        raise InputError(f"unknown {kind} {name!r}{nearest(name, flags)} (see {program} --help)")
    given = vars(parsed)
    values = {name: convert(value, hints[name], "--" + name.replace("_", "-")) for name, value in given.items()}
    return check_ranges(cls(**values), program)


def _add_flag(parser: argparse.ArgumentParser, flag: str, field: dataclasses.Field[Any], hint: Any) -> None:
    settings: dict[str, Any] = {"help": field.metadata.get("help", ""), "default": field.default}
    if field.default is None or field.default == ():
        settings["default"] = argparse.SUPPRESS
    if hint is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction if field.default else "store_true", **settings)
        return
    settings.update({key: field.metadata[key] for key in ("nargs", "const", "metavar") if key in field.metadata})
    options = [a for a in typing.get_args(hint) if a is not type(None)] or [hint]
    if typing.get_origin(hint) is typing.Literal:
        settings["choices"] = list(options)
        options = [str]
    if typing.get_origin(hint) is tuple:
        settings.setdefault("nargs", "+")
    elif typing.get_origin(options[0]) is tuple:
        settings.setdefault("nargs", "+")
        options = list(typing.get_args(options[0]))
    parser.add_argument(flag, type=_reader(options[0]), **settings)


def _reader(kind: Any) -> Any:
    """argparse's converter, named as the user would name it in "invalid ... value"."""
    if kind not in (int, float):
        return str

    def read(text: str) -> float:
        return kind(text)

    read.__name__ = {int: "whole-number", float: "number"}[kind]
    return read
