"""Text on images: labels on coloured plates, and lines of text on the paper of a sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yolov7.config.messages import bounded
from yolov7.config.names import readable
from yolov7.data.images import cv2

Colour = tuple[int, int, int]  # 0 ... 255 RGB

FONT = cv2.FONT_HERSHEY_SIMPLEX
DRAWS_UNICODE = int(cv2.__version__.partition(".")[0]) >= 5
MAX_TEXT = 200  # characters of a label
ELLIPSIS = "…"


# --- plates ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plate:
    """A text and the pixels that it takes with a margin around it."""

    text: str
    scale: float  # of the letters, as OpenCV counts: 1 is 22 pixels high
    width: int
    height: int
    margin: int
    descent: int = 0  # pixels below the line that the letters stand on
    by_opencv: bool = True

    def draw(self, canvas: np.ndarray, left: int, top: int, colour: Colour) -> None:
        """Draw it on uint8 ``[H, W, 3]``, within which it must lie."""
        if not self.by_opencv:
            plate = Image.new("RGB", (self.width, self.height), colour)
            place, font = (self.margin, self.margin), font_of(_pixels(self.scale))
            ImageDraw.Draw(plate).text(place, self.text, fill=readable_on(colour), font=font)
            canvas[top : top + self.height, left : left + self.width] = np.asarray(plate)
            return
        corner = (left + self.width - 1, top + self.height - 1)
        cv2.rectangle(canvas, (left, top), corner, colour, cv2.FILLED)
        origin = (left + self.margin, top + self.height - self.margin - self.descent)
        cv2.putText(canvas, self.text, origin, FONT, self.scale, readable_on(colour), _stroke(self.scale), cv2.LINE_AA)


def plate_of(text: str, scale: float) -> Plate:
    """The plate of a text, which is made readable and bounded first.

    It is drawn by a font file instead of OpenCV's letters where these are ASCII alone, before version 5.
    """
    text = readable(bounded(text, MAX_TEXT))
    if text.isascii() or DRAWS_UNICODE:
        (width, height), descent = cv2.getTextSize(text, FONT, scale, _stroke(scale))
        margin = max(1, round(4 * scale))
        return Plate(text, scale, width + 2 * margin, height + descent + 2 * margin, margin, descent)
    box = font_of(_pixels(scale)).getbbox(text)
    margin = max(1, _pixels(scale) // 8)
    return Plate(text, scale, math.ceil(box[2]) + 2 * margin, math.ceil(box[3]) + 2 * margin, margin, by_opencv=False)


def _stroke(scale: float) -> int:
    return max(1, round(1.5 * scale))


def _pixels(scale: float) -> int:
    """The size of a font file's letters that are as high as OpenCV's."""
    return max(10, round(30 * scale))


def readable_on(colour: Colour) -> Colour:
    """Black on light colours, white on dark ones (luminance of ITU-R BT.601)."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


# --- lines of text ---------------------------------------------------------------------------------------------


@cache
def font_of(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic; else Pillow's own, which has Latin."""
    found = find_spec("matplotlib")  # not imported: it is slow
    if found and found.origin:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def shortened(text: str, width: float, size: int, bold: bool = False) -> str:
    """As much of a text in one line as goes into ``width`` pixels; the middle of a longer one is left out."""
    text, font = readable(bounded(text, 2 * MAX_TEXT)), font_of(size, bold)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = text[: kept // 2] + ELLIPSIS + text[len(text) - (kept - kept // 2) :]
        if font.getlength(short) <= width:
            return short
    return ""


def wrapped(text: str, width: float, size: int) -> list[str]:
    """A text in lines of at most ``width`` pixels, broken between its words; a longer word is shortened."""
    lines: list[str] = []
    for word in readable(bounded(text, 5 * MAX_TEXT)).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font_of(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size))
    return lines


def write_line(canvas: np.ndarray, place: tuple[int, int], text: str, size: int, colour: Colour,
               bold: bool = False) -> int:
    """Write a line on uint8 ``[H, W, 3]`` with its left and upper corner at ``place`` (x, y); returns its width."""
    if not text:
        return 0
    font, (x, y) = font_of(size, bold), place
    width: int = math.ceil(font.getlength(text)) + 2
    height = math.ceil(1.3 * size)
    part = canvas[y : y + height, x : x + width]
    if part.size:
        strip = Image.fromarray(part)
        ImageDraw.Draw(strip).text((0, 0), text, fill=colour, font=font)
        part[:] = np.asarray(strip)
    return width
