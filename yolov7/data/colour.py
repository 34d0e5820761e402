"""Rare changes of colour and sharpness, each with a probability, all off by default (spec of the data, 12.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from yolov7.data.images import cv2
from yolov7.structures import Sample

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # uint8 [H, W, 3] RGB -> the same


@dataclass(frozen=True)
class Sometimes:
    """Change the colours of a picture with a probability; its objects stay."""

    probability: float
    change: Change

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw and apply."""
        if rng.random() >= self.probability:
            return sample
        return replace(sample, image=self.change(sample.image, rng))


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


COLOUR_CHANGES: dict[str, Change] = {
    "clahe": clahe, "brightness_contrast": brightness_contrast, "gamma": gamma, "blur": blur,
    "median_blur": median_blur, "gray": gray, "jpeg": jpeg,
}
