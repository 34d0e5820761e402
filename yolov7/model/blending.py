"""Attention and maps of an image -> masks of boxes (BlendMask; docs/reference.md, Mask blending).

A mask is a grid over its box: the maps are sampled there (ROI-align), and blended with weights that the attention of
the prediction gives. Loss, inference and exported graphs share these functions; `sample_grids` does with matrix
products, which any runtime has, what `pool` does with torchvision's operator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import roi_align

from yolov7.config import InputError
from yolov7.masks import GRID


def pool(maps: Tensor, boxes: Tensor, image: Tensor, stride: int) -> Tensor:
    """Maps ``[B, K, h, w]`` in boxes ``[N, 4]`` of images int64 ``[N]``: ``[N, K, GRID, GRID]``.

    ``boxes`` are xyxy pixels of the network input, of which a cell has ``stride``. One bilinear sample at the centre of
    each bin; beyond the outermost cells' centres their values, more than half a cell outside of the map 0.
    """
    rois = torch.cat((image[:, None].to(boxes.dtype), boxes), dim=1)
    pooled: Tensor = roi_align(maps, rois, GRID, 1 / stride, 1, aligned=True)
    return pooled


def sample_grids(maps: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """`pool` of boxes ``[B, N, 4]`` of each image, by matrix products: ``[B, N, K, GRID, GRID]``."""
    steps = (torch.arange(GRID, device=boxes.device, dtype=torch.float32) + 0.5) / GRID
    low, high = (boxes[..., None, 0:2], boxes[..., None, 2:4])  # [B, N, 1, 2]
    places = (low + (high - low) * steps[:, None]) / stride - 0.5  # [B, N, GRID, 2] x, y in cells
    across = _shares_clamped(places[..., 0], maps.shape[3])  # [B, N, GRID, w]
    down = _shares_clamped(places[..., 1], maps.shape[2])  # [B, N, GRID, h]
    columns = maps[:, None] @ across.transpose(2, 3)[:, :, None]  # [B, N, K, h, GRID]
    sampled: Tensor = down[:, :, None] @ columns
    return sampled


def blend(attention: Tensor, pooled: Tensor, side: int = 0) -> Tensor:
    """Logits of masks ``[N, GRID, GRID]`` of attention ``[N, K * side^2]`` and maps ``[N, K, GRID, GRID]``."""
    count = pooled.shape[1]
    side = side or attention_side(attention.shape[1], count)
    # bilinear, corners not aligned: by products several times faster than torch's own on a CPU
    places = (torch.arange(GRID, device=pooled.device, dtype=torch.float32) + 0.5) * (side / GRID) - 0.5
    enlarge = bilinear_shares(places.clamp(0, side - 1), side).T  # [side, GRID]
    coarse = attention.float().reshape(-1, side, side).transpose(1, 2)
    rows = (coarse.reshape(-1, side) @ enlarge).view(-1, side, GRID).transpose(1, 2)
    fine = (rows.reshape(-1, side) @ enlarge).view(-1, count, GRID, GRID)
    return (fine.softmax(dim=1) * pooled).sum(dim=1)


def attention_side(numbers: int, maps: int) -> int:
    """Rows and columns of an attention of so many numbers over so many maps; `InputError` where there are none."""
    side = math.isqrt(numbers // maps)
    if not side or maps * side**2 != numbers:
        raise InputError(f"weights: the attention has {numbers} numbers; accepted: a square for each of {maps} maps")
    return side


def mask_scores(masks: Tensor) -> Tensor:
    """How sure masks ``[N, GRID, GRID]`` in 0..1 are: the geometric mean of max(m, 1 - m), ``[N]`` in 0.5..1."""
    return torch.maximum(masks, 1 - masks).log().flatten(1).mean(dim=1).exp()


def paste_grids(masks: Tensor, boxes: Tensor, size: tuple[int, int], stride: float) -> Tensor:
    """Grids ``[B, N, GRID, GRID]`` in the cells of an image: ``[B, N, h, w]``, bilinear, 0 outside.

    ``size`` is the height and width in cells of ``stride`` pixels, of which ``boxes`` ``[B, N, 4]`` are.
    """
    down, across = (paste_shares(boxes[..., axis], boxes[..., axis + 2], count, stride)
                    for axis, count in zip((1, 0), size, strict=True))
    pasted: Tensor = down @ masks @ across.transpose(2, 3)
    return pasted


def paste_shares(low: Tensor, high: Tensor, count: int, stride: float) -> Tensor:
    """Shares of a grid's rows in each of ``count`` cells, of boxes from ``low`` to ``high``: ``[..., count, GRID]``.

    A cell's centre lies between the centres of two rows of the grid.
    """
    centres = (torch.arange(count, device=low.device, dtype=torch.float32) + 0.5) * stride
    side = (high - low).clamp(min=1e-6)[..., None]
    return bilinear_shares((centres - low[..., None]) / side * GRID - 0.5, GRID)


def bilinear_shares(places: Tensor, count: int) -> Tensor:
    """Bilinear shares of ``count`` samples at places ``[...]`` between them: ``[..., count]``."""
    return (1 - (places[..., None] - torch.arange(count, device=places.device, dtype=torch.float32)).abs()).clamp(min=0)


def _shares_clamped(places: Tensor, count: int) -> Tensor:
    """As ROI-align has it: the outermost samples reach half a cell beyond the map, there is nothing further outside."""
    inside = (places >= -1) & (places <= count)
    return bilinear_shares(places.clamp(0, count - 1), count) * inside[..., None]
