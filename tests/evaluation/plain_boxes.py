"""Boxes as the rules read aloud have them: the oracle of matching."""

from __future__ import annotations

import numpy as np


def plain_iou(first: np.ndarray, second: np.ndarray) -> np.float32:
    """In float32, as boxes are: equality with a threshold is decided there."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), np.float32(0)) for i in (0, 1))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else np.float32(0)
