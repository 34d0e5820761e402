"""Changes of a sample: letterbox, flips, colours, mix-up, cutout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from yolov7.data.images import letterbox
from yolov7.data.objects import Objects, Sample, concatenate
from yolov7.data.picture import changed
from yolov7.data.pixel_changes import Blend, Cover, Flip, Patch, PixelChange, ScaleHsv

CUTOUT_SIZES = (0.5,) + (0.25,) * 2 + (0.125,) * 4 + (0.0625,) * 8 + (0.03125,) * 16  # of the image's sides
MAX_COVERED = 0.30  # share of an object's area that something pasted may cover
EPSILON = 1e-16


Change = Callable[[Sample, np.random.Generator], Sample]


def sometimes(probability: float, change: Change) -> Change:
    """The change with a probability; with 0 nothing is drawn."""

    def draw(sample: Sample, rng: np.random.Generator) -> Sample:
        return change(sample, rng) if probability and rng.random() < probability else sample

    return draw


def intersection_over_area(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which part of each of ``boxes`` ``[N, 4]`` one box covers: ``[N]`` in 0..1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    share: np.ndarray = (high - low).clip(0).prod(1) / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + EPSILON)
    return share


def letterbox_sample(sample: Sample, shape: tuple[int, int], scale_up: bool) -> Sample:
    """Fit a sample into exactly ``shape`` (height, width); gain and pad are recorded in its ``meta``."""
    image, gain, pad = letterbox(sample.pixels, shape, auto=False, scale_up=scale_up)
    first = sample.meta.gain
    meta = replace(sample.meta, gain=(first[0] * gain[0], first[1] * gain[1]), pad=pad)
    return Sample(image, sample.objects.placed(np.array(gain), np.array(pad)), meta)


# --- flips -----------------------------------------------------------------------------------------------------


def flip(sample: Sample, axis: Literal["horizontal", "vertical"], keypoint_order: tuple[int, ...] = ()) -> Sample:
    """Mirror a sample: ``horizontal`` swaps left and right, and key points as `mirrored_order` says."""
    height, width = sample.image.shape[:2]
    horizontal = axis == "horizontal"
    scale, offset = ((-1, 1), (width, 0)) if horizontal else ((1, -1), (0, height))
    objects = sample.objects.placed(np.array(scale), np.array(offset))
    if horizontal and keypoint_order:
        objects = replace(objects, keypoints=objects.keypoints[:, list(keypoint_order)])
    return changed(sample, Flip(horizontal), objects)


def mirrored_order(names: tuple[str, ...]) -> tuple[int, ...]:
    """Where each key point's value comes from in a mirrored image: ``left_eye`` and ``right_eye`` change places."""
    places = {name: place for place, name in enumerate(names)}
    swap = {"left": "right", "right": "left"}
    mirrored = ["_".join(swap.get(part, part) for part in name.split("_")) for name in names]
    return tuple(places.get(name, place) for place, name in enumerate(mirrored))


# --- colour ----------------------------------------------------------------------------------------------------


def hsv_jitter(sample: Sample, rng: np.random.Generator, amplitudes: tuple[float, float, float]) -> Sample:
    """Scale hue, saturation and value by factors in 1 - amplitude ... 1 + amplitude (docs/reference.md, HSV jitter).

    Where all amplitudes are 0 nothing is drawn.
    """
    if not any(amplitudes):
        return sample
    hue, saturation, value = (1 + rng.uniform(-1, 1, 3) * np.array(amplitudes)).tolist()
    return changed(sample, ScaleHsv((hue, saturation, value)))


def recoloured(sample: Sample, rng: np.random.Generator,
               draw: Callable[[np.random.Generator], PixelChange]) -> Sample:
    """Change the colours of the image; its objects stay."""
    return changed(sample, draw(rng))


# --- more ------------------------------------------------------------------------------------------------------


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator, beta: float = 8.0) -> Sample:
    """Blend two images of one size by a share from Beta(``beta``, ``beta``), rounded down; all objects count.

    (docs/reference.md, Mix-up)
    """
    share = float(rng.beta(beta, beta))
    return changed(sample, Blend(share, partner.image), concatenate((sample.objects, partner.objects)))


def cutout(sample: Sample, rng: np.random.Generator) -> Sample:
    """Paint 31 random rectangles in random colours over the image (docs/reference.md, Cutout).

    Objects that one of more than 3% of the sides covers by 60% are removed; the masks of others stay whole, their key
    points under a rectangle are hidden.
    """
    patches, objects = [], sample.objects
    for size in CUTOUT_SIZES:
        window = draw_window(sample.image.shape[0], sample.image.shape[1], size, rng)
        x1, y1, x2, y2 = window.tolist()
        colour = rng.integers(64, 191, 3, endpoint=True).astype(np.uint8)
        whole = np.ones((y2 - y1, x2 - x1), bool)
        patches.append(Patch(x1, y1, np.broadcast_to(colour, (*whole.shape, 3)), whole))
        if size > 0.03:
            objects = objects[intersection_over_area(window, objects.boxes) < 0.60]
        objects = hide_keypoints(objects, whole, (x1, y1))
    return changed(sample, Cover(tuple(patches)), objects)


def hide_keypoints(objects: Objects, covered: np.ndarray, corner: tuple[int, int]) -> Objects:
    """Visible key points under something that was painted become occluded ones.

    ``covered`` bool ``[h, w]`` are its pixels from ``corner`` (x, y) on.
    """
    if not objects.keypoints.size or not covered.size:
        return objects
    keypoints, (height, width) = objects.keypoints.copy(), covered.shape
    x, y = np.moveaxis(np.floor(keypoints[..., :2] - corner).astype(int), -1, 0)
    within = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    hidden = within & covered[y.clip(0, height - 1), x.clip(0, width - 1)]
    keypoints[..., 2] = np.where(hidden, np.minimum(keypoints[..., 2], 1), keypoints[..., 2])
    return replace(objects, keypoints=keypoints)


def draw_window(height: int, width: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """A window of up to ``size`` of the sides around a uniform centre, clipped to the image: int ``[4]`` xyxy."""
    h = rng.integers(1, max(int(height * size), 1), endpoint=True)
    w = rng.integers(1, max(int(width * size), 1), endpoint=True)
    x1 = max(rng.integers(width, endpoint=True) - w // 2, 0)
    y1 = max(rng.integers(height, endpoint=True) - h // 2, 0)
    return np.array((x1, y1, min(x1 + w, width), min(y1 + h, height)))
