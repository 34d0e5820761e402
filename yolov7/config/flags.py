"""Command-line flags from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from yolov7.config.errors import InputError, nearest
from yolov7.config.paths import check_path
from yolov7.config.schema import check_ranges, convert

T = TypeVar("T")
PATHS = {"cfg", "data", "hyp", "name", "output", "picture", "project", "resume", "scale", "weights"}  # of any options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parse_arguments(cls: type[T], arguments: Sequence[str], program: str, description: str) -> T:
    """Parse command-line flags into a dataclass: the field ``batch_size`` is the flag ``--batch-size``,
    and ``from_`` is ``--from``.

    Type, default and help are those of the field. ``--help`` prints and exits with 0; every fault is an `InputError`.
    """
    parser = _Parser(prog=program, description=description, allow_abbrev=False,
                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = typing.get_type_hints(cls)
    flags = []
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if not field.metadata.get("flag", True):
            continue
        flag = _flag_of(field.name)
        flags.append(flag)
        _add_flag(parser, flag, field, hints[field.name])
    parsed, rest = parser.parse_known_args(list(arguments))
    if rest:
        name = rest[0].partition("=")[0]
        kind = "flag" if name.startswith("-") else "argument"
        raise InputError(f"unknown {kind} {name!r}{nearest(name, flags)} (see {program} --help)")
    given = vars(parsed)
    values = {name: convert(value, hints[name], _flag_of(name)) for name, value in given.items()}
    check_paths(values, "--{}")
    return check_ranges(cls(**values), program)


def check_paths(values: Mapping[str, Any], flag: str) -> None:
    """Raise `InputError` for a value that no file can be called; ``flag`` says how messages call an option."""
    for name in PATHS & values.keys():
        found = values[name]
        for path in (found,) if isinstance(found, str) else found or ():
            check_path(path, flag.format(name))


def _flag_of(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, flag: str, field: dataclasses.Field[Any], hint: Any) -> None:
    settings: dict[str, Any] = {"dest": field.name, "help": field.metadata.get("help", ""), "default": field.default}
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
    """The converter for argparse, with the name that its message "invalid ... value" shows."""
    if kind not in (int, float):
        return str

    def read(text: str) -> float:
        number: float = kind(text)
        return number

    read.__name__ = {int: "whole-number", float: "number"}[kind]
    return read
