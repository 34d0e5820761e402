"""What may be shown of a text: no secret, no character that steers a terminal, no more than a screen can hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import PurePath

LONGEST = 2000  # characters of a message, and of a line of the log
HIDDEN = "***"

_END = r"(?=[/?#,;\s'\"]|$)"
# a password may hold anything, an '@' too: what stands before the last one is not shown
_PASSWORD = re.compile(rf"(?<=://)([^\s:/@]{{0,64}}:)(?:\S{{0,400}}|(?:(?!://)[^\n'\"]){{0,400}})@"
                       rf"(?=[\w.-]*(?::\d+)?{_END}|\[|\S{{0,99}}$)")
_USER = re.compile(r"(?<=://)[^\s:/@]{1,999}@")
_NO_PORT = re.compile(rf"(?<=://)([\w.-]+:)(?!\d{{1,5}}{_END}|\*|{_END})[^\s/@'\"]+")
_PASSWORD_OF_PATH = re.compile(rf"(?<![\w:])([\w.%+-]{{2,64}}:)(?!/)[^\s@'\"]{{1,256}}@(?=[\w.-]+(?::\d+)?{_END})")
_KEY = r"[\w.%-]{0,40}(?:token|pas|pwd|psw|psd|pw|key|secret|sign|sig|auth|credential|session|jwt|otp)[\w.%-]{0,40}"
_VALUE = re.compile(rf"(?<=[?&;/#_])({_KEY}=)[^&\s'\"]+", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[a-zA-Z][\w+.-]*://[^\n'\"]*")

# C0 but tab and line feed, C1, what turns or hides text, lone surrogates
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff"
                     "\ufff9-\ufffb\ud800-\udfff]")
_LINE_BREAK = re.compile(r"\n(?!  )|\t")  # our own lists are indented
_UNSAFE_ADVICE = re.compile(r"(?:Weights only load failed|(?!\s)[^.:;\n]{0,99}\bweights_only\b)[^\n]*")


def without_secrets(text: str) -> str:
    """A text with every password and token of its addresses masked; file names stay as they are.

    Rather too much is masked than too little: what stands before an ``@``, and the value of every key like ``token``.
    """
    masked = _USER.sub(f"{HIDDEN}@", _PASSWORD.sub(rf"\1{HIDDEN}@", text))
    masked = _PASSWORD_OF_PATH.sub(rf"\1{HIDDEN}@", _NO_PORT.sub(rf"\1{HIDDEN}", masked))
    return _ADDRESS.sub(lambda found: _VALUE.sub(rf"\1{HIDDEN}", found[0]), masked)


def visible(text: str) -> str:
    r"""A text whose control characters, turns of direction and lone surrogates can be seen: ``\x1b``, ``\u202e``.

    Bytes of a file name that are no text are shown as such: ``\xe9``. Tabs and line feeds stay.
    """
    return _UNSEEN.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # as Python reads such names
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


def bounded(text: str, longest: int = LONGEST) -> str:
    """A text without its middle where it is too long."""
    if len(text) <= longest:
        return text
    kept = longest // 2 - 20
    return f"{text[:kept]} ... {len(text) - 2 * kept} characters ... {text[-kept:]}"


def shown_message(text: object) -> str:
    """A message of one line, or with an indented list below it, as it may be shown."""
    told = _UNSAFE_ADVICE.sub("it holds more than weights", bounded(str(text), 4 * LONGEST))
    return _shown_line(_LINE_BREAK.sub(lambda found: repr(found[0])[1:-1], told))


class LogFormatter(logging.Formatter):
    """Lines of the log as they may be shown; tables keep their lines, paths have none."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        if isinstance(record.args, tuple):
            record.args = tuple(_LINE_BREAK.sub(r"\\n", str(arg)) if isinstance(arg, PurePath) else arg
                                for arg in record.args)
        return "\n".join(map(_shown_line, super().format(record).split("\n")))


def _shown_line(line: str) -> str:
    return bounded(visible(without_secrets(bounded(line, 4 * LONGEST))))


def with_names(text: str, names: Mapping[str, str]) -> str:
    """A message about flags as one about arguments: ``--img-size`` becomes ``img_size`` where ``names`` says so."""
    return re.sub(r"(?<![\w-])--[a-z][a-z0-9-]*", lambda found: names.get(found[0], found[0]), text)


def size_text(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
