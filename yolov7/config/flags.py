"""Command-line flags from the fields of a dataclass."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from yolov7.config.errors import InputError, nearest
from yolov7.config.help import Groups, HelpFormatter, details, examples_text, wrapped
from yolov7.config.paths import check_path
from yolov7.config.schema import check_ranges, convert

T = TypeVar("T")
PATHS = {"cfg", "data", "diff", "hyp", "name", "output", "picture", "project", "resume", "scale",
         "runs", "weights"}  # of any options
POSITIONAL = ("runs", "table")  # what stands without a flag, in any options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parse_arguments(cls: type[T], arguments: Sequence[str], program: str, description: str, called: str = "",
                    examples: Sequence[str] = ()) -> T:
    """Parse command-line flags into a dataclass: the field ``batch_size`` is the flag ``--batch-size``,
    and ``from_`` is ``--from``.

    Type, default, help and group are those of the field. ``called`` is the command as it was called (default: the
    ``program``), ``examples`` are lines of flags. ``--help`` prints and exits with 0; every fault is an `InputError`.
    """
    called = called or program
    hints = typing.get_type_hints(cls)
    fields = flag_fields(cls)
    usage = " ".join([called, *(flag_of(field.name) for field in fields if field.name in POSITIONAL), "[flags]"])
    parser = _Parser(prog=called, usage=usage.replace("%", "%%"), add_help=False, allow_abbrev=False,
                     description=wrapped(description), epilog=examples_text(called, examples),
                     formatter_class=HelpFormatter)
    groups = Groups(parser, fields)
    for field in fields:
        _add_flag(groups.of(field), field, hints[field.name])
    groups.last().add_argument("-h", "--help", action="help", help="show this text")
    parsed, rest = parser.parse_known_args(list(arguments))
    if rest:
        name = rest[0].partition("=")[0]
        kind = "flag" if name.startswith("-") else "argument"
        flags = [flag_of(field.name) for field in fields]
        raise InputError(f"unknown {kind} {name!r}{nearest(name, flags)} (see {called} --help)")
    given = vars(parsed)
    values = {name: convert(value, hints[name], flag_of(name)) for name, value in given.items()}
    check_paths(values, "--{}")
    return check_ranges(cls(**values), program)


def check_paths(values: Mapping[str, Any], flag: str) -> None:
    """Raise `InputError` for a value that no file can be called; ``flag`` says how messages call an option."""
    for name in PATHS & values.keys():
        found = values[name]
        for path in (found,) if isinstance(found, str) else found or ():
            check_path(path, flag.format(name))


def flag_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields of an options class that are flags."""
    return [field for field in dataclasses.fields(typing.cast(Any, cls)) if field.metadata.get("flag", True)]


def flag_of(name: str) -> str:
    """``--batch-size`` for the field ``batch_size``; ``RUNS`` for what stands without a flag."""
    return name.upper() if name in POSITIONAL else "--" + name.rstrip("_").replace("_", "-")


def _add_flag(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    flag, default = flag_of(field.name), field.default
    # what is not given is the dataclass's own business
    settings: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS if default in (None, ()) else default}
    if hint is bool:
        kind: Any = argparse.BooleanOptionalAction if default else "store_true"
        action = group.add_argument(flag, action=kind, **settings)
    elif field.name in POSITIONAL:
        found = {**_value_settings(field, hint), "metavar": flag}
        action = group.add_argument(settings.pop("dest"), default=argparse.SUPPRESS,
                                    **{**found, "nargs": "*" if found.get("nargs") == "+" else "?"})
    else:
        action = group.add_argument(flag, **settings, **_value_settings(field, hint))
    action.help = (field.metadata.get("help", "") + details(default, field.metadata)).replace("%", "%%")


def _value_settings(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {}
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
    if typing.get_origin(options[0]) is typing.Literal:  # beside None, which `convert` checks
        settings["metavar"] = "{" + ",".join(typing.get_args(options[0])) + "}"
    if options[0] in (int, float):
        words = field.metadata.get("words", ())
        settings.setdefault("metavar", "|".join(("N" if options[0] is int else "X", *words)))
    return {"type": _reader(options[0], field.metadata.get("words", {})), **settings}


def _reader(kind: Any, words: Mapping[str, float]) -> Any:
    """The converter for argparse, with the name that its message "invalid ... value" shows; words stand for numbers."""
    if kind not in (int, float):
        return str

    def read(text: str) -> float:
        number: float = words[text] if text in words else kind(text)
        return number

    read.__name__ = " or ".join(({int: "whole-number", float: "number"}[kind], *words))
    return read
