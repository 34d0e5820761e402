"""Multi-scale training: batches of a size that is drawn anew for each (docs/reference.md, Multi-scale training)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn import functional

from yolov7.data.loader import Field
from yolov7.structures import Targets

MIN_SCALE, MAX_SCALE = 0.5, 1.5  # times the training size

Size = tuple[int, int]  # height, width


def draw_size(image_size: int, stride: int, key: tuple[int, int, int]) -> int:
    """A multiple of ``stride`` from 0.5 to 1.5 times the size; a function of the key (seed, epoch, iteration) alone."""
    rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(2,)))  # not the stream of a sample
    return int(rng.integers(int(MIN_SCALE * image_size), int(MAX_SCALE * image_size) + stride)) // stride * stride


def scaled_size(size: Size, longest: int, stride: int) -> Size:
    """Height and width of images of this size once their long side is ``longest``: multiples of ``stride``."""
    factor = longest / max(size)
    height, width = (math.ceil(side * factor / stride) * stride for side in size)
    return height, width


def resize_images(images: Tensor, size: Size) -> Tensor:
    """Images float ``[B, 3, H, W]`` at another size."""
    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def resize_targets(targets: Targets, old: Size, new: Size, fields: Sequence[Field] = ()) -> Targets:
    """The targets of images that get another size."""
    if old == new:
        return targets
    x, y = new[1] / old[1], new[0] / old[0]
    extra, maps = dict(targets.extra), dict(targets.maps)
    for item in fields:
        if item.resize is not None:
            table = extra if item.per_object else maps
            table[item.name] = item.resize(table[item.name], (x, y))
    boxes = targets.boxes * targets.boxes.new_tensor((x, y, x, y))
    return replace(targets, boxes=boxes, extra=extra, maps=maps)
