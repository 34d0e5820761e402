"""A page as plain values, and the writer that makes one HTML file of it.

Names of classes and files are hostile input: everything is escaped by Jinja2, but charts and images, which are made
here. The file needs nothing beside it, loads nothing, and runs no script but its own, which its own policy demands.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov7.config import atomic_write
from yolov7.config.messages import visible
from yolov7.pages.figures import svg_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")
MAX_DIGITS = 4


@dataclass(frozen=True)
class DataTable:
    """Rows of named values; columns can be sorted. ``marked`` rows are shown in bold, by their places."""

    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    note: str = ""
    marked: Sequence[int] = ()
    kind: str = field(default="table", init=False)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order in which they first stand."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def is_number(self, column: str) -> bool:
        """Whether a column has nothing but numbers."""
        values = [row.get(column) for row in self.rows]
        return all(value is None or isinstance(value, (int, float)) for value in values)


@dataclass(frozen=True)
class Chart:
    """A figure of matplotlib, as vectors whose colours follow those of the page; ``text`` says what it shows."""

    figure: Figure
    text: str
    title: str = ""
    note: str = ""
    kind: str = field(default="chart", init=False)

    @property
    def svg(self) -> str:
        """The drawing, safe to stand in a page."""
        return svg_of(self.figure, self.text)


@dataclass(frozen=True)
class Image:
    """A PNG or JPEG file's bytes with what is seen on it."""

    content: bytes = field(repr=False)
    text: str = ""

    @property
    def address(self) -> str:
        """The image itself, as an address."""
        kind = "png" if self.content.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Images:
    """Images beside each other, as many as there is room for."""

    images: Sequence[Image]
    title: str = ""
    note: str = ""
    kind: str = field(default="images", init=False)


@dataclass(frozen=True)
class Facts:
    """Names and values, a line each."""

    values: Mapping[str, Any]
    title: str = ""
    note: str = ""
    kind: str = field(default="facts", init=False)


Part = DataTable | Chart | Images | Facts


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    parts: Sequence[Part]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    sections: Sequence[Section]
    lead: str = ""


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file."""
    atomic_write(path, page_text(page))


def page_text(page: Page) -> str:
    """The HTML."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return _environment().get_template("page.html").render(
        page=page, style=style, script=script, script_hash=_hash(script))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters["anchor"] = lambda place: f"part-{place}"
    environment.filters["cell"] = cell_text
    return environment


def cell_text(value: Any) -> str:
    """A value for people: at most four digits, nothing for what is not known."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{MAX_DIGITS}g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shown(value: Any) -> Any:
    """Text without characters that change how others are read."""
    return visible(value) if type(value) is str else value


def _hash(text: str) -> str:
    """As the policy of a page names what it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
