"""`yolov7.data.images.letterbox` on the device of an image: the same pixels, without the host.

OpenCV enlarges and shrinks bytes in whole numbers: weights of 11 bits, of which each axis rounds in its own way. So do
these, so that a network sees the very same bytes wherever the image was made ready.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from yolov7.data.images import PAD_COLOUR, fit

ONE = 1 << 11  # the weight 1
SIZES_KEPT = 64  # of axes whose weights stay on the device: a video has two

Axis = tuple[Tensor, Tensor, Tensor, Tensor]  # first and second source pixel and their weights, of each new pixel


def letterbox_on_device(image: Tensor, shape: int | tuple[int, int], stride: int = 32,
                        auto: bool = True) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """See `letterbox`: an RGB image uint8 ``[H, W, 3]`` -> uint8 ``[3, h, w]`` on its device, its gain and pad."""
    found = fit((image.shape[0], image.shape[1]), shape, stride, auto)
    resized = resize(image, found.size)
    height, width = found.size
    top, left = found.spare[0] // 2, found.spare[1] // 2
    whole = image.new_full((3, height + found.spare[0], width + found.spare[1]), PAD_COLOUR[0])  # a grey
    whole[:, top : top + height, left : left + width] = resized.permute(2, 0, 1)
    return whole, found.gain, found.pad


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 ``[H, W, 3]`` at another size (height, width), with the bytes of OpenCV's ``INTER_LINEAR``."""
    old = image.shape[0], image.shape[1]
    if old == size:
        return image
    pixels = image.int()
    if old == (2 * size[0], 2 * size[1]):  # the mean of four, here as there
        quarters = pixels.view(size[0], 2, size[1], 2, 3)
        return (quarters.sum(dim=(1, 3), dtype=torch.int32) + 2 >> 2).to(torch.uint8)
    first, second, near, far = _axis(old[1], size[1], True, image.device)
    rows = pixels[:, first] * near[:, None] + pixels[:, second] * far[:, None] >> 4
    first, second, near, far = _axis(old[0], size[0], False, image.device)
    upper, lower = rows[first] * near[:, None, None] >> 16, rows[second] * far[:, None, None] >> 16
    return (upper + lower + 2 >> 2).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=SIZES_KEPT)
def _axis(old: int, new: int, whole_at_ends: bool, device: torch.device) -> Axis:
    """Pixels and weights of an axis; beyond its ends a pixel weighs 1, or twice as the two parts that it would be."""
    place = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    if whole_at_ends:
        share[(first < 0) | (first >= old - 1)] = 0
    weights = [np.rint(part * np.float32(ONE)).astype(np.int32) for part in (1 - share, share)]
    parts = (first.clip(0, old - 1), (first + 1).clip(0, old - 1), *weights)
    first_of, second_of, near, far = (torch.from_numpy(part).to(device) for part in parts)
    return first_of, second_of, near, far
