"""Batches of another size each: ``--multi-scale`` (spec of training, section 10)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn import functional

from yolov7.structures import Targets

LEAST, LARGEST = 0.5, 1.5  # times the training size


def draw_size(image_size: int, stride: int, key: tuple[int, int, int]) -> int:
    """A multiple of ``stride`` from 0.5 to 1.5 times the size; a function of the key (seed, epoch, iteration) alone."""
    rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(2,)))  # not the stream of a sample
    return int(rng.integers(int(LEAST * image_size), int(LARGEST * image_size) + stride)) // stride * stride


def resize_batch(images: Tensor, targets: Targets, size: int, stride: int) -> tuple[Tensor, Targets]:
    """Images float ``[B, 3, H, W]`` with a long side of ``size``, sides multiples of ``stride``, and their targets."""
    height, width = images.shape[2:]
    factor = size / max(height, width)
    new_height, new_width = (math.ceil(side * factor / stride) * stride for side in (height, width))
    if (new_height, new_width) == (height, width):
        return images, targets
    resized = functional.interpolate(images, size=(new_height, new_width), mode="bilinear", align_corners=False)
    x, y = new_width / width, new_height / height
    return resized, replace(targets, boxes=targets.boxes * targets.boxes.new_tensor((x, y, x, y)))
