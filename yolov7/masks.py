"""Masks of the objects of one image, each kept as the pixels of its own window: 100 masks take little more than one.

A window is a rectangle of whole pixels of the image; outside of it a mask is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

CELL = 4  # pixels of the network input in a cell of the maps that masks are made of
GRID = 56  # rows and columns of a mask that is kept as a grid over its box (BlendMask)
Window = tuple[int, int, int, int]  # xyxy pixels of the image; right and bottom are outside
Ring = np.ndarray  # int32 [K, 2] x, y: corners of pixels, not closed
Rle = dict[str, Any]  # COCO's run-length mask: size (height, width) and counts, compressed


@dataclass(frozen=True, eq=False)
class Masks:
    """A column of N masks: it is indexed, moved and pickled as a tensor of N rows is."""

    bits: Tensor  # bool [T]: the pixels of all windows, one window after the other, row by row
    windows: Tensor  # int64 [N, 4] xyxy pixels of the image; right and bottom are outside
    size: tuple[int, int]  # height and width of the image

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def counts(self) -> Tensor:
        """The pixels of each window: int64 ``[N]``."""
        return (self.windows[:, 2:] - self.windows[:, :2]).prod(1)

    def __getitem__(self, rows: Tensor | slice) -> Masks:
        """These masks: a slice, a mask ``[N]`` or indices."""
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        counts = self.counts
        starts = counts.cumsum(0) - counts
        counts, starts, windows = counts[rows], starts[rows], self.windows[rows]
        before = counts.cumsum(0) - counts
        every = torch.arange(int(counts.sum()), device=counts.device)
        places = torch.repeat_interleave(starts - before, counts) + every
        return Masks(self.bits[places], windows, self.size)

    def of(self, index: int) -> Tensor:
        """The pixels of one window: bool ``[h, w]``."""
        counts = self.counts
        start = int(counts[:index].sum())
        left, top, right, bottom = self.windows[index].tolist()
        return self.bits[start : start + (right - left) * (bottom - top)].view(bottom - top, right - left)

    def __iter__(self) -> Iterator[tuple[Window, np.ndarray]]:
        """Window xyxy and pixels bool ``[h, w]`` of one mask after the other: views, on the CPU."""
        bits, start = self.bits.numpy(), 0
        for left, top, right, bottom in self.windows.tolist():
            stop = start + (right - left) * (bottom - top)
            yield (left, top, right, bottom), bits[start:stop].reshape(bottom - top, right - left)
            start = stop

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks(self.bits.to(device), self.windows.to(device), self.size)

    def dense(self) -> Tensor:
        """All masks in images of their own: bool ``[N, H, W]``."""
        whole = torch.zeros(len(self), *self.size, dtype=torch.bool)
        for row, ((left, top, right, bottom), pixels) in zip(whole, self.to("cpu"), strict=True):
            row[top:bottom, left:right] = torch.from_numpy(pixels)
        return whole.to(self.bits.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by value, eight pixels a byte, as `yolov7.runtime.by_value` does with tensors; arrives on the CPU."""
        here = self.to("cpu")
        packed = np.packbits(here.bits.numpy()).tobytes()
        return _unpickled, (packed, len(here.bits), here.windows.tolist(), self.size)

    # --- as numbers, runs and polygons ---------------------------------------------------------------------------

    @property
    def area(self) -> Tensor:
        """The pixels that are set in each mask: int64 ``[N]``."""
        before = torch.cat((self.bits.new_zeros(1, dtype=torch.int64), self.bits.cumsum(0)))
        counts = self.counts
        stops = counts.cumsum(0)
        return before[stops] - before[stops - counts]

    @cached_property
    def rles(self) -> list[Rle]:
        """All masks as COCO's results have them: ``size`` and ``counts``, a text. They are made once."""
        from pycocotools import mask as coco_mask

        height, width = self.size
        runs = [{"size": [height, width], "counts": runs_of_window(window, pixels, self.size).tolist()}
                for window, pixels in self.to("cpu")]
        packed = coco_mask.frPyObjects(runs, height, width) if runs else []
        return [{"size": [height, width], "counts": rle["counts"].decode("ascii")} for rle in packed]

    def rle(self, index: int) -> Rle:
        """One mask as COCO's results have it: see `rles`."""
        return self.rles[index]

    def polygons(self, index: int) -> list[tuple[Ring, list[Ring]]]:
        """The parts of one mask: of each its outer ring and the rings of its holes, in corners of pixels.

        Pixel ``(x, y)`` covers ``x ... x + 1`` and ``y ... y + 1``: it is set where its centre lies inside the outer
        ring and in no hole, so that filling the rings gives the mask back exactly, and the area of a ring is a number
        of pixels. Pixels that touch at a corner are of one part; holes that do are two.
        """
        left, top, _, _ = self.windows[index].tolist()
        return outlines(self.of(index).cpu().numpy(), (left, top))

    def iou(self, other: Masks) -> np.ndarray:
        """Intersection over union of every mask with every one of others of the same image: float64 ``[N, M]``.

        Without an epsilon; two empty masks give 0.
        """
        return rle_iou(self.rles, other.rles)


def _unpickled(packed: bytes, count: int, windows: list[list[int]], size: tuple[int, int]) -> Masks:
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
    return Masks(torch.from_numpy(bits), torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), size)


def masks_from(windows: list[Window], pixels: list[np.ndarray], size: tuple[int, int]) -> Masks:
    """Masks of windows xyxy with pixels bool ``[h, w]`` each, in an image of this height and width."""
    bits = np.concatenate([np.zeros(0, bool), *(part.reshape(-1).astype(bool) for part in pixels)])
    return Masks(torch.from_numpy(bits), torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), size)


# --- runs --------------------------------------------------------------------------------------------------------


def runs_of_window(window: Window, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The lengths of the runs of zeros and ones of a mask in turn, down the columns of its image: int64 ``[R]``.

    ``pixels`` bool ``[h, w]`` are those of its window; no image of this ``size`` (height, width) is made.
    """
    (left, top, right, bottom), (height, width) = window, size
    columns = np.zeros((right - left, bottom - top + 2), np.int8)
    columns[:, 1:-1] = pixels.T
    x, y = np.nonzero(np.diff(columns, axis=1))  # where a run begins or ends, in turn: [2 * runs]
    places = (x + left) * height + y + top
    ends, begins = places[1:-1:2], places[2::2]
    parted = ends != begins  # a run to the end of a column goes on at the start of the next one
    inner = np.stack((ends[parted], begins[parted]), axis=1).reshape(-1)
    lengths: np.ndarray = np.diff(np.concatenate(([0], places[:1], inner, places[-1:], [height * width])))
    return lengths if len(lengths) < 2 or lengths[-1] else lengths[:-1]


def runs_of_text(counts: str | bytes) -> list[int]:
    """COCO's compressed counts as lengths of runs: 5 bits a character, lowest first, from the third on as differences.

    Raises `ValueError` for a text that is none; pycocotools takes it as it is, and reads beyond its memory.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts if isinstance(counts, bytes) else counts.encode():
        bits = code - 48
        if not 0 <= bits < 64 or shift > 25:
            raise ValueError("a character or a number that no count has")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("it ends within a count")
    return runs


def masks_of_rles(rles: Sequence[Rle], size: tuple[int, int]) -> Masks:
    """The masks of `Masks.rles`, each in the smallest window that holds it."""
    windows, parts = [], []
    for rle in rles:
        window, pixels = _tight(pixels_of_runs(runs_of_text(rle["counts"]), size))
        windows.append(window)
        parts.append(pixels)
    return masks_from(windows, parts, size)


def pixels_of_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """A mask of runs in the whole image: bool ``[H, W]``."""
    height, width = size
    kinds = np.arange(len(runs)) % 2 > 0
    pixels: np.ndarray = np.repeat(kinds, runs).reshape(width, height).T
    return pixels


def rle_iou(first: Sequence[Rle], second: Sequence[Rle]) -> np.ndarray:
    """Intersection over union of run-length masks of one image, by pycocotools: float64 ``[N, M]``."""
    from pycocotools import mask as coco_mask

    if not first or not second:
        return np.zeros((len(first), len(second)))
    iou = np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)), np.float64)
    return np.nan_to_num(iou.reshape(len(first), len(second)), copy=False)


# --- outlines ----------------------------------------------------------------------------------------------------


def outlines(pixels: np.ndarray, offset: tuple[int, int] = (0, 0)) -> list[tuple[Ring, list[Ring]]]:
    """The parts of a mask bool ``[h, w]``, the largest outer ring first: see `Masks.polygons`.

    ``offset`` (x, y) is added to all points.
    """
    import cv2  # is there already wherever a mask comes from

    if not pixels.any():
        return []
    doubled = pixels.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # doubled pixels 2x and 2x + 1 stand for the edges x and x + 1 of pixel x
    rings = [_corners((contour[:, 0] + 1) // 2) + np.array(offset, np.int32) for contour in contours]
    parts: dict[int, tuple[Ring, list[Ring]]] = {}
    holes = []
    for index, (_, _, _, parent) in enumerate(hierarchy[0].tolist()):
        if parent < 0:
            parts[index] = (rings[index], [])
        else:
            holes.append((parent, rings[index]))
    for parent, ring in holes:
        parts[parent][1].append(ring)
    return sorted(parts.values(), key=lambda part: -ring_area(part[0]))


def ring_area(ring: Ring) -> float:
    """The area inside a ring ``[K, 2]``."""
    x, y = ring.astype(np.float64).T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def _corners(ring: Ring) -> Ring:
    """Without points that repeat their predecessor or lie on the line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: Ring = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return turns


def _tight(pixels: np.ndarray) -> tuple[Window, np.ndarray]:
    """The smallest window of a whole image bool ``[H, W]`` that holds all its set pixels, and those pixels."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return (0, 0, 0, 0), pixels[:0, :0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return (left, top, right, bottom), pixels[top:bottom, left:right]
