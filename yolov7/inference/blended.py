"""Masks by blending after the network: NMS on scores that count the mask, and pasting into native pixels.

The score of a detection is class times objectness times that of its mask (docs/reference.md, Mask blending): how sure
its pixels are, or what `MaskIoUHead` predicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from yolov7.inference.nms import NMSOptions, nms_image, to_native
from yolov7.masks import CELL, GRID, Masks, masks_from
from yolov7.model.blending import blend, mask_scores, pool
from yolov7.model.heads.base import Predictions
from yolov7.structures import ImageMeta, Instances

AT_A_TIME = 256  # masks that are made together: 16 MB for each copy of their five maps
SET = 0.5  # a pixel of at least this is one of the object
SPARE = 2  # times as many detections are kept before masks change their order


def select_all(predictions: Predictions, options: NMSOptions) -> Instances:
    """NMS on the scores with those of the masks, which are made of all candidates: the published way."""
    likely = (predictions.objectness > options.confidence) & predictions.boxes.isfinite().all(-1)
    rows = likely.nonzero().flatten()
    boxes, columns = predictions.boxes[rows], {name: column[rows] for name, column in predictions.extra.items()}
    objectness = predictions.objectness[rows].float() * _scores(boxes, columns, predictions.maps)
    found = nms_image(replace(predictions, boxes=boxes, objectness=objectness, classes=predictions.classes[rows],
                              extra=columns), options)
    return _with_grids(found, predictions.maps)


def select_kept(predictions: Predictions, options: NMSOptions) -> Instances:
    """NMS on class times objectness; the scores of what it keeps are then multiplied by those of the masks."""
    found = nms_image(predictions, replace(options, max_detections=SPARE * options.max_detections))
    found = _with_grids(found, predictions.maps)
    quality = found.extra.get("mask_iou")
    scores = found.scores * (mask_scores(found.extra["grids"]) if quality is None else quality[:, 0])
    order = scores.argsort(descending=True, stable=True)[: options.max_detections]
    found = replace(found, scores=scores)[order]
    return found[found.scores > options.confidence]


def select_without(predictions: Predictions, options: NMSOptions) -> Instances:
    """NMS on class times objectness, as a detector's; masks do not count."""
    return _with_grids(nms_image(predictions, options), predictions.maps)


SELECTIONS = {"all": select_all, "kept": select_kept, "none": select_without}


@torch.no_grad()
def _scores(boxes: Tensor, columns: Mapping[str, Tensor], maps: Mapping[str, Tensor]) -> Tensor:
    """How good the masks of detections of an image are: float32 ``[N]`` in 0..1."""
    if "mask_iou" in columns:
        return columns["mask_iou"][:, 0].float()
    parts = [mask_scores(masks) for masks in _grids(boxes, columns["attention"], maps)]
    return torch.cat([boxes.new_zeros(0, dtype=torch.float32), *parts])


@torch.no_grad()
def _with_grids(found: Instances, maps: Mapping[str, Tensor]) -> Instances:
    """The column ``grids``, masks in their boxes, in place of the attention: float32 ``[N, GRID, GRID]`` in 0..1."""
    grids = [found.boxes.new_zeros(0, GRID, GRID), *_grids(found.boxes, found.extra["attention"], maps)]
    others = {name: column for name, column in found.extra.items() if name != "attention"}
    return replace(found, extra={**others, "grids": torch.cat(grids)})


def _grids(boxes: Tensor, attention: Tensor, maps: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The masks of detections, some at a time, on the device of the network."""
    joined = torch.cat((maps["bases"], maps["semantic"])).float()[None]
    image = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for start in range(0, len(boxes), AT_A_TIME):
        part = slice(start, start + AT_A_TIME)
        yield blend(attention[part], pool(joined, boxes[part].float(), image[part], CELL)).sigmoid()


# --- in native pixels --------------------------------------------------------------------------------------------


def finish_blended(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """The task's `Finish`: the columns of the network are replaced by ``masks``: `Masks` in native pixels."""
    native = (found.boxes.double().numpy() - np.array(meta.pad * 2)) / np.array(meta.gain * 2)
    masks = paste(found.extra["grids"], native, meta.size)
    kept = {name: column for name, column in found.extra.items() if name not in ("grids", "mask_iou")}
    return replace(to_native(found, maps, meta), extra={**kept, "masks": masks})


def paste(grids: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> Masks:
    """Masks ``[N, GRID, GRID]`` in 0..1 of boxes xyxy ``[N, 4]`` in pixels of an image of this height and width.

    A pixel is set where the grid, bilinear at its centre and 0 outside, is at least 0.5.
    """
    windows, parts = [], []
    ringed = np.pad(grids.float().numpy(), ((0, 0), (1, 1), (1, 1)))
    for grid, (x1, y1, x2, y2) in zip(ringed, boxes.tolist(), strict=True):
        (left, column, across), (top, row, down) = (_places(*ends) for ends in ((x1, x2, size[1]), (y1, y2, size[0])))
        columns = np.ascontiguousarray(_between(grid.T, column, across).T)  # [GRID + 2, w]
        pixels = _between(columns, row, down) >= SET
        windows.append((left, top, left + len(column), top + len(row)) if pixels.size else (0, 0, 0, 0))
        parts.append(pixels if pixels.size else np.zeros((0, 0), bool))
    return masks_from(windows, parts, size)


def _between(values: np.ndarray, place: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rows of values ``[m, k]`` between each place and the next: ``[n, k]``."""
    near = values.take(place, axis=0)
    further: np.ndarray = values.take(place + 1, axis=0)
    further -= near
    further *= share
    further += near
    return further


def _places(low: float, high: float, count: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The first pixel of an axis that a box reaches; of each pixel the sample before its centre, in a grid with a ring
    of zeros, int64 ``[n]``, and the share of the next sample, float32 ``[n, 1]``."""
    side = high - low
    if not side > 0:
        return 0, np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    bin_side = side / GRID
    first = max(math.ceil(low - 0.5 * bin_side - 0.5), 0)
    last = min(math.floor(high + 0.5 * bin_side - 0.5), count - 1)
    places = (np.arange(first, max(last + 1, first)) + 0.5 - low) / bin_side + 0.5  # in samples, of the ring too
    before = np.floor(places).astype(np.int64).clip(0, GRID)
    return first, before, (places - before).astype(np.float32)[:, None]
