"""Bounding boxes and labels on images, and images side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yolov7.config.messages import bounded
from yolov7.config.names import readable
from yolov7.data.images import PAD_COLOUR, cv2
from yolov7.structures import Instances

# image uint8 [H, W, 3] RGB, instances in its pixels, class names, whether scores are written -> a copy with them drawn
Overlay = Callable[[np.ndarray, Instances, Sequence[str], bool], np.ndarray]

FONT = cv2.FONT_HERSHEY_SIMPLEX
DRAWS_UNICODE = int(cv2.__version__.partition(".")[0]) >= 5
MAX_TEXT = 200  # characters of a label
MIN_TEXT = 0.35  # font scale; smaller letters cannot be read
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, never come close to each other
_SHADES = ((0.95, 1.0), (0.55, 0.95), (0.9, 0.65), (0.45, 0.7), (0.75, 0.85))  # saturation, value


def class_colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, 0 ... 255 RGB: the same in every run, far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, *_SHADES[label // 3 % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_instances(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
    """Detection's `Overlay`: bounding boxes with the names of their classes, the best in front."""
    boxes, scores, labels = (t.detach().cpu().numpy() for t in (found.boxes, found.scores, found.labels))
    return draw_boxes(image, boxes, labels, names, scores if with_scores else None)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None = None
) -> np.ndarray:
    """A copy of an image (uint8 ``[H, W, 3]`` RGB) with boxes and the names of their classes.

    ``boxes`` are ``[N, 4]`` xyxy pixels, ``labels`` ``[N]``, ``scores`` ``[N]``; the first box is in front. Boxes may
    leave the image. A label too wide for the image is left out.
    """
    canvas: np.ndarray = np.ascontiguousarray(image).copy()
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = canvas.shape[:2]
    line = max(1, round(0.0017 * (height + width)))
    corners = np.round(np.clip(boxes, 0, (width - 1, height - 1) * 2)).astype(int)  # [N, 4]
    inside = (boxes[:, 2:] >= 0).all(axis=1) & (boxes[:, :2] < (width, height)).all(axis=1)
    back_to_front = np.flatnonzero(inside)[::-1]
    for index in back_to_front:
        left, top, right, bottom = corners[index].tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), class_colour(int(labels[index])), line)
    for index in back_to_front:
        label = int(labels[index])
        text = names[label] if 0 <= label < len(names) else str(label)
        text += "" if scores is None else f" {scores[index]:.2f}"
        left, top = corners[index, :2].tolist()
        _draw_label(canvas, left, top, class_colour(label), text)
    return canvas


def _draw_label(canvas: np.ndarray, left: int, top: int, colour: tuple[int, int, int], text: str) -> None:
    """Text on a plate, above the line ``top`` if there is room, else below it; moved into the image."""
    height, width = canvas.shape[:2]
    scale = max(MIN_TEXT, 0.0004 * (height + width))  # in proportion to the sides, as is the stroke
    thickness = max(1, round(1.5 * scale))
    text = readable(bounded(text, MAX_TEXT))
    if not (text.isascii() or DRAWS_UNICODE):
        return _draw_other_script(canvas, left, top, colour, text)
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, thickness)
    margin = max(1, round(4 * scale))
    plate_width, plate_height = text_width + 2 * margin, text_height + baseline + 2 * margin
    if plate_width > width or plate_height > height:
        return
    x = min(left, width - plate_width)
    y = min(top - plate_height if top >= plate_height else top, height - plate_height)
    cv2.rectangle(canvas, (x, y), (x + plate_width - 1, y + plate_height - 1), colour, cv2.FILLED)
    origin = (x + margin, y + margin + text_height)
    cv2.putText(canvas, text, origin, FONT, scale, _readable_on(colour), thickness, cv2.LINE_AA)
    return None


def _draw_other_script(canvas: np.ndarray, left: int, top: int, colour: tuple[int, int, int], text: str) -> None:
    """As `_draw_label`, with a font file instead of OpenCV's letters, which before version 5 are ASCII alone."""
    height, width = canvas.shape[:2]
    size = max(10, round(0.012 * (height + width)))
    font = _font(size)
    box = font.getbbox(text)
    margin = max(1, size // 8)
    plate_width, plate_height = math.ceil(box[2]) + 2 * margin, math.ceil(box[3]) + 2 * margin
    if plate_width > width or plate_height > height:
        return
    x = min(left, width - plate_width)
    y = min(top - plate_height if top >= plate_height else top, height - plate_height)
    plate = Image.new("RGB", (plate_width, plate_height), colour)
    ImageDraw.Draw(plate).text((margin, margin), text, fill=_readable_on(colour), font=font)
    canvas[y : y + plate_height, x : x + plate_width] = np.asarray(plate)


@cache
def _font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic; else Pillow's own, which has Latin."""
    found = find_spec("matplotlib")  # not imported: it is slow
    if found and found.origin:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones (luminance of ITU-R BT.601)."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def mosaic_of(images: Sequence[np.ndarray], columns: int, tile: int) -> np.ndarray:
    """Images of any size (uint8 ``[H, W, 3]``) in rows of ``columns`` square tiles of ``tile`` pixels, in order.

    Each keeps its aspect, in the middle of its tile. Unused tiles are grey.
    """
    rows = max(1, math.ceil(len(images) / columns))
    overview = np.full((rows * tile, columns * tile, 3), PAD_COLOUR, np.uint8)
    for index, image in enumerate(images):
        ratio = tile / max(image.shape[:2])
        height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
        top = index // columns * tile + (tile - height) // 2
        left = index % columns * tile + (tile - width) // 2
        overview[top : top + height, left : left + width] = small
    return overview
