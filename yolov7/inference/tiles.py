"""Large images in tiles: small objects are seen in their own size, and one at a seam is found once.

An image is cut into square tiles that overlap, and looked at as a whole besides, for objects that no tile holds. Two
detections from different tiles are of one object where they agree in what both tiles show: the IoU of their parts in
the common area reaches a threshold. Of those the detections that no inner edge of a tile cuts come first, the best of
them; only where an edge cuts all of them their boxes and masks are put together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov7.inference.predictor import Predictor
from yolov7.masks import Masks, Window, masks_from
from yolov7.structures import Instances

EDGE = 0.01  # of a tile's side: a box that comes so near to an inner edge is cut by it
MAX_MERGED = 3000  # detections of an image, the best ones
AT_ONCE = 64  # tiles in a batch
SAME = 0.5  # IoU in the common area, unless NMS takes a lower one


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``size`` pixels of the image a side, of which neighbours share at least ``overlap``."""

    size: int
    overlap: float = 0.2

    def windows(self, height: int, width: int) -> list[Window]:
        """The tiles of an image, row by row: all of one size, the image's own where that is smaller."""
        rows, columns = (self._starts(side) for side in (height, width))
        return [(x, y, min(x + self.size, width), min(y + self.size, height)) for y in rows for x in columns]

    def _starts(self, side: int) -> list[int]:
        if side <= self.size:
            return [0]
        count = math.ceil((side - self.size) / max(self.size * (1 - self.overlap), 1)) + 1
        starts: list[int] = np.round(np.linspace(0, side - self.size, count)).astype(int).tolist()
        return starts


class TiledPredictor:
    """A predictor that looks at images in tiles, and at the whole of them."""

    def __init__(self, predictor: Predictor, tiling: Tiling) -> None:
        self.predictor, self.tiling = predictor, tiling

    def __call__(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """See `Predictor`."""
        return self.timed(images)[0]

    def timed(self, images: Sequence[np.ndarray]) -> tuple[list[Instances], dict[str, float]]:
        """See `Predictor`; the time of putting together counts as that of NMS."""
        spent: Counter[str] = Counter()
        return [self._one(image, spent) for image in images], dict(spent)

    def _one(self, image: np.ndarray, spent: Counter[str]) -> Instances:
        height, width = image.shape[:2]
        windows = self.tiling.windows(height, width)
        if len(windows) > 1:
            windows.append((0, 0, width, height))
        found: list[Instances] = []
        for start in range(0, len(windows), AT_ONCE):
            parts = [np.ascontiguousarray(image[y0:y1, x0:x1]) for x0, y0, x1, y1 in windows[start : start + AT_ONCE]]
            instances, times = self.predictor.timed(parts)
            found += instances
            spent.update(times)  # type: ignore[arg-type]
        options = self.predictor.options
        return merged(found, windows, (height, width), min(options.iou, SAME), options.agnostic, options.max_detections)


def merged(found: Sequence[Instances], windows: Sequence[Window], size: tuple[int, int], iou: float = SAME,
           agnostic: bool = False, most: int = 300) -> Instances:
    """The detections of the parts of an image of this height and width, each object once, the best first."""
    every = _joined([_moved(part, window, size) for part, window in zip(found, windows, strict=True)], size)
    if len(windows) == 1 or not len(every):
        return every
    source = torch.repeat_interleave(torch.arange(len(windows)), torch.tensor([len(part) for part in found]))
    order = every.scores.argsort(descending=True, stable=True)[:MAX_MERGED]
    every, source = every[order], source[order]
    frames = torch.tensor(windows, dtype=torch.float32)[source]  # [N, 4]
    same = _same_objects(every, frames, source, iou, agnostic)
    cut = _is_cut(every.boxes, frames, size)
    groups = _groups(same.numpy(), cut.tolist())
    result = _put_together(every, groups, size)
    return result[result.scores.argsort(descending=True, stable=True)[:most]]


def _same_objects(found: Instances, frames: Tensor, source: Tensor, iou: float, agnostic: bool) -> Tensor:
    """Which detections are of one object: bool ``[N, N]``. They agree in the common area of their tiles."""
    rows = []
    boxes, labels = found.boxes.float(), found.labels
    for index in range(len(found)):
        common = torch.cat((torch.maximum(frames[:, :2], frames[index, :2]),
                            torch.minimum(frames[:, 2:], frames[index, 2:])), 1)  # [N, 4]
        own = _inside(boxes[index].expand_as(boxes), common)
        others = _inside(boxes, common)
        both = _area(_inside(own, others))
        agree = both >= iou * (_area(own) + _area(others) - both).clamp(min=1e-6)
        fits = agree & (both > 0) & (source != source[index])
        rows.append(fits if agnostic else fits & (labels == labels[index]))
    return torch.stack(rows)


def _inside(boxes: Tensor, frames: Tensor) -> Tensor:
    return torch.cat((torch.maximum(boxes[:, :2], frames[:, :2]), torch.minimum(boxes[:, 2:], frames[:, 2:])), 1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def _is_cut(boxes: Tensor, frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Which boxes reach an edge of their tile that is none of the image: bool ``[N]``."""
    margin = EDGE * (frames[:, 2:] - frames[:, :2]).max(1).values[:, None]
    limits = torch.tensor([size[1], size[0]])
    low = (boxes[:, :2] - frames[:, :2] <= margin) & (frames[:, :2] > 0)
    high = (frames[:, 2:] - boxes[:, 2:] <= margin) & (frames[:, 2:] < limits)
    return (low | high).any(1)


def _groups(same: np.ndarray, cut: Sequence[bool]) -> list[list[int]]:
    """The rows of each object, the one that stands for it first: whole ones alone, cut ones with what they continue."""
    free = np.ones(len(cut), bool)
    groups = []
    for row in (row for row in range(len(cut)) if not cut[row]):
        if free[row]:
            free[same[row]] = free[row] = False
            groups.append([row])
    for row in range(len(cut)):
        if free[row]:
            group, waiting = [], [row]
            free[row] = False
            while waiting:
                group.append(waiting.pop(0))
                following = np.flatnonzero(same[group[-1]] & free)
                free[following] = False
                waiting += following.tolist()
            groups.append(group)
    return groups


def _put_together(found: Instances, groups: Sequence[Sequence[int]], size: tuple[int, int]) -> Instances:
    firsts = found[torch.tensor([group[0] for group in groups])]
    several = [(place, group) for place, group in enumerate(groups) if len(group) > 1]
    if not several:
        return firsts
    boxes, extra = firsts.boxes.clone(), dict(firsts.extra)
    for place, group in several:
        members = found.boxes[torch.tensor(group)]
        boxes[place] = torch.cat((members[:, :2].min(0).values, members[:, 2:].max(0).values))
    for name, column in found.extra.items():
        if isinstance(column, Masks):
            extra[name] = _unions(column, groups, size)
    return replace(firsts, boxes=boxes, extra=extra)


def _unions(masks: Masks, groups: Sequence[Sequence[int]], size: tuple[int, int]) -> Masks:
    """A mask for each group: what any of its masks covers."""
    windows: list[Window] = []
    pixels: list[np.ndarray] = []
    for group in groups:
        parts = list(masks[torch.tensor(group)])
        filled = [window for window, _ in parts if window[2] > window[0] and window[3] > window[1]] or [parts[0][0]]
        left, top = min(window[0] for window in filled), min(window[1] for window in filled)
        right, bottom = max(window[2] for window in filled), max(window[3] for window in filled)
        whole = np.zeros((bottom - top, right - left), bool)
        for (x0, y0, x1, y1), part in parts:
            if part.size:
                whole[y0 - top : y1 - top, x0 - left : x1 - left] |= part
        windows.append((left, top, right, bottom))
        pixels.append(whole)
    return masks_from(windows, pixels, size)


def _moved(found: Instances, window: Window, size: tuple[int, int]) -> Instances:
    """What was found in a part of an image, in pixels of the image. Of a task's columns masks and key points move."""
    offset = torch.tensor(window[:2])
    extra: dict[str, Any] = dict(found.extra)
    for name, column in found.extra.items():
        if isinstance(column, Masks):
            extra[name] = Masks(column.bits, column.windows + offset.repeat(2), size)
        elif name == "keypoints":
            extra[name] = torch.cat((column[..., :2] + offset, column[..., 2:]), -1)
    return replace(found, boxes=found.boxes + offset.repeat(2), extra=extra)


def _joined(parts: Sequence[Instances], size: tuple[int, int]) -> Instances:
    """All rows, one part after the other."""
    first = parts[0]
    extra: dict[str, Any] = {}
    for name, column in first.extra.items():
        columns = [part.extra[name] for part in parts]
        extra[name] = Masks(torch.cat([one.bits for one in columns]), torch.cat([one.windows for one in columns]),
                            size) if isinstance(column, Masks) else torch.cat(columns)
    return replace(first, boxes=torch.cat([part.boxes for part in parts]),
                   scores=torch.cat([part.scores for part in parts]),
                   labels=torch.cat([part.labels for part in parts]), extra=extra)
