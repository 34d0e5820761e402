"""Class names as they may be drawn, printed and compared."""

from __future__ import annotations

import re
from collections.abc import Iterable

# control characters, separators of lines, and halves of surrogate pairs, of which OpenCV's text ends the process
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def readable(name: str) -> str:
    r"""A name whose control characters and lone surrogates are written out: ``\x1b``, ``\ud800``; others stay."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] <= "\xff" else f"\\u{ord(found[0]):04x}",
                       name)


def readable_names(names: Iterable[object]) -> tuple[str, ...]:
    """All of them, in order."""
    return tuple(readable(str(name)) for name in names)
