"""Class names as they may be drawn, printed and compared."""

from __future__ import annotations

from collections.abc import Iterable

from yolov7.config.messages import visible

_LINES = str.maketrans({"\t": "\\x09", "\n": "\\x0a"})


def readable(name: str) -> str:
    r"""A name in one line, whose control characters and lone surrogates are written out: ``\x1b``, ``\ud800``.

    The latter end the process in OpenCV's text.
    """
    return visible(name).translate(_LINES)


def readable_names(names: Iterable[object]) -> tuple[str, ...]:
    """All of them, in order."""
    return tuple(readable(str(name)) for name in names)
