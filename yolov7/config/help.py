"""What ``--help`` shows: flags in groups, with default and limits, and examples."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 100  # columns: longer lines are hard to read
GROUPS = (  # in the order in which they are shown; each option names its own
    "model and data", "reading", "scaling", "what is measured", "schedule and batch", "augmentation and sampling",
    "detections", "graph", "device and speed", "what is written", "run and output")


def columns() -> int:
    """The width of a text for this terminal; 80 where there is none."""
    return min(shutil.get_terminal_size().columns, WIDEST) - 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as `columns`; descriptions and examples stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=columns())


def wrapped(text: str, indent: str = "", first: str = "") -> str:
    """A paragraph within `columns`."""
    return textwrap.fill(" ".join(text.split()), max(columns(), 40), initial_indent=first, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


def examples_text(called: str, examples: Sequence[str]) -> str | None:
    """The end of a help: whole commands, from their flags."""
    lines = [f"  {called} {flags}".rstrip() for flags in examples]
    return "\n".join([f"example{'s'[:len(lines) - 1]}:", *lines]) if lines else None


def details(default: Any, metadata: Mapping[str, Any]) -> str:
    """`` (default: 16; at least 1)``: what there is of the two."""
    facts = (f"default: {shown_default(default)}" if says_something(default) else "", limits(metadata))
    text = "; ".join(filter(None, facts))
    return f" ({text})" if text else ""


def says_something(default: Any) -> bool:
    """Whether a default is one: neither nothing nor off."""
    return default not in (None, "", ()) and default is not False and default is not dataclasses.MISSING


def shown_default(value: Any) -> str:
    """A default as flags and recipes write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def limits(metadata: Mapping[str, Any]) -> str:
    """``0 to 1``, ``at least 1`` or nothing; limits against slips alone (``most``) are not shown."""
    low, high = metadata.get("low"), metadata.get("high")
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


class Groups:
    """The groups of a parser, of which those that have flags are shown, in the order of `GROUPS`."""

    def __init__(self, parser: argparse.ArgumentParser, fields: Sequence[dataclasses.Field[Any]]) -> None:
        used = {_group_of(field) for field in fields}
        self._groups = {title: parser.add_argument_group(title) for title in GROUPS if title in used}

    def of(self, field: dataclasses.Field[Any]) -> argparse._ArgumentGroup:
        """Where a flag stands."""
        return self._groups[_group_of(field)]

    def last(self) -> argparse._ArgumentGroup:
        """Where ``--help`` stands."""
        return [*self._groups.values()][-1]


def _group_of(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("group", GROUPS[-1]))
