"""Coefficients and prototypes -> masks in pixels of the native image (docs/reference.md, Mask assembly).

Everything is computed in windows of the boxes: images of (N, H, W) numbers never exist. The prototypes are brought to
the CPU first, a few megabytes, so that masks are the same whatever device the network ran on. ``P`` stands for the
prototypes, which have a cell for every `CELL` x `CELL` pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError, unknown
from yolov7.data.images import cv2
from yolov7.inference.nms import Finish, to_native
from yolov7.masks import CELL, Masks, Window, masks_from
from yolov7.structures import ImageMeta, Instances

FIXED = 2048  # OpenCV's weights of 8-bit images are so many parts of one
NEVER = 255  # a threshold that no sum reaches

Floats = np.ndarray  # float32
Pixels = np.ndarray  # bool


def finish_masks(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """Segmentation's `Finish`: as `mask_finish` gives it for ``upsampled``, the published way to predict."""
    return _finish(found, maps, meta, "upsampled")


def mask_finish(mode: str) -> Finish:
    """A `Finish` that replaces the column ``coefficients`` by ``masks``: `Masks` in native pixels.

    ``mode`` is one of `MODES`: ``low`` thresholds at the resolution of the prototypes, ``upsampled`` crops there and
    enlarges before the threshold (published, of predictions), ``fine`` enlarges before it crops (published, of COCO
    results), ``soft`` brings the logits to native pixels at once, so that nothing is rounded to pixels of the network
    input on the way. Raises `InputError` for another one.
    """
    if mode not in MODES:
        raise InputError(f"masks: {unknown('mode', mode, MODES)}")
    return partial(_finish, mode=mode)


def _finish(found: Instances, maps: dict[str, Tensor], meta: ImageMeta, mode: str) -> Instances:
    native = to_native(found, maps, meta)
    coefficients, prototypes = found.extra["coefficients"], maps["prototypes"]
    if mode == "soft":
        masks = soft_masks(coefficients, prototypes, found.boxes, meta)
    else:
        masks = masks_to_native(assemble(coefficients, prototypes, found.boxes, mode), meta)
    others = {name: column for name, column in native.extra.items() if name != "coefficients"}
    return replace(native, extra={**others, "masks": masks})


# --- in pixels of the network input ------------------------------------------------------------------------------


def assemble(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, mode: str) -> Masks:
    """Masks in pixels of the network input: ``[N, K]``, ``[K, h, w]`` and boxes xyxy ``[N, 4]`` in its pixels.

    A pixel with the index X lies in a box where ``x1 <= X < x2``. With ``low`` each cell is 4 x 4 equal pixels.
    """
    height, width = prototypes.shape[-2:]
    make = _MAKERS[mode]
    logits = _Logits(_array(prototypes))
    windows, parts = [], []
    for row, box in zip(_array(coefficients), _array(boxes), strict=True):
        window, pixels = make(logits, row, box)
        windows.append(window)
        parts.append(pixels)
    return masks_from(windows, parts, (CELL * height, CELL * width))


@dataclass(frozen=True)
class _Logits:
    """Sums of the prototypes, in any window of their cells."""

    prototypes: Floats  # [K, h, w]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in cells."""
        _, height, width = self.prototypes.shape
        return height, width

    def of(self, coefficients: Floats, window: Window) -> Floats:
        """``[h, w]`` of a window."""
        left, top, right, bottom = window
        part = self.prototypes[:, top:bottom, left:right].reshape(len(self.prototypes), -1)
        summed: Floats = coefficients @ part
        return summed.reshape(bottom - top, right - left)


def _low(logits: _Logits, coefficients: Floats, box: Floats) -> tuple[Window, Pixels]:
    window = _inside(box / CELL, logits.size)
    set_cells = logits.of(coefficients, window) > 0
    return _times(window, CELL), set_cells.repeat(CELL, axis=0).repeat(CELL, axis=1)


def _upsampled(logits: _Logits, coefficients: Floats, box: Floats) -> tuple[Window, Pixels]:
    cropped = _inside(box / CELL, logits.size)
    if _is_empty(cropped):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    left, top, right, bottom = cropped
    window = _grown(cropped, logits.size)  # the pixels around have a share of the outermost cells
    values = np.zeros((window[3] - window[1], window[2] - window[0]), np.float32)
    values[top - window[1] : bottom - window[1], left - window[0] : right - window[0]] = _sigmoid(
        logits.of(coefficients, cropped))
    return _times(window, CELL), _enlarged(values) > 0.5


def _fine(logits: _Logits, coefficients: Floats, box: Floats) -> tuple[Window, Pixels]:
    height, width = logits.size
    window = _inside(box, (CELL * height, CELL * width))
    if _is_empty(window):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    left, top, right, bottom = window
    cells = _grown((left // CELL, top // CELL, (right - 1) // CELL + 1, (bottom - 1) // CELL + 1), logits.size)
    values = _enlarged(_sigmoid(logits.of(coefficients, cells)))
    x, y = CELL * cells[0], CELL * cells[1]
    return window, values[top - y : bottom - y, left - x : right - x] > 0.5


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def _inside(box: Floats, size: tuple[int, int]) -> Window:
    """The whole numbers in a box, of which the right and lower border are outside, within an area of this size."""
    height, width = size
    left, top, right, bottom = np.ceil(box).clip(0, (width, height, width, height)).astype(int).tolist()
    return left, top, max(right, left), max(bottom, top)


def _grown(window: Window, size: tuple[int, int]) -> Window:
    left, top, right, bottom = window
    return max(left - 1, 0), max(top - 1, 0), min(right + 1, size[1]), min(bottom + 1, size[0])


def _times(window: Window, factor: int) -> Window:
    left, top, right, bottom = window
    return factor * left, factor * top, factor * right, factor * bottom


def _is_empty(window: Window) -> bool:
    return window[0] >= window[2] or window[1] >= window[3]


def _enlarged(values: Floats) -> Floats:
    height, width = values.shape
    larger: Floats = cv2.resize(values, (CELL * width, CELL * height), interpolation=cv2.INTER_LINEAR)
    return larger


def _sigmoid(logits: Floats) -> Floats:
    activated: Floats = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    return activated


# --- network input -> native image -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """Where each native pixel lies between two pixels of the network input, whose first cut ones do not count."""

    first: np.ndarray  # int64 [n] rising
    second: np.ndarray  # int64 [n] rising
    fraction: np.ndarray  # float32 [n] of the second
    length: int  # of the input without what is cut

    @classmethod
    def of(cls, length: int, native: int) -> _Axis:
        """Half a pixel inside, as OpenCV's bilinear resize of ``length`` to ``native`` pixels has it."""
        places = ((np.arange(native) + 0.5) * (1 / (native / length)) - 0.5).astype(np.float32)
        below = np.floor(places)
        first = below.astype(np.int64)
        return cls(first.clip(0, length - 1), (first + 1).clip(0, length - 1), places - below, length)

    def weights(self, clamped: bool) -> tuple[np.ndarray, np.ndarray]:
        """OpenCV's for 8-bit images, in `FIXED` parts: int32 ``[n]`` of the first and of the second pixel."""
        fraction = self.fraction
        if clamped:
            fraction = np.where(self.first == self.second, np.float32(0), fraction)
        first, second = (np.rint(part * np.float32(FIXED)).astype(np.int32) for part in (1 - fraction, fraction))
        return first, second

    def reached(self, start: int, stop: int) -> tuple[int, int]:
        """The native pixels that have a share of input pixels ``start ... stop``."""
        return int(np.searchsorted(self.second, start)), int(np.searchsorted(self.first, stop))


class NativeMap:
    """OpenCV's bilinear resize of 0/1 images of 8 bits, window by window, to the bit.

    Its rounding is coarse: of each of two rows it takes whole quarters, and a pixel is set from two quarters on
    (docs/reference.md, Mask assembly).
    """

    def __init__(self, size: tuple[int, int], native: tuple[int, int]) -> None:
        self._y, self._x = (_Axis.of(length, to) for length, to in zip(size, native, strict=True))
        self._native = native
        self._columns = [weight.astype(np.uint16)[:, None] for weight in self._x.weights(clamped=True)]
        # a row counts one or two quarters where its sum, in 128 parts, is at least so much
        self._quarters = [[_least(count, weight) for count in (1, 2)] for weight in self._y.weights(clamped=False)]

    def __call__(self, window: Window, pixels: Pixels) -> tuple[Window, Pixels]:
        """A window inside the network input, and the window of the native image that comes of it."""
        (left, top, right, bottom), x, y = window, self._x, self._y
        (x1, x2), (y1, y2) = x.reached(left, right), y.reached(top, bottom)
        if not pixels.size or x1 >= x2 or y1 >= y2:
            return (0, 0, 0, 0), np.zeros((0, 0), bool)
        ring = np.zeros((right - left + 2, bottom - top + 2), np.uint16)  # columns first, as they are gathered
        ring[1:-1, 1:-1] = pixels.T
        places = (x.first[x1:x2] - left + 1, x.second[x1:x2] - left + 1)
        first, second = (ring[place] * weight[x1:x2] for place, weight in zip(places, self._columns, strict=True))
        sums = np.ascontiguousarray(((first + second) >> 4).astype(np.uint8).T)  # [rows of the window + 2, x2 - x1]
        rows = sums[y.first[y1:y2] - top + 1], sums[y.second[y1:y2] - top + 1]
        (once, twice), (other_once, other_twice) = ([row >= least[y1:y2] for least in quarters]
                                                    for row, quarters in zip(rows, self._quarters, strict=True))
        return (x1, y1, x2, y2), twice | other_twice | (once & other_once)


def _least(quarters: int, weights: np.ndarray) -> np.ndarray:
    """The least sum in 128 parts that counts so many quarters with these weights: uint8 ``[n, 1]``."""
    least = -(-(quarters << 16) // weights.clip(1))
    return np.where(weights > 0, least, NEVER).clip(0, NEVER).astype(np.uint8)[:, None]


def masks_to_native(masks: Masks, meta: ImageMeta) -> Masks:
    """Masks of the network input in pixels of the native image: the padding cut off, the rest resized."""
    (height, width), (pad_x, pad_y) = masks.size, meta.pad
    left, top, right, bottom = int(pad_x), int(pad_y), int(width - pad_x), int(height - pad_y)
    change = NativeMap((bottom - top, right - left), meta.size)
    windows, parts = [], []
    for window, pixels in masks:
        x1, y1, x2, y2 = window
        cut = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        kept = pixels[max(cut[1] - y1, 0) : max(cut[3] - y1, 0), max(cut[0] - x1, 0) : max(cut[2] - x1, 0)]
        native, pixels = change((cut[0] - left, cut[1] - top, cut[2] - left, cut[3] - top), kept)  # noqa: PLW2901
        windows.append(native)
        parts.append(pixels)
    return masks_from(windows, parts, meta.size)


# --- logits at native pixels -------------------------------------------------------------------------------------


def soft_masks(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, meta: ImageMeta) -> Masks:
    """Masks in native pixels of logits that are interpolated there, bilinear between the centres of the cells.

    Arguments as those of `assemble`; a pixel lies in a box if its centre does.
    """
    logits = _Logits(_array(prototypes))
    native = (_array(boxes) - np.array(meta.pad * 2)) / np.array(meta.gain * 2)
    y, x = (_Mixing.of(count, meta.gain[axis], meta.pad[axis], cells)
            for count, axis, cells in zip(meta.size, (1, 0), logits.size, strict=True))
    windows, parts = [], []
    for row, box in zip(_array(coefficients), native, strict=True):
        left, top, right, bottom = window = _inside(box - 0.5, meta.size)
        if _is_empty(window):
            window, pixels = (0, 0, 0, 0), np.zeros((0, 0), bool)
        else:
            (x1, x2), (y1, y2) = x.cells(left, right), y.cells(top, bottom)
            rows = x.mixed(logits.of(row, (x1, y1, x2, y2)).T, left, right).T  # [cells, right - left]
            pixels = y.mixed(np.ascontiguousarray(rows), top, bottom) > 0
        windows.append(window)
        parts.append(pixels)
    return masks_from(windows, parts, meta.size)


@dataclass(frozen=True)
class _Mixing:
    """The cell before each native pixel of an axis, and the share that the next cell has."""

    first: np.ndarray  # int64 [n] rising
    share: Floats  # float32 [n, 1] 0..1

    @classmethod
    def of(cls, count: int, gain: float, pad: float, cells: int) -> _Mixing:
        """Of all ``count`` pixels; those beyond the centres of the outermost cells have their values."""
        places = (((np.arange(count) + 0.5) * gain + pad) / CELL - 0.5).clip(0, cells - 1)
        first = np.floor(places).astype(np.int64).clip(0, cells - 2)
        return cls(first, (places - first).astype(np.float32)[:, None])

    def cells(self, start: int, stop: int) -> tuple[int, int]:
        """The cells that native pixels ``start ... stop`` lie between."""
        return int(self.first[start]), int(self.first[stop - 1]) + 2

    def mixed(self, values: Floats, start: int, stop: int) -> Floats:
        """Values ``[cells, n]`` at native pixels ``start ... stop``: ``[stop - start, n]``."""
        place = self.first[start:stop] - self.first[start]
        near = values[place]
        further: Floats = values[place + 1]
        further -= near
        further *= self.share[start:stop]
        further += near
        return further


_MAKERS: dict[str, Callable[[_Logits, Floats, Floats], tuple[Window, Pixels]]] = {
    "low": _low, "upsampled": _upsampled, "fine": _fine}
MODES = (*_MAKERS, "soft")
