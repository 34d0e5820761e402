"""Figures of matplotlib as SVG inside a page: text stays text, and colours are those of the page, light or dark."""

from __future__ import annotations

import io
import re
import zlib
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {  # of the figures -> of the page's style
    "#000000": "var(--ink)", "#666666": "var(--muted)", "#c4c4c4": "var(--faint)", "#e4e4e4": "var(--line)",
    "#ffffff": "var(--paper)",
    "#0072b2": "var(--blue)", "#d55e00": "var(--orange)", "#009e73": "var(--green)", "#cc79a7": "var(--pink)",
    "#56b4e9": "var(--sky)", "#e69f00": "var(--yellow)"}
_COLOUR = re.compile(f"(?<=: )(?:{'|'.join(COLOURS)})")
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_TAG = re.compile(r"<[^>]+>")  # names stand between them, with their < and > escaped
_HEAD = re.compile(r"^.*?<svg[^>]*?viewBox=\"([\d. ]+)\"[^>]*>", re.DOTALL)


def svg_of(figure: Figure, text: str) -> str:
    """The drawing as an SVG element; ``text`` says what it shows to those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": text}):
        figure.patch.set_alpha(0)
        for axes in figure.get_axes():
            axes.patch.set_alpha(0)
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    prefix = f"c{zlib.crc32(text.encode('utf-8', 'replace')):x}-"  # ids are those of the whole page

    def of_page(tag: re.Match[str]) -> str:
        return _ID.sub(lambda found: found[1] + prefix, _COLOUR.sub(lambda found: COLOURS[found[0]], tag[0]))

    svg = _TAG.sub(of_page, content.getvalue())
    return _HEAD.sub(lambda found: f'<svg role="img" aria-label="{escape(text)}" viewBox="{found[1]}">', svg, count=1)
