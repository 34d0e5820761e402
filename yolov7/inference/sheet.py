"""A sheet of images of any sizes: a header, and justified rows below it.

Images keep their aspect and their order. The rows are as wide as the sheet, each as high as its images make it; the
last one may be narrower, but is not higher than the others. An image more than `MAX_RATIO` times as long as it is wide,
or the reverse, stands in the middle of a panel of that ratio, on the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from yolov7.data.images import cv2, encode_image, resize_long_side
from yolov7.inference.draw import class_colour, class_name
from yolov7.inference.lettering import Colour, plate_of, shortened, wrapped, write_line

WIDTH = 1600  # pixels of a whole row, margins included
MIN_WIDTH = 720  # of a sheet with little on it: the header needs it
ROW, SINGLE_ROW = 330, 480  # height of images that rows come close to, and of an only row
MARGIN, GAP, BETWEEN = 16, 4, 16  # around the sheet, between the images of a group, between groups
MAX_RATIO = 3.0
SHORT = 0.15  # how bad a last row is that is nearly empty, as the square of a logarithm
TITLE, TEXT, SMALL = 20, 14, 13  # pixels of letters
LINE = 20  # pixels from line to line of captions
MAX_KEYS = 48  # classes in the header
KEPT_SIDE = 1024  # pixels of an image that waits for its place
MAX_BYTES = 1_500_000  # of a JPEG
QUALITIES = (90, 80, 65, 45, 25, 10)  # of JPEG, the first one that is small enough
PAPER, INK, QUIET, ALERT, EDGE = (255, 255, 255), (25, 25, 25), (95, 95, 95), (176, 72, 0), (205, 205, 205)


@dataclass(frozen=True)
class Panel:
    """An image of a sheet, drawn when its place is known."""

    size: tuple[int, int]  # height, width of the image, for its aspect
    draw: Callable[[int, int], np.ndarray]  # height, width -> uint8 [height, width, 3] RGB
    caption: str = ""  # in one line over it
    alert: bool = False  # whether that is to be seen at once

    @property
    def ratio(self) -> float:
        """Width over height of its place."""
        height, width = self.size
        return min(max(width / height, 1 / MAX_RATIO), MAX_RATIO)


@dataclass(frozen=True)
class Group:
    """Panels that stay side by side, under a name."""

    panels: tuple[Panel, ...]
    name: str = ""

    @property
    def ratio(self) -> float:
        """Width over height, without the gaps."""
        return sum(panel.ratio for panel in self.panels)

    @property
    def gaps(self) -> int:
        """Pixels between its panels."""
        return GAP * (len(self.panels) - 1)


@dataclass(frozen=True)
class Header:
    """What stands above the images."""

    title: str = ""
    lines: Sequence[str] = ()  # wrapped where the sheet is narrow
    classes: Sequence[tuple[int, str]] = field(default=())  # label and name of the classes whose colours are explained


def class_key(labels: Iterable[int], names: Sequence[str]) -> list[tuple[int, str]]:
    """The classes that occur, for a `Header`."""
    return [(label, class_name(label, names)) for label in sorted(set(labels))]


def compose(header: Header, groups: Sequence[Group]) -> np.ndarray:
    """The sheet, uint8 ``[H, W, 3]`` RGB, at most `WIDTH` wide; see the module."""
    rows = [_Row(part, height) for part, height in justified(groups, WIDTH - 2 * MARGIN)]
    width = max([MIN_WIDTH, *(row.width + 2 * MARGIN for row in rows)])
    return np.concatenate([_draw_header(header, width), *(row.draw(width) for row in rows),
                           _paper(MARGIN if rows else 0, width)])


# --- layout ----------------------------------------------------------------------------------------------------


def justified(groups: Sequence[Group], width: int) -> list[tuple[Sequence[Group], int]]:
    """The groups of each row and the height of its images, so that all rows but the last are ``width`` pixels wide.

    Of all ways to cut the sequence it is the one whose heights come closest to `ROW`, by the squares of the ratios'
    logarithms, and whose last row is not too short. That row keeps to the height of the one above it, at most.
    """
    costs, starts = [0.0], [0]  # of the first n groups: the least cost, and where the last row of it begins
    for end in range(1, len(groups) + 1):
        found = [(costs[start] + _cost(groups[start:end], width, end == len(groups)), start) for start in range(end)]
        cost, start = min(found)
        costs.append(cost)
        starts.append(start)
    cuts, end = [], len(groups)
    while end:
        cuts.append((starts[end], end))
        end = starts[end]
    rows: list[tuple[Sequence[Group], int]] = []
    for start, end in cuts[::-1]:
        height = _exact(groups[start:end], width)
        if end == len(groups):
            height = min(height, rows[-1][1] if rows else SINGLE_ROW)
        rows.append((groups[start:end], max(1, math.floor(height))))
    return rows


def _exact(groups: Sequence[Group], width: int) -> float:
    """The height at which groups fill a row."""
    gaps = BETWEEN * (len(groups) - 1) + sum(group.gaps for group in groups)
    return max(1.0, (width - gaps) / sum(group.ratio for group in groups))


def _cost(groups: Sequence[Group], width: int, is_last: bool) -> float:
    height = _exact(groups, width)
    return SHORT * (1 - ROW / height) if is_last and height > ROW else math.log(height / ROW) ** 2


class _Row:
    """Groups side by side, with places in pixels."""

    def __init__(self, groups: Sequence[Group], height: int) -> None:
        self.groups, self.height = groups, height
        full = height == math.floor(_exact(groups, WIDTH - 2 * MARGIN))
        scale = _exact(groups, WIDTH - 2 * MARGIN) if full else float(height)
        self.places: list[list[tuple[int, int]]] = []  # left and right of each panel
        at = 0.0
        for group in groups:
            self.places.append([])
            for panel in group.panels:
                self.places[-1].append((round(at), max(round(at + scale * panel.ratio), round(at) + 1)))
                at += scale * panel.ratio + GAP
            at += BETWEEN - GAP
        self.width = self.places[-1][-1][1]

    def draw(self, width: int) -> np.ndarray:
        """The row with its captions, as wide as the sheet."""
        lines = [any(group.name for group in self.groups), any(p.caption for g in self.groups for p in g.panels)]
        top = LINE * sum(lines)
        strip = _paper(top + self.height + BETWEEN - 2, width)
        for group, places in zip(self.groups, self.places, strict=True):
            left, right = MARGIN + places[0][0], MARGIN + places[-1][1]
            write_line(strip, (left, 0), shortened(group.name, right - left, TEXT, bold=True), TEXT, INK, bold=True)
            for panel, (start, end) in zip(group.panels, places, strict=True):
                text = shortened(panel.caption, end - start, SMALL)
                write_line(strip, (MARGIN + start, LINE * lines[0]), text, SMALL, ALERT if panel.alert else QUIET)
                corners = (MARGIN + start - 1, top - 1), (MARGIN + end, top + self.height)
                cv2.rectangle(strip, *corners, EDGE, 1)  # white images have an end, too
                strip[top : top + self.height, MARGIN + start : MARGIN + end] = _drawn(panel, self.height, end - start)
        return strip


def _drawn(panel: Panel, height: int, width: int) -> np.ndarray:
    own_height, own_width = panel.size
    ratio = own_width / own_height
    if abs(math.log(ratio / panel.ratio)) < 1e-6:
        return panel.draw(height, width)
    inner_height, inner_width = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    place = _paper(height, width)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    place[top : top + inner_height, left : left + inner_width] = panel.draw(inner_height, inner_width)
    return place


# --- header ----------------------------------------------------------------------------------------------------


def _draw_header(header: Header, width: int) -> np.ndarray:
    room = width - 2 * MARGIN
    lines = [line for text in header.lines for line in wrapped(text, room, TEXT)]
    keys, key_lines = _keys(header.classes, room)
    title = LINE + 8 if header.title else 0
    head = _paper(MARGIN + title + LINE * len(lines) + (LINE + 6) * key_lines + 10, width)
    y = MARGIN - 4
    write_line(head, (MARGIN, y), shortened(header.title, room, TITLE, bold=True), TITLE, INK, bold=True)
    y += title
    for line in lines:
        write_line(head, (MARGIN, y), line, TEXT, QUIET)
        y += LINE
    for text, colour, x, row in keys:
        plate_of(text, KEY_SCALE).draw(head, MARGIN + x, y + 4 + (LINE + 6) * row, colour)
    return head


KEY_SCALE = 0.45


def _keys(classes: Sequence[tuple[int, str]], room: int) -> tuple[list[tuple[str, Colour, int, int]], int]:
    """Plates with the names of classes: text, colour, x, line; and the number of lines."""
    shown = [(name, class_colour(label)) for label, name in classes[:MAX_KEYS]]
    if len(classes) > MAX_KEYS:
        shown.append((f"and {len(classes) - MAX_KEYS} more", PAPER))
    keys, x, line = [], 0, 0
    for name, colour in shown:
        text = shortened(name, room // 3, round(30 * KEY_SCALE))
        width = plate_of(text, KEY_SCALE).width
        if x and x + width > room:
            x, line = 0, line + 1
        if width <= room:
            keys.append((text, colour, x, line))
            x += width + 6
    return keys, line + 1 if keys else 0


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image in another size: by area where it becomes smaller, else bilinear."""
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def kept_image(image: np.ndarray) -> np.ndarray:
    """An image that waits for its place: as it is, or so small that many of them take little memory."""
    return resize_long_side(image, KEPT_SIDE, training=False) if max(image.shape[:2]) > KEPT_SIDE else image


def encode_sheet(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    """A sheet as a file, a JPEG within `MAX_BYTES`."""
    for quality in QUALITIES:
        content = encode_image(image, suffix, quality)
        if len(content) <= MAX_BYTES or suffix.lower() not in (".jpg", ".jpeg"):
            break
    return content
