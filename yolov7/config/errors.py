"""The errors that users see as one sentence, and phrases of their messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from itertools import islice

from yolov7.config.messages import shown_message

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 6
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
MOST, LONGEST = 100, 200  # names that a message lists; characters of one


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


def describe_value(value: object) -> str:
    """A value with its type, in the words of the messages: ``a number (0.5)``."""
    if value is None:
        return "nothing"
    names = {bool: "a switch", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "keys"}
    return f"{names.get(type(value), type(value).__name__)} ({shown(value)})"


def shown(value: object) -> str:
    """A value as a message shows it: a few dozen characters, whatever its size and depth."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(name: object, names: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the most similar name, or nothing."""
    match = difflib.get_close_matches(_text(name), [_text(n) for n in islice(names, MOST)], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def unknown(kind: str, name: object, names: Iterable[object]) -> str:
    """``unknown <kind> 'x'; accepted: a, b; did you mean 'a'?``"""
    texts = [_text(known) for known in islice(names, MOST + 1)]
    listed = ", ".join((*texts[:MOST], *("..." for _ in texts[MOST:])))
    return f"unknown {kind} {shown(name)}; accepted: {listed}{nearest(name, texts)}"


def _text(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= LONGEST else shown(name)
