"""`yolov7.data.render` on a device, for many canvases at once: the same geometry, coordinates in float32.

A pixel shows the last tile that its origin lies in, bilinear between the four pixels around it; there is no loop over
images, only one over the tiles of a canvas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov7.data.images import PAD_COLOUR
from yolov7.data.packing import Layer

CHUNK_PIXELS = 1 << 23  # rendered at once: bounds what is between the steps
_COLUMNS = 9  # of a tile: left, top, right, bottom on the canvas; x, y of its corner; place of its pixels; its sides


class Tiles(NamedTuple):
    """Images at the size of tiles, their planes one behind the other."""

    pixels: Tensor  # uint8 [n]
    places: Mapping[int, int]  # where those of an image begin


def render_layers(layers: Sequence[Layer], size: tuple[int, int], tiles: Tiles) -> Tensor:
    """Images uint8 ``[R, 3, H, W]`` of R layers of one ``size`` (height, width), without their masks."""
    device = tiles.pixels.device
    images = torch.empty(len(layers), 3, *size, dtype=torch.uint8, device=device)
    order = sorted(range(len(layers)), key=lambda row: len(layers[row].tiles))  # as many tiles at once as needed
    step = max(CHUNK_PIXELS // (size[0] * size[1]), 1)
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        table = _table([layers[row] for row in rows], tiles.places).to(device)
        matrices = torch.from_numpy(np.stack([np.linalg.inv(layers[row].matrix) for row in rows]))
        images[torch.tensor(rows, device=device)] = _rendered(table, matrices.float().to(device), size, tiles.pixels)
    return images


def _table(layers: Sequence[Layer], places: Mapping[int, int]) -> Tensor:
    """The tiles of each layer: int64 ``[R, K, 9]``; those that are none are seen nowhere."""
    table = np.zeros((len(layers), max(len(layer.tiles) for layer in layers) or 1, _COLUMNS), np.int64)
    for rows, layer in zip(table, layers, strict=True):
        for row, tile in zip(rows, layer.tiles, strict=False):
            row[:] = (*tile.window(layer.side), *tile.corner, places[tile.index], *tile.shape)
    return torch.from_numpy(table)


def _rendered(table: Tensor, matrices: Tensor, size: tuple[int, int], pixels: Tensor) -> Tensor:
    x, y = _origins(matrices, size)  # [R, H, W]
    shown = torch.full(x.shape, -1, dtype=torch.int64, device=x.device)
    for number in range(table.shape[1]):
        left, top, right, bottom = (table[:, number, column].float().sub(0.5)[:, None, None] for column in range(4))
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)  # a pixel reaches half a pixel around its place
        shown = torch.where(inside, number, shown)
    row = torch.arange(len(table), device=x.device)[:, None, None] * table.shape[1] + shown.clamp(min=0)
    of_pixel = [column[row] for column in table.reshape(-1, _COLUMNS).unbind(1)]  # each [R, H, W]
    left, top, right, bottom, corner_x, corner_y, place, height, width = of_pixel
    first_x, second_x, share_x = _neighbours(x, left, right, corner_x)
    first_y, second_y, share_y = _neighbours(y, top, bottom, corner_y)
    upper, lower = place + first_y * width, place + second_y * width
    grey = shown < 0
    images = torch.empty(len(table), 3, *size, dtype=torch.uint8, device=x.device)
    for channel in range(3):
        seen = _between(_between(pixels[upper + first_x], pixels[upper + second_x], share_x),
                        _between(pixels[lower + first_x], pixels[lower + second_x], share_x), share_y)
        images[:, channel] = torch.where(grey, PAD_COLOUR[channel], seen.add_(0.5)).to(torch.uint8)
        upper += width * height
        lower += width * height
    return images


def _origins(matrices: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, x and y: float32 ``[R, H, W]``; nowhere where that is behind the horizon."""
    v, u = torch.meshgrid(*(torch.arange(side, dtype=torch.float32, device=matrices.device) for side in size),
                          indexing="ij")
    x, y, depth = (matrices[:, i, 0, None, None] * u + matrices[:, i, 1, None, None] * v
                   + matrices[:, i, 2, None, None] for i in range(3))
    depth = torch.where(depth > 0, depth, -torch.inf)
    return torch.where(depth > 0, x / depth, -1e9), torch.where(depth > 0, y / depth, -1e9)


def _neighbours(at: Tensor, low: Tensor, high: Tensor, corner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the two pixels of the tile around a place, and the share of the second one."""
    inside = torch.minimum(torch.maximum(at, low), high - 1)
    first = inside.floor()
    share = inside - first
    first = first.long()
    second = torch.minimum(first + 1, high - 1)
    return first - corner, second - corner, share


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(first.float(), second.float(), share)
