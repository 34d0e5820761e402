"""Commands as functions of Python programs: names, defaults, limits and meanings are those of the flags."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from yolov7.commands.table import COMMANDS, summary
from yolov7.config.arguments import check_arguments, named_as_arguments, python_names
from yolov7.config.flags import PATHS, flag_fields
from yolov7.config.messages import with_names
from yolov7.config.program import function_name
from yolov7.runtime.calls import as_before

WIDTH = 100  # of a docstring
FILES = (PATHS | {"source", "images"}) - {"name"}  # arguments that may be paths
NUMBERS = ("classes", "freeze")  # names that may be numbers
BESIDE = {"resume": "; True is the latest run", "set": "; or a dictionary: {'loss.box': 0.04}"}  # in Python
RAISES = ("Raises `yolov7.InputError` (a `ValueError`) for what does not fit, `yolov7.RunError` (a `RuntimeError`) for "
          "a run that fails, and `KeyboardInterrupt` for one that was stopped.")


def make_function(command: str) -> Callable[..., Any]:
    """The function of a command; its signature shows the flags, all of them keywords."""
    options_type, run = COMMANDS[command]
    name = function_name(command)

    def function(**arguments: Any) -> Any:
        given = {key: value for key, value in arguments.items() if value is not None}
        options = check_arguments(options_type, f"yolov7.{name}()", **given)
        with as_before(options.verbose, names := python_names(options_type)), named_as_arguments(names):
            return run(options)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "yolov7"
    function.__doc__ = docstring(command)
    function.__signature__ = signature(options_type)  # type: ignore[attr-defined]
    function.__test__ = False  # type: ignore[attr-defined]  # pytest takes `test` for one of its own
    return function


def signature(options_type: type) -> inspect.Signature:
    """As editors and notebooks show it while a program runs."""
    hints = typing.get_type_hints(options_type)
    return inspect.Signature([
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                          annotation=accepted(field, hints[field.name])) for field in flag_fields(options_type)])


def accepted(field: dataclasses.Field[Any], hint: Any) -> str:
    """What Python programs may give for a flag, as an annotation."""
    special = {"device": "str | int | torch.device", "set": "Sequence[str] | Mapping[str, Any]",
               "resume": "PathLike | bool | None"}
    if field.name in special:
        return special[field.name]
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    is_union = typing.get_origin(hint) is not None and type(None) in typing.get_args(hint)
    kind = parts[0] if is_union else hint
    text = _plain(kind, "PathLike" if field.name in FILES else "str", "int | " if field.name in NUMBERS else "")
    if words := field.metadata.get("words"):
        text += f" | Literal[{', '.join(map(repr, words))}]".replace("'", '"')
    return f"{text} | None" if is_union or field.default is None else text


def _plain(kind: Any, word: str, numbers: str) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "Literal[" + ", ".join(f'"{choice}"' for choice in typing.get_args(kind)) + "]"
    if typing.get_origin(kind) is tuple:
        item = _plain(typing.get_args(kind)[0], word, numbers)
        return f"{item} | Sequence[{item}]"
    return f"{numbers}{word}" if kind is str else str(kind.__name__)


def docstring(command: str) -> str:
    """What the command does, and a line for each argument."""
    options_type, _ = COMMANDS[command]
    names = python_names(options_type)
    lines = [summary(command), "", f"The flags of ``yolov7 {command}``:", ""]
    for field in flag_fields(options_type):
        text = f"{field.name}: {with_names(field.metadata['help'], names)}{BESIDE.get(field.name, '')}{_default(field)}"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([*lines, "", *textwrap.wrap(RAISES, WIDTH)])


def _default(field: dataclasses.Field[Any]) -> str:
    shown = field.default not in (None, "", (), False)
    return f" (default: {field.default})" if shown else ""
