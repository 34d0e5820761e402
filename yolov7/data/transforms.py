"""Changes of a sample: letterbox, flips, colours, mix-up, cutout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from yolov7.data.images import cv2, letterbox
from yolov7.data.objects import Objects, Sample, concatenate

CUTOUT_SIZES = (0.5,) + (0.25,) * 2 + (0.125,) * 4 + (0.0625,) * 8 + (0.03125,) * 16  # of the image's sides
MAX_COVERED = 0.30  # share of an object's area that something pasted may cover
EPSILON = 1e-16
ROUND_DOWN = -0.4999  # added to what OpenCV rounds to the nearest; whole numbers stay
_LEVELS = np.arange(256, dtype=np.uint8)
_WORK = threading.local()


Change = Callable[[Sample, np.random.Generator], Sample]
ColourChange = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # uint8 [H, W, 3] RGB -> the same


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
    image, gain, pad = letterbox(sample.image, shape, auto=False, scale_up=scale_up)
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
    return replace(sample, image=cv2.flip(sample.image, int(horizontal)), objects=objects)


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
    gains = 1 + rng.uniform(-1, 1, 3) * np.array(amplitudes)
    hsv = cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV)  # 8 bits: hue in 0 ... 179
    planes = cv2.split(hsv, _planes(hsv.shape[:2]))
    cv2.LUT(planes[0], (_LEVELS * gains[0] % 180).astype(np.uint8), dst=planes[0])
    _scale(planes[1], gains[1])
    _scale(planes[2], gains[2])
    cv2.merge(planes, hsv)
    return replace(sample, image=cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv))


def _planes(shape: tuple[int, int]) -> list[np.ndarray]:
    """Three planes to work in, each thread's own: fresh memory costs more than what is done in it."""
    if getattr(_WORK, "shape", None) != shape:
        _WORK.shape, _WORK.planes = shape, [np.empty(shape, np.uint8) for _ in range(3)]
    planes: list[np.ndarray] = _WORK.planes
    return planes


def _scale(plane: np.ndarray, gain: float) -> None:
    """Multiply uint8 values in place, rounded down, at most 255."""
    table = (_LEVELS * gain).clip(0, 255).astype(np.uint8)
    if np.array_equal(cv2.convertScaleAbs(_LEVELS, alpha=gain, beta=ROUND_DOWN).ravel(), table):
        cv2.convertScaleAbs(plane, dst=plane, alpha=gain, beta=ROUND_DOWN)  # a third of the time
    else:
        cv2.LUT(plane, table, dst=plane)


# --- more ------------------------------------------------------------------------------------------------------


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator, beta: float = 8.0) -> Sample:
    """Blend two images of one size by a share from Beta(``beta``, ``beta``), rounded down; all objects count.

    (docs/reference.md, Mix-up)
    """
    share = float(rng.beta(beta, beta))
    image = cv2.addWeighted(sample.image, share, partner.image, 1 - share, ROUND_DOWN)
    return replace(sample, image=image, objects=concatenate((sample.objects, partner.objects)))


def cutout(sample: Sample, rng: np.random.Generator) -> Sample:
    """Paint 31 random rectangles in random colours over the image (docs/reference.md, Cutout).

    Objects that one of more than 3% of the sides covers by 60% are removed; the masks of others stay whole, their key
    points under a rectangle are hidden.
    """
    image, objects = sample.image.copy(), sample.objects
    for size in CUTOUT_SIZES:
        window = draw_window(image.shape[0], image.shape[1], size, rng)
        x1, y1, x2, y2 = window.tolist()
        image[y1:y2, x1:x2] = rng.integers(64, 191, 3, endpoint=True)
        if size > 0.03:
            objects = objects[intersection_over_area(window, objects.boxes) < 0.60]
        objects = hide_keypoints(objects, np.ones((y2 - y1, x2 - x1), bool), (x1, y1))
    return replace(sample, image=image, objects=objects)


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


def recoloured(sample: Sample, rng: np.random.Generator, change: ColourChange) -> Sample:
    """Change the colours of the image; its objects stay."""
    return replace(sample, image=change(sample.image, rng))


def clahe(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spread the histogram of the lightness tile by tile, limited to 1 ... 4 times the even one."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(rng.uniform(1, 4), (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def brightness_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply by 0.8 ... 1.2 and add up to 20% of the range."""
    values = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
    return cv2.LUT(image, values.clip(0, 255).astype(np.uint8))


def gamma(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Raise values of 0 ... 1 to a power of 0.8 ... 1.2."""
    return cv2.LUT(image, ((np.arange(256) / 255) ** rng.uniform(0.8, 1.2) * 255).round().astype(np.uint8))


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean of 3, 5 or 7 pixels a side."""
    side = int(rng.choice((3, 5, 7)))
    return cv2.blur(image, (side, side))


def median_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Median of 3, 5 or 7 pixels a side."""
    return cv2.medianBlur(image, int(rng.choice((3, 5, 7))))


def gray(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Without colour."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compressed as JPEG of quality 75 ... 100."""
    quality = int(rng.integers(75, 100, endpoint=True))
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was written a moment ago
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


COLOUR_CHANGES: dict[str, ColourChange] = {  # docs/reference.md, Rare colour changes
    "clahe": clahe, "brightness_contrast": brightness_contrast, "gamma": gamma, "blur": blur,
    "median_blur": median_blur, "gray": gray, "jpeg": jpeg,
}
