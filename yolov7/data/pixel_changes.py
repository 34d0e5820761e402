"""Changes of pixels, with all that was drawn for them: what the steps of a pipeline do to an image.

Each is called with an image uint8 ``[H, W, 3]`` RGB, which it may write to, and returns one of the same kind. Those
that are classes stand in `yolov7.data.device_changes`, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from yolov7.data.images import cv2

PixelChange = Callable[[np.ndarray], np.ndarray]
ROUND_DOWN = -0.4999  # added to what OpenCV rounds to the nearest; whole numbers stay
_LEVELS = np.arange(256, dtype=np.uint8)
_WORK = threading.local()


@dataclass(frozen=True)
class Flip:
    """Left and right change places, or top and bottom."""

    horizontal: bool

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return cv2.flip(image, int(self.horizontal))


@dataclass(frozen=True)
class Blend:
    """A share of the image and the rest of another one of its size, rounded down."""

    share: float
    partner: Any  # uint8 [H, W, 3], the `Picture` of it, or how that is packed

    def __call__(self, image: np.ndarray) -> np.ndarray:
        partner = self.partner if isinstance(self.partner, np.ndarray) else self.partner.pixels()
        return cv2.addWeighted(image, self.share, partner, 1 - self.share, ROUND_DOWN)


@dataclass(frozen=True)
class ScaleHsv:
    """Hue, saturation and value times these factors."""

    gains: tuple[float, float, float]

    @property
    def hues(self) -> np.ndarray:
        """What each hue becomes, uint8 ``[256]``; of 8 bits: 0 ... 179."""
        return (_LEVELS * self.gains[0] % 180).astype(np.uint8)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        planes = cv2.split(hsv, _planes(hsv.shape[:2]))
        cv2.LUT(planes[0], self.hues, dst=planes[0])
        _scale(planes[1], self.gains[1])
        _scale(planes[2], self.gains[2])
        cv2.merge(planes, hsv)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)


def _planes(shape: tuple[int, int]) -> list[np.ndarray]:
    """Three planes to work in, each thread's own: fresh memory costs more than what is done in it."""
    if getattr(_WORK, "shape", None) != shape:
        _WORK.shape, _WORK.planes = shape, [np.empty(shape, np.uint8) for _ in range(3)]
    planes: list[np.ndarray] = _WORK.planes
    return planes


def scaled_levels(gain: float) -> np.ndarray:
    """What each level becomes, rounded down, at most 255: uint8 ``[256]``."""
    table: np.ndarray = (_LEVELS * gain).clip(0, 255).astype(np.uint8)
    return table


def _scale(plane: np.ndarray, gain: float) -> None:
    table = scaled_levels(gain)
    if np.array_equal(cv2.convertScaleAbs(_LEVELS, alpha=gain, beta=ROUND_DOWN).ravel(), table):
        cv2.convertScaleAbs(plane, dst=plane, alpha=gain, beta=ROUND_DOWN)  # a third of the time
    else:
        cv2.LUT(plane, table, dst=plane)


class Patch(NamedTuple):
    """Pixels that are laid on an image at (x, y), where their mask says so."""

    x: int
    y: int
    pixels: Any  # uint8 [h, w, 3]
    mask: Any  # bool [h, w]


@dataclass(frozen=True)
class Cover:
    """Patches on the image, one after the other."""

    patches: tuple[Patch, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        covered: np.ndarray = image.copy()
        for x, y, pixels, mask in self.patches:
            height, width = mask.shape
            np.copyto(covered[y : y + height, x : x + width], pixels, where=mask[..., None])
        return covered


@dataclass(frozen=True)
class Lookup:
    """Every value by a table uint8 ``[256]``."""

    table: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        mapped: np.ndarray = cv2.LUT(image, self.table)
        return mapped


# --- rare changes of colour (docs/reference.md): what is drawn, and what is done -----------------------------


def clahe(rng: np.random.Generator) -> PixelChange:
    """Spread the histogram of the lightness tile by tile, limited to 1 ... 4 times the even one."""
    return partial(_clahe, limit=rng.uniform(1, 4))


def _clahe(image: np.ndarray, limit: float) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def brightness_contrast(rng: np.random.Generator) -> PixelChange:
    """Multiply by 0.8 ... 1.2 and add up to 20% of the range."""
    values = np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) * 255
    return Lookup(values.clip(0, 255).astype(np.uint8))


def gamma(rng: np.random.Generator) -> PixelChange:
    """Raise values of 0 ... 1 to a power of 0.8 ... 1.2."""
    return Lookup(((np.arange(256) / 255) ** rng.uniform(0.8, 1.2) * 255).round().astype(np.uint8))


def blur(rng: np.random.Generator) -> PixelChange:
    """Mean of 3, 5 or 7 pixels a side."""
    side = int(rng.choice((3, 5, 7)))
    return partial(cv2.blur, ksize=(side, side))


def median_blur(rng: np.random.Generator) -> PixelChange:
    """Median of 3, 5 or 7 pixels a side."""
    return partial(cv2.medianBlur, ksize=int(rng.choice((3, 5, 7))))


def gray(_: np.random.Generator) -> PixelChange:
    """Without colour."""
    return lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def jpeg(rng: np.random.Generator) -> PixelChange:
    """Compressed as JPEG of quality 75 ... 100."""
    return partial(_compress, quality=int(rng.integers(75, 100, endpoint=True)))


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was written a moment ago
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


COLOUR_CHANGES: dict[str, Callable[[np.random.Generator], PixelChange]] = {
    "clahe": clahe, "brightness_contrast": brightness_contrast, "gamma": gamma, "blur": blur,
    "median_blur": median_blur, "gray": gray, "jpeg": jpeg,
}
