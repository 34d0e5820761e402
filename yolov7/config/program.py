"""The commands as messages name them: in the form in which this process was started."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from typing import Any

from yolov7.config.flags import POSITIONAL, flag_of

CHECKOUT = Path(__file__).parents[2]  # where train.py and the others stand, unless a wheel is installed
SCRIPTS = ("train", "test", "detect", "export")
FUNCTIONS = {"data check": "check_data", "data convert": "convert_data", "data shard": "shard_data",
             "data anchors": "fit_anchors"}
MODULES = ("yolov7.__main__", "yolov7.cli")
ENTRIES = ("yolov7", "yolov7.exe", "yolov7-script.py", "yolov7-script.pyw")

_in_command: ContextVar[bool] = ContextVar("in_command", default=False)


@contextmanager
def inside_a_command() -> Iterator[None]:
    """While it lasts messages name commands, also in a program that is none of them and calls ``cli.main``."""
    token = _in_command.set(True)
    try:
        yield
    finally:
        _in_command.reset(token)


def command(name: str, /, **options: Any) -> str:
    """A command with its flags, as whoever reads the message would call it.

    ``command("test", weights="a.pt")`` is ``python test.py --weights a.pt`` where a script of a checkout was started,
    ``yolov7 test ...`` or ``python -m yolov7 test ...`` where one of those was, ``yolov7.test(weights="a.pt")`` in a
    program. Flags that are None or False are left out; those that are True or "" have no value.
    """
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    words = _started_as(name)
    if words is None:
        return f"yolov7.{function_name(name)}({', '.join(f'{key}={_literal(value)}' for key, value in given.items())})"
    return shell_line([*words, *words_of(given)])


@contextmanager
def saying_how_to_go_on(name: str, options: Any, /, **changed: Any) -> Iterator[None]:
    """Ctrl-C in the block says the command that goes on: the one that these options were given to, or ``changed``."""
    try:
        yield
    except KeyboardInterrupt:
        again = command(name, **{**given_flags(options), **changed})
        raise KeyboardInterrupt(f"interrupted; go on: {again}") from None


def given_flags(options: Any) -> dict[str, Any]:
    """The flags of a dataclass of options that are not as they are by default."""
    return {field.name: getattr(options, field.name) for field in fields(options)
            if field.metadata.get("flag", True) and getattr(options, field.name) != field.default}


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line: those without a flag first, None and False left out."""
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    first = [word for key, value in given.items() if key in POSITIONAL for word in _texts(value)]
    return [*first, *(word for key, value in given.items() if key not in POSITIONAL
                      for word in (flag_of(key), *_texts(value)))]


def function_name(command: str) -> str:
    """What a command is called in Python programs."""
    return FUNCTIONS.get(command, command)


def shell_line(words: list[str]) -> str:
    """Words as the shell of this system reads them."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _started_as(name: str) -> list[str] | None:
    """The words in front of the flags; None in a program, which has functions."""
    main, started = sys.modules.get("__main__"), sys.argv[0] if sys.argv else ""
    module = getattr(getattr(main, "__spec__", None), "name", None)
    file = Path(getattr(main, "__file__", None) or "")
    if module is None and os.path.basename(started) in ENTRIES:
        return [_as_typed(started, "yolov7"), *name.split()]
    is_script = file.stem in SCRIPTS and file.suffix == ".py" and file.absolute().parent == CHECKOUT
    if is_script and name in SCRIPTS:
        return [_python(), _as_typed(os.path.join(os.path.dirname(started), f"{name}.py"))]
    if is_script or module in MODULES or _in_command.get():
        return [_python(), "-m", "yolov7", *name.split()]
    return None


def _python() -> str:
    """The interpreter as it was called; ``python`` where that is the one which runs."""
    original = sys.orig_argv[0] if sys.orig_argv else "python"
    return _as_typed(original, "python", "python3", os.path.basename(original))


def _as_typed(program: str, *names: str) -> str:
    """A program by its name where the shell finds it so, else by a path from here, else as it stands."""
    if not os.path.isabs(program):
        return program
    for name in names:
        found = shutil.which(name)
        if found and os.path.abspath(found) == os.path.abspath(program):
            return name
    here = os.path.join(os.getcwd(), "")
    return program[len(here):] if program.startswith(here) else program


def _texts(value: Any) -> list[str]:
    if value is True or value == "":
        return []
    return [str(item) for item in (value if isinstance(value, (list, tuple)) else (value,))]


def _literal(value: Any) -> str:
    return repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
