"""Augmentation of one picture: small objects and functions, ``(sample, rng) -> sample`` (spec, sections 10 to 12).

Whatever is random is drawn from the generator that is passed in. Objects keep their outlines aligned with their
boxes; an object without an outline has one of zero points. Inputs are never written to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from yolov7.data.images import PAD_COLOUR, cv2, letterbox
from yolov7.options import AugmentConfig
from yolov7.structures import Sample

EPSILON = 1e-16  # of areas, against division by zero
OUTLINE_POINTS = 1000  # an outline's box is that of this many points along it
LEAST_SIDE = 2.0  # pixels, of an object after warping
LARGEST_ASPECT = 20.0
LEAST_VISIBLE_BOX, LEAST_VISIBLE_OUTLINE = 0.10, 0.01  # area after warping over area before
LARGEST_COVER = 0.30  # of an object by something pasted on it
PASTE_SIZES = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6  # of the picture's sides


def with_objects(sample: Sample, boxes: np.ndarray, labels: np.ndarray, segments: tuple[np.ndarray, ...]) -> Sample:
    """The sample with these objects behind its own."""
    return replace(
        sample,
        boxes=np.concatenate((sample.boxes, boxes.astype(np.float32).reshape(-1, 4))),
        labels=np.concatenate((sample.labels, labels)),
        segments=(*sample.segments, *segments),
    )


def cover(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which part of each of ``boxes`` ``[N, 4]`` one box covers: ``[N]`` in 0..1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return (high - low).clip(0).prod(1) / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + EPSILON)


# --- geometry --------------------------------------------------------------------------------------------------


def letterbox_sample(sample: Sample, shape: tuple[int, int], scale_up: bool) -> Sample:
    """Fit a sample into exactly ``shape`` (height, width); gain and pad are recorded in its ``meta``."""
    image, gain, pad = letterbox(sample.image, shape, auto=False, scale_up=scale_up)
    segments = tuple((points * gain + pad).astype(np.float32) for points in sample.segments)
    boxes = (sample.boxes * (gain * 2) + pad * 2).astype(np.float32)
    first = sample.meta.gain
    meta = replace(sample.meta, gain=(first[0] * gain[0], first[1] * gain[1]), pad=pad)
    return replace(sample, image=image, boxes=boxes, segments=segments, meta=meta)


@dataclass(frozen=True)
class Warp:
    """A drawn `RandomPerspective`."""

    matrix: np.ndarray  # float64 [3, 3]: input pixel -> output pixel, homogeneous
    zoom: float
    size: tuple[int, int]  # output height, width


@dataclass(frozen=True)
class RandomPerspective:
    """Rotation, zoom, shear, translation and perspective about the centre (spec 11.3).

    ``border`` pixels are added at every side of the output (negative: cut off, as after a mosaic).
    """

    config: AugmentConfig
    border: int = 0

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Warp:
        """Draw the transformation for a picture of this size."""
        config = self.config
        out_height, out_width = height + 2 * self.border, width + 2 * self.border
        centre, perspective, shear, translation = (np.eye(3) for _ in range(4))
        centre[:2, 2] = -width / 2, -height / 2
        perspective[2, :2] = rng.uniform(-config.perspective, config.perspective, 2)
        angle = math.radians(rng.uniform(-config.degrees, config.degrees))
        zoom = rng.uniform(1 - config.scale, 1.1 + config.scale)  # 1.1: the paper's recipes were tuned with it
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # counter-clockwise on the screen
        shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
        share = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
        translation[:2, 2] = share * (out_width, out_height)
        return Warp(translation @ shear @ rotation @ perspective @ centre, zoom, (out_height, out_width))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        height, width = sample.image.shape[:2]
        return warp(sample, self.draw(height, width, rng))


def warp(sample: Sample, drawn: Warp) -> Sample:
    """Apply a drawn transformation; objects that are hardly visible afterwards are dropped."""
    height, width = drawn.size
    image = sample.image
    if image.shape[:2] != drawn.size or not np.array_equal(drawn.matrix, np.eye(3)):
        image = _warp_image(image, drawn)
    outlined = np.array([len(points) > 0 for points in sample.segments], bool)
    boxes = _warp_boxes(sample.boxes, drawn)
    boxes[outlined] = _outline_boxes([points for points in sample.segments if len(points)], drawn)
    least_visible = np.where(outlined, LEAST_VISIBLE_OUTLINE, LEAST_VISIBLE_BOX)
    kept = _still_visible(sample.boxes * drawn.zoom, boxes, least_visible)
    segments = tuple(_warp_points(sample.segments[i], drawn).astype(np.float32) for i in np.flatnonzero(kept))
    return replace(sample, image=image, boxes=boxes[kept], labels=sample.labels[kept], segments=segments)


def _warp_image(image: np.ndarray, drawn: Warp) -> np.ndarray:
    height, width = drawn.size
    if np.array_equal(drawn.matrix[2], (0, 0, 1)):
        return cv2.warpAffine(image, drawn.matrix[:2], (width, height), borderValue=PAD_COLOUR)
    return cv2.warpPerspective(image, drawn.matrix, (width, height), borderValue=PAD_COLOUR)


def _warp_points(points: np.ndarray, drawn: Warp) -> np.ndarray:
    """``[..., 2]`` -> ``[..., 2]`` float64, not clipped. Points at or behind the horizon end far away."""
    moved = points @ drawn.matrix[:, :2].T + drawn.matrix[:, 2]
    return moved[..., :2] / np.maximum(moved[..., 2:], 1e-3)


def _warp_boxes(boxes: np.ndarray, drawn: Warp) -> np.ndarray:
    """Boxes around the four moved corners, clipped to the output: ``[N, 4]`` -> ``[N, 4]``."""
    corners = _warp_points(boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 4, 2), drawn)  # [N, 4, 2]
    height, width = drawn.size
    limit = (width, height)
    return np.concatenate((corners.min(1).clip(0, limit), corners.max(1).clip(0, limit)), axis=1).astype(np.float32)


def _outline_boxes(outlines: Sequence[np.ndarray], drawn: Warp) -> np.ndarray:
    """Boxes around that part of each outline which is inside the output: ``[n, 4]``, zeros where nothing is."""
    dense = np.array([_resample(points) for points in outlines]).reshape(-1, OUTLINE_POINTS, 2)
    moved = np.ascontiguousarray(_warp_points(dense, drawn).transpose(2, 0, 1))  # [x and y, n, points]
    height, width = drawn.size
    inside = ((moved >= 0) & (moved <= np.reshape((width, height), (2, 1, 1)))).all(0)  # [n, points]
    low, high = np.where(inside, moved, np.inf).min(2), np.where(inside, moved, -np.inf).max(2)  # [x and y, n]
    boxes = np.concatenate((low, high)).T
    return np.where(np.isfinite(boxes), boxes, 0)


def _resample(outline: np.ndarray) -> np.ndarray:
    """Points along a closed outline, equidistant in its vertex index: ``[K, 2]`` -> ``[OUTLINE_POINTS, 2]``."""
    closed = np.concatenate((outline, outline[:1]))
    steps, place = np.arange(len(closed)), np.linspace(0, len(closed) - 1, OUTLINE_POINTS)
    return np.stack((np.interp(place, steps, closed[:, 0]), np.interp(place, steps, closed[:, 1])), axis=1)


def _still_visible(before: np.ndarray, after: np.ndarray, least_visible: np.ndarray) -> np.ndarray:
    """Mask of the objects worth keeping: ``[N, 4]``, ``[N, 4]``, least share of the area ``[N]`` -> ``[N]``."""
    size = after[:, 2:] - after[:, :2]
    share = size.prod(1) / ((before[:, 2:] - before[:, :2]).prod(1) + EPSILON)
    aspect = size.max(1) / (size.min(1) + EPSILON)
    return (size > LEAST_SIDE).all(1) & (share > least_visible) & (aspect < LARGEST_ASPECT)


@dataclass(frozen=True)
class Flip:
    """Mirror with a probability."""

    probability: float
    axis: Literal["horizontal", "vertical"]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        return flip(sample, self.axis) if rng.random() < self.probability else sample


def flip(sample: Sample, axis: Literal["horizontal", "vertical"]) -> Sample:
    """Mirror a sample: ``horizontal`` swaps left and right."""
    height, width = sample.image.shape[:2]
    side, column = (width, 0) if axis == "horizontal" else (height, 1)
    boxes = sample.boxes.copy()
    boxes[:, column], boxes[:, column + 2] = side - sample.boxes[:, column + 2], side - sample.boxes[:, column]
    sign, offset = np.ones(2, np.float32), np.zeros(2, np.float32)
    sign[column], offset[column] = -1, side
    segments = tuple(points * sign + offset for points in sample.segments)
    return replace(sample, image=np.flip(sample.image, 1 - column), boxes=boxes, segments=segments)


# --- colour ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HSVJitter:
    """Scale hue, saturation and value by factors in 1 - amplitude ... 1 + amplitude (spec 12.1)."""

    hue: float
    saturation: float
    value: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        amplitudes = np.array((self.hue, self.saturation, self.value))
        gains = 1 + rng.uniform(-1, 1, 3) * amplitudes
        if not amplitudes.any():
            return sample
        levels = np.arange(256)
        table = np.stack(((levels * gains[0]) % 180, *((levels * gain).clip(0, 255) for gain in gains[1:])), axis=-1)
        hsv = cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV)  # 8 bits: hue in 0 ... 179
        hsv = cv2.LUT(hsv, table.astype(np.uint8)[None])
        return replace(sample, image=cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


# --- several pictures in one -----------------------------------------------------------------------------------


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
    """Blend two pictures of one size by a share from Beta(8, 8); all objects count fully (spec 10)."""
    share = np.float32(rng.beta(8.0, 8.0))
    image = (share * sample.image + (1 - share) * partner.image).astype(np.uint8)
    return with_objects(replace(sample, image=image), partner.boxes, partner.labels, partner.segments)


class CutOut(NamedTuple):
    """An object cut out along its outline."""

    patch: np.ndarray  # uint8 [h, w, 3]
    mask: np.ndarray  # bool [h, w]
    outline: np.ndarray  # float32 [K, 2] pixels of `patch`
    label: int


def cut_out(sample: Sample, rng: np.random.Generator) -> list[CutOut]:
    """Cut out a random half of the outlined objects by their boxes, rounded down to pixels (spec 12.4)."""
    height, width = sample.image.shape[:2]
    outlined = [i for i, points in enumerate(sample.segments) if len(points)]
    cut_outs = []
    for i in rng.choice(len(outlined), round(0.5 * len(outlined)), replace=False) if outlined else ():
        index = outlined[i]
        x1, y1, x2, y2 = sample.boxes[index].astype(int).clip(0, (width, height) * 2).tolist()
        if x2 <= x1 or y2 <= y1:
            continue
        outline = sample.segments[index] - np.array((x1, y1), np.float32)
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
        patch = sample.image[y1:y2, x1:x2].copy()  # a view would keep the whole canvas in memory
        cut_outs.append(CutOut(patch, mask.astype(bool), outline, int(sample.labels[index])))
    return cut_outs


def paste_in(sample: Sample, cut_outs: list[CutOut], rng: np.random.Generator) -> Sample:
    """Paste cut-outs into random windows that cover no object by 30% or more (spec 12.4)."""
    if not cut_outs:
        return sample
    sample = replace(sample, image=sample.image.copy())
    for size in PASTE_SIZES:
        if rng.random() < 0.2:
            continue
        window = _draw_window(sample.image.shape[0], sample.image.shape[1], size, rng)
        width, height = window[2:] - window[:2]
        if min(width, height) <= 20 or (cover(window, sample.boxes) >= LARGEST_COVER).any():
            continue
        scaled = _fit(cut_outs[rng.integers(len(cut_outs))], int(height), int(width))
        if scaled is not None:
            sample = _paste(sample, scaled, int(window[0]), int(window[1]))
    return sample


def _draw_window(height: int, width: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """A window of up to ``size`` of the sides around a uniform centre, clipped to the picture: int ``[4]`` xyxy."""
    h = rng.integers(1, max(int(height * size), 1), endpoint=True)
    w = rng.integers(1, max(int(width * size), 1), endpoint=True)
    x1 = max(rng.integers(width, endpoint=True) - w // 2, 0)
    y1 = max(rng.integers(height, endpoint=True) - h // 2, 0)
    return np.array((x1, y1, min(x1 + w, width), min(y1 + h, height)))


def _fit(item: CutOut, height: int, width: int) -> CutOut | None:
    """Scale a cut-out to fit a window; nothing where too little is left of it."""
    ratio = min(height / item.patch.shape[0], width / item.patch.shape[1])
    shape = int(item.patch.shape[1] * ratio), int(item.patch.shape[0] * ratio)  # width, height
    if min(shape) <= 10:
        return None
    mask = cv2.resize(item.mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST).astype(bool)
    if mask.sum() <= 20:  # the original counts more than 60 values of three channels
        return None
    scale = np.array((shape[0] / item.patch.shape[1], shape[1] / item.patch.shape[0]), np.float32)
    return CutOut(cv2.resize(item.patch, shape), mask, item.outline * scale, item.label)


def _paste(sample: Sample, item: CutOut, x: int, y: int) -> Sample:
    """Write into the sample's picture, which must be its own, and add the object."""
    height, width = item.mask.shape
    sample.image[y : y + height, x : x + width][item.mask] = item.patch[item.mask]
    box = np.array([(x, y, x + width, y + height)])
    return with_objects(sample, box, np.array([item.label]), (item.outline + np.array((x, y), np.float32),))
