"""The errors that users see as one sentence, and phrases of their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from yolov7.config.messages import shown_message


class InputError(ValueError):
    """The user's input is at fault: the message is shown as it is, without a traceback, with exit code 2."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shown_message(message))  # whoever prints it: it may name what a stranger has named


class RunError(RuntimeError):
    """The run itself failed, not its input: the message is shown as it is, with exit code 1."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shown_message(message))


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or the name of its class."""
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
