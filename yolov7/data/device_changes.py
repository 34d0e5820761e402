"""The changes of `yolov7.data.pixel_changes` on a device, for many images uint8 ``[N, 3, H, W]`` at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from yolov7.data.pixel_changes import Blend, Cover, Flip, Lookup, ScaleHsv, scaled_levels

ROUNDING = 1e-4  # below a whole number by less than this counts as that number
HSV_SHIFT = 12  # bits behind the point


def flip(images: Tensor, changes: Sequence[Flip]) -> Tensor:
    """Each along its own axis."""
    horizontal = _column([change.horizontal for change in changes], images)
    return torch.where(horizontal, images.flip(-1), images.flip(-2))


def blend(images: Tensor, changes: Sequence[Blend]) -> Tensor:
    """Each with its partner."""
    share = _column([change.share for change in changes], images, torch.float32)
    partners = torch.stack([change.partner for change in changes])
    mixed = images.float().mul_(share).add_(partners.float().mul_(1 - share)).add_(ROUNDING)
    return mixed.floor_().clamp_(0, 255).to(torch.uint8)


def look_up(images: Tensor, changes: Sequence[Lookup]) -> Tensor:
    """Each by its own table."""
    return _by_table(images, np.stack([change.table for change in changes]))


def _by_table(values: Tensor, tables: np.ndarray) -> Tensor:
    """Values uint8 ``[N, ...]`` by one table each, ``[N, 256]``."""
    table = torch.from_numpy(tables).to(values.device)
    first = torch.arange(len(values), device=values.device).mul_(256).view(-1, *[1] * (values.dim() - 1))
    return table.view(-1)[values.long() + first]


def cover(images: Tensor, changes: Sequence[Cover]) -> Tensor:
    """Each with its patches."""
    covered = images.clone()
    for image, change in zip(covered, changes, strict=True):
        for x, y, pixels, mask in change.patches:
            height, width = mask.shape
            view = image[:, y : y + height, x : x + width]
            view.copy_(torch.where(mask > 0, pixels.permute(2, 0, 1), view))
    return covered


def scale_hsv(images: Tensor, changes: Sequence[ScaleHsv]) -> Tensor:
    """Hue, saturation and value of each times its factors, with the rounding of OpenCV's 8 bits on the way there."""
    hue, saturation, value = _to_hsv(images)
    hue = _by_table(hue, np.stack([change.hues for change in changes]))
    saturation, value = (_by_table(plane, np.stack([scaled_levels(change.gains[number]) for change in changes]))
                         for number, plane in ((1, saturation), (2, value)))
    return _to_rgb(hue, saturation, value)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue 0 ... 179, saturation and value 0 ... 255, each uint8 ``[N, H, W]``."""
    red, green, blue = images.int().unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    span = value - torch.minimum(torch.minimum(red, green), blue)
    of_value, of_span = _divisors(images.device)
    half = 1 << HSV_SHIFT - 1
    saturation = span * of_value[value] + half >> HSV_SHIFT
    sector = torch.where(value == red, green - blue,
                         torch.where(value == green, blue - red + 2 * span, red - green + 4 * span))
    hue = sector * of_span[span] + half >> HSV_SHIFT
    hue = torch.where(hue < 0, hue + 180, hue)
    return hue.to(torch.uint8), saturation.to(torch.uint8), value.to(torch.uint8)


@lru_cache(maxsize=8)
def _divisors(device: torch.device) -> tuple[Tensor, Tensor]:
    """255 / v and 30 / d of 1 ... 255 in `HSV_SHIFT` bits, 0 of 0: int32 ``[256]`` each."""
    numbers = np.arange(1, 256)
    return tuple(torch.from_numpy(np.concatenate(([0], np.rint((top << HSV_SHIFT) / numbers))).astype(np.int32)
                                  ).to(device) for top in (255, 30))  # type: ignore[return-value]


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sixths, share, top = hue.float().div_(30), saturation.float().div_(255), value.float()
    planes = []
    for offset in (5, 3, 1):  # red, green, blue: how far a hue is from where the channel is weak
        place = torch.remainder(sixths + offset, 6)
        weak = torch.minimum(place, 4 - place).clamp_(0, 1)
        planes.append(top - top * share * weak)
    return torch.stack(planes, dim=1).to(torch.uint8)


def _column(values: Sequence[float], images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """One value for each image, shaped to meet them."""
    return torch.tensor(values, dtype=dtype).to(images.device, non_blocking=True).view(-1, 1, 1, 1)


BY_KIND: dict[type, Callable[..., Tensor]] = {
    Flip: flip, Blend: blend, ScaleHsv: scale_hsv, Cover: cover, Lookup: look_up}
