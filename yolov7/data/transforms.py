"""Augmentation of one picture: small objects, ``(sample, rng) -> sample`` (spec of the data, sections 10 to 12).

Whatever is random is drawn from the generator that is passed in. Inputs are never written to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from yolov7.data.images import cv2, letterbox
from yolov7.data.objects import concatenate, objects_in, with_objects
from yolov7.structures import Sample

CUTOUT_SIZES = (0.5,) + (0.25,) * 2 + (0.125,) * 4 + (0.0625,) * 8 + (0.03125,) * 16  # of the picture's sides
CUTOUT_HIDES = 0.03  # larger rectangles than this remove objects
CUTOUT_COVER = 0.60  # that they cover by this share
EPSILON = 1e-16
ROUND_DOWN = -0.4999  # added to what OpenCV rounds to the nearest; whole numbers stay
_LEVELS = np.arange(256, dtype=np.uint8)


class Step(Protocol):
    """One step of the pipeline."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""


def cover(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which part of each of ``boxes`` ``[N, 4]`` one box covers: ``[N]`` in 0..1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return (high - low).clip(0).prod(1) / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + EPSILON)


def letterbox_sample(sample: Sample, shape: tuple[int, int], scale_up: bool) -> Sample:
    """Fit a sample into exactly ``shape`` (height, width); gain and pad are recorded in its ``meta``."""
    image, gain, pad = letterbox(sample.image, shape, auto=False, scale_up=scale_up)
    first = sample.meta.gain
    meta = replace(sample.meta, gain=(first[0] * gain[0], first[1] * gain[1]), pad=pad)
    objects = objects_in(sample).placed(np.array(gain), np.array(pad))
    return replace(with_objects(sample, objects), image=image, meta=meta)


# --- flips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flip:
    """Mirror with a probability."""

    probability: float
    axis: Literal["horizontal", "vertical"]
    keypoint_order: tuple[int, ...] = ()  # of a mirrored object: left and right have changed places

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        return flip(sample, self.axis, self.keypoint_order) if rng.random() < self.probability else sample


def flip(sample: Sample, axis: Literal["horizontal", "vertical"], keypoint_order: tuple[int, ...] = ()) -> Sample:
    """Mirror a sample: ``horizontal`` swaps left and right."""
    height, width = sample.image.shape[:2]
    side, column = (width, 0) if axis == "horizontal" else (height, 1)
    boxes = sample.boxes.copy()
    boxes[:, column], boxes[:, column + 2] = side - sample.boxes[:, column + 2], side - sample.boxes[:, column]
    sign, offset = np.ones(2, np.float32), np.zeros(2, np.float32)
    sign[column], offset[column] = -1, side
    segments = tuple(points * sign + offset for points in sample.segments)
    keypoints = sample.keypoints.copy()
    keypoints[..., column] = np.where(keypoints[..., 2] > 0, side - keypoints[..., column], 0)
    if axis == "horizontal" and keypoint_order:
        keypoints = keypoints[:, list(keypoint_order)]
    image = cv2.flip(sample.image, 1 - column)
    return replace(sample, image=image, boxes=boxes, segments=segments, keypoints=keypoints)


def mirrored_order(names: tuple[str, ...]) -> tuple[int, ...]:
    """Where each key point's value comes from in a mirrored picture: ``left_eye`` and ``right_eye`` change places."""
    places = {name: place for place, name in enumerate(names)}
    swap = {"left": "right", "right": "left"}
    mirrored = ["_".join(swap.get(part, part) for part in name.split("_")) for name in names]
    return tuple(places.get(name, place) for place, name in enumerate(mirrored))


# --- colour ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HSVJitter:
    """Scale hue, saturation and value by factors in 1 - amplitude ... 1 + amplitude (spec 12.1)."""

    hue: float
    saturation: float
    value: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        gains = 1 + rng.uniform(-1, 1, 3) * np.array((self.hue, self.saturation, self.value))
        hsv = cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV)  # 8 bits: hue in 0 ... 179
        planes = cv2.split(hsv)
        cv2.LUT(planes[0], (_LEVELS * gains[0] % 180).astype(np.uint8), dst=planes[0])
        _scale(planes[1], gains[1])
        _scale(planes[2], gains[2])
        cv2.merge(planes, hsv)
        return replace(sample, image=cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))


def _scale(plane: np.ndarray, gain: float) -> None:
    """Multiply uint8 values in place, rounded down, at most 255."""
    table = (_LEVELS * gain).clip(0, 255).astype(np.uint8)
    if np.array_equal(cv2.convertScaleAbs(_LEVELS, alpha=gain, beta=ROUND_DOWN).ravel(), table):
        cv2.convertScaleAbs(plane, dst=plane, alpha=gain, beta=ROUND_DOWN)  # a third of the time
    else:
        cv2.LUT(plane, table, dst=plane)


# --- more ------------------------------------------------------------------------------------------------------


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
    """Blend two pictures of one size by a share from Beta(8, 8), rounded down; all objects count (spec 10)."""
    share = float(rng.beta(8.0, 8.0))
    image = cv2.addWeighted(sample.image, share, partner.image, 1 - share, ROUND_DOWN)
    objects = concatenate((objects_in(sample), objects_in(partner)))
    return replace(with_objects(sample, objects), image=image)


@dataclass(frozen=True)
class Cutout:
    """With a probability, paint 31 random rectangles in random colours over the picture (spec 12.6).

    Objects that a larger one covers by 60% are removed.
    """

    probability: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        if rng.random() >= self.probability:
            return sample
        image, objects = sample.image.copy(), objects_in(sample)
        for size in CUTOUT_SIZES:
            window = draw_window(image.shape[0], image.shape[1], size, rng)
            x1, y1, x2, y2 = window.tolist()
            image[y1:y2, x1:x2] = rng.integers(64, 191, 3, endpoint=True)
            if size > CUTOUT_HIDES:
                objects = objects.select(cover(window, objects.boxes) < CUTOUT_COVER)
        return replace(with_objects(sample, objects), image=image)


def draw_window(height: int, width: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """A window of up to ``size`` of the sides around a uniform centre, clipped to the picture: int ``[4]`` xyxy."""
    h = rng.integers(1, max(int(height * size), 1), endpoint=True)
    w = rng.integers(1, max(int(width * size), 1), endpoint=True)
    x1 = max(rng.integers(width, endpoint=True) - w // 2, 0)
    y1 = max(rng.integers(height, endpoint=True) - h // 2, 0)
    return np.array((x1, y1, min(x1 + w, width), min(y1 + h, height)))
