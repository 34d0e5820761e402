"""What the key points of an object are: names, limbs, what a mirror does to them, and how exactly people place them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_SIGMA = 0.05  # of points for which nobody has measured it, of the object's size


@dataclass(frozen=True)
class KeypointLayout:
    """K key points of an object; `COCO_PERSON` is the published one."""

    names: tuple[str, ...] = ()
    limbs: tuple[tuple[int, int], ...] = ()  # pairs of indices that are drawn as lines
    flip: tuple[int, ...] = ()  # which one each becomes in a mirrored image; none: not known
    sigmas: tuple[float, ...] = ()  # OKS: standard deviation of annotators over the root of the object's area

    def __len__(self) -> int:
        return len(self.names)

    def arguments(self) -> dict[str, Any]:
        """The part that a model carries, as arguments of its head in the model's YAML."""
        return {"keypoints": list(self.names), "limbs": [list(limb) for limb in self.limbs],
                "sigmas": list(self.sigmas)}


_SIDES = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_LIMBS = ((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
          (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7))  # counted from 1, as COCO does
COCO_PERSON = KeypointLayout(
    ("nose", *(f"{side}_{part}" for part in _SIDES for side in ("left", "right"))),
    tuple((a - 1, b - 1) for a, b in _LIMBS),
    (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    tuple(value / 1000 for value in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)))


def mirrored_order(names: Sequence[str]) -> tuple[int, ...]:
    """Which point each becomes in a mirrored image, by names that have "left" and "right" in pairs; none without."""
    other = {"left": "right", "right": "left"}
    places = {name.lower(): index for index, name in enumerate(names)}
    swapped = [re.sub("left|right", lambda side: other[side[0]], name) for name in places]
    if swapped == list(places) or not places.keys() >= set(swapped):
        return ()
    return tuple(places[name] for name in swapped)


def complete_layout(names: Sequence[str], limbs: Sequence[Sequence[int]] = (), flip: Sequence[int] = (),
                    sigmas: Sequence[float] = ()) -> KeypointLayout:
    """The layout of these points; what is not given is COCO's where the names are.

    Otherwise it is without limbs, mirrored as the names say (see `mirrored_order`), with `DEFAULT_SIGMA`.
    """
    known = COCO_PERSON if tuple(names) == COCO_PERSON.names else KeypointLayout(
        flip=mirrored_order(names), sigmas=(DEFAULT_SIGMA,) * len(names))
    return KeypointLayout(tuple(names), tuple((a, b) for a, b in limbs) or known.limbs, tuple(flip) or known.flip,
                          tuple(sigmas) or known.sigmas)


def layout_of(arguments: Mapping[str, Any], count: int) -> KeypointLayout:
    """The layout that the arguments of a model's head state (see `KeypointLayout.arguments`), of ``count`` points."""
    names = tuple(arguments.get("keypoints", ()))
    if not names:
        names = COCO_PERSON.names if count == len(COCO_PERSON) else tuple(f"point{i}" for i in range(count))
    return complete_layout(names, *(arguments.get(key, ()) for key in ("limbs", "flip", "sigmas")))


def object_keypoint_similarity(found: np.ndarray, true: np.ndarray, boxes: np.ndarray, areas: np.ndarray,
                               sigmas: Sequence[float]) -> np.ndarray:
    """COCO's OKS of every detection with every object: ``[N, K, 3]`` and ``[M, K, 3]`` -> float64 ``[N, M]``.

    The mean over the labelled points of ``exp(-distance^2 / (2 area (2 sigma)^2))``. Of an object without any, the
    distances are those to its box xyxy ``[M, 4]``, made larger by its own size on every side. ``areas`` ``[M]`` are
    square pixels.
    """
    if not len(found) or not len(true):
        return np.zeros((len(found), len(true)))
    points, corners = found[:, None, :, :2].astype(np.float64), boxes.astype(np.float64).reshape(-1, 2, 2)
    sides = corners[:, 1] - corners[:, 0]
    low, high = corners[:, None, 0] - sides[:, None], corners[:, None, 1] + sides[:, None]  # [M, 1, 2]
    labelled: np.ndarray = true[..., 2] > 0  # [M, K]
    has_points: np.ndarray = np.any(labelled, axis=1)
    offset = np.where(has_points[:, None, None], points - true[..., :2],
                      np.maximum(low - points, 0) + np.maximum(points - high, 0))  # [N, M, K, 2]
    spread = 2 * (areas[:, None] + np.spacing(1)) * (2 * np.asarray(sigmas)) ** 2  # [M, K]
    counted = labelled | ~has_points[:, None]
    similarity: np.ndarray = (np.exp(-np.square(offset).sum(-1) / spread) * counted).sum(-1) / counted.sum(-1)
    return similarity
