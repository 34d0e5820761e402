"""Text as people's editors and shells write it."""

from __future__ import annotations

import codecs

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SAMPLE = 200  # bytes


def decode_text(content: bytes) -> tuple[str, str]:
    """A text and its encoding: UTF-8, UTF-16 (as PowerShell writes it), else Windows-1252; never fails.

    A byte-order mark is no part of the text. UTF-16 without one is known by the zeros of its ASCII characters.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "") or _without_mark(content)
    if not encoding:
        try:
            return content.decode("utf-8-sig"), "UTF-8"
        except UnicodeDecodeError:
            return content.decode("cp1252", "replace"), "Windows-1252"
    return content.decode(encoding, "replace"), "UTF-16"


def _without_mark(content: bytes) -> str:
    sample = content[:_SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    mostly = len(sample) // 2 * 0.8
    if len(sample) < 4 or max(even, odd) < mostly or min(even, odd) > 0:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"
