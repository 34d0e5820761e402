"""Names of classes: as they may be drawn, printed and compared, and what they may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from yolov7.config.errors import InputError, shown
from yolov7.config.messages import visible
from yolov7.config.options import MAX_CLASSES

_LINES = str.maketrans({"\t": "\\x09", "\n": "\\x0a"})


def readable(name: str) -> str:
    r"""A name in one line, whose control characters and lone surrogates are written out: ``\x1b``, ``\ud800``.

    The latter end the process in OpenCV's text.
    """
    return visible(name).translate(_LINES)


def readable_names(names: Iterable[object]) -> tuple[str, ...]:
    """All of them, in order."""
    return tuple(readable(str(name)) for name in names)


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `InputError` for class names that cannot be told apart or read."""
    names = list(names)
    if not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{where}: found {len(names)} class names; accepted: 1 to {MAX_CLASSES}")
    if blank := [place for place, name in enumerate(names) if not name.strip()]:
        raise InputError(f"{where}: the name of class {blank[0]} is empty")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: {', '.join(map(shown, twice[:5]))} stands twice; accepted: names that differ")
