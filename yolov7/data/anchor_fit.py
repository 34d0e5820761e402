"""How well anchors fit the objects of a data set, and anchors that fit better (docs/reference.md, Anchor check).

Everything is compared by the ratio of sides: of width and height the worse one, 1 for an equal box. An object whose
ratio to every anchor reaches the recipe's ``anchor_t`` is never a target of the loss.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

TINY = 3.0  # pixels; narrower objects are hardly ever found
MIN_SIDE = 2.0  # pixels; of anchors, and of the objects that they are fitted to (the longer side)
ITERATIONS = 30  # of k-means
CANDIDATES = 8  # drawn for each of its first centres
MAX_FITTED = 20_000  # objects that anchors are fitted to
_CHUNK = 4096  # objects compared at a time: small enough for the processor's cache


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit objects."""

    objects: int
    recall: float  # best possible: share of the objects that at least one anchor fits
    anchors_per_object: float  # mean number of anchors that fit
    tiny: int  # objects with a side under `TINY` pixels

    def __str__(self) -> str:
        return f"best possible recall {self.recall:.4f}, {self.anchors_per_object:.2f} anchors per object"


def object_sizes(image_set: ImageSet, image_size: int) -> np.ndarray:
    """Width and height of every object in pixels, ``[T, 2]``, when each image's long side is ``image_size``."""
    gains = image_size / image_set.sizes.max(axis=1)
    sizes: np.ndarray = native_sizes(image_set) * gains[image_set.image_index, None]
    return sizes


def native_sizes(image_set: ImageSet) -> np.ndarray:
    """Width and height of every object in pixels of its image, float64 ``[T, 2]``."""
    corners = image_set.objects.boxes.astype(np.float64)
    sizes: np.ndarray = corners[:, 2:] - corners[:, :2]
    return sizes


def recall(sizes: np.ndarray, anchors: np.ndarray, threshold: float) -> AnchorFit:
    """Compare objects ``[T, 2]`` with anchors ``[K, 2]``, both in pixels; a ratio under ``threshold`` fits.

    No objects, or sizes that are not numbers above 0: `InputError`.
    """
    _check(sizes)
    fitting, reached = 0, 0
    for part in _chunks(sizes):
        fits = _ratios(part, anchors) < threshold
        fitting += int(fits.sum())
        reached += int(fits.any(axis=0).sum())
    tiny = int((sizes < TINY).any(axis=1).sum())
    return AnchorFit(len(sizes), reached / len(sizes), fitting / len(sizes), tiny)


def fitness(sizes: np.ndarray, anchors: np.ndarray, threshold: float) -> float:
    """What evolution improves, 0..1: the mean of 1 / ratio to each object's best anchor, 0 where none fits."""
    best = np.concatenate([_ratios(part, anchors).min(axis=0) for part in _chunks(sizes)])  # [T]
    return float(np.where(best < threshold, 1 / best, 0).mean())


def fit_anchors(sizes: np.ndarray, count: int, threshold: float, generations: int = 1000, seed: int = 0) -> np.ndarray:
    """Anchors ``[count, 2]`` in pixels for objects ``[T, 2]``: k-means, then evolution; sorted by area.

    A function of its arguments alone. Whether they are better than others, `recall` tells. `InputError`: no objects,
    sizes that are not numbers above 0, fewer different sizes than anchors.
    """
    _check(sizes)
    kept = sizes[(sizes >= MIN_SIDE).any(axis=1)].astype(np.float64)
    if len(kept) > MAX_FITTED:
        logger.info("anchors are fitted to %d of %d objects, drawn by the seed", MAX_FITTED, len(kept))
        kept = kept[np.random.default_rng(seed).choice(len(kept), MAX_FITTED, replace=False)]
    start = np.maximum(cluster(kept, count, seed), MIN_SIDE)
    anchors: np.ndarray = evolve(kept, start, threshold, generations, seed).round(2)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


# --- k-means ---------------------------------------------------------------------------------------------------


def cluster(sizes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Centres ``[count, 2]`` of k-means over sizes ``[T, 2]``, each side measured in its standard deviation.

    Fewer different sizes than centres: `InputError`.
    """
    distinct = len(np.unique(sizes, axis=0))
    if distinct < count:
        raise InputError(f"anchors: found {distinct} different object sizes of at least {MIN_SIDE:g} px; accepted: "
                         f"at least {count}, one for each anchor")
    deviation = sizes.std(axis=0)
    deviation[deviation == 0] = 1
    points = sizes / deviation
    centres = _scattered(points, count, np.random.default_rng(seed))
    for _ in range(ITERATIONS):
        nearest = _distances(points, centres).argmin(axis=1)  # [T]
        members = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, side, minlength=count) for side in points.T], axis=1)
        centres = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres)
    found: np.ndarray = centres * deviation
    return found


def _scattered(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Start of k-means++: of several points drawn with the squared distance to the centres so far, the one that
    leaves the least distance becomes the next centre."""
    centres = points[rng.integers(len(points), size=1)]
    distance = _distances(points, centres)[:, 0]
    while len(centres) < count:
        drawn = points[rng.choice(len(points), size=CANDIDATES, p=distance / distance.sum())]
        left = np.minimum(_distances(points, drawn), distance[:, None])  # [T, CANDIDATES]
        best = left.sum(axis=0).argmin()
        centres, distance = np.concatenate((centres, drawn[best, None])), left[:, best]
    return centres


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances ``[T, K]``."""
    squared: np.ndarray = (points[:, 0, None] - centres[:, 0]) ** 2 + (points[:, 1, None] - centres[:, 1]) ** 2
    return squared


# --- evolution -------------------------------------------------------------------------------------------------


def evolve(sizes: np.ndarray, anchors: np.ndarray, threshold: float, generations: int = 1000,
           seed: int = 0) -> np.ndarray:
    """Anchors ``[K, 2]`` after ``generations`` random changes, of which only those that raise `fitness` are kept."""
    rng = np.random.default_rng(seed)
    best, score = anchors, fitness(sizes, anchors, threshold)
    progress = Progress(range(generations), "anchors", unit="generations")
    for _ in progress:
        candidate = np.maximum(best * _mutation(best.shape, rng), MIN_SIDE)
        candidate_score = fitness(sizes, candidate, threshold)
        if candidate_score > score:
            best, score = candidate, candidate_score
            progress.note(f"fitness {score:.4f}")
    return best


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Factors for every value: 90% of them change, by about 10%, and at least one does."""
    while True:
        mask = rng.random(shape) < 0.9
        factors = 1 + mask * rng.random() * rng.standard_normal(shape) * 0.1  # one strength for all of them
        if (factors != 1).any():
            return factors.clip(0.3, 3.0)


# --- what they share -------------------------------------------------------------------------------------------


def _check(sizes: np.ndarray) -> None:
    if not len(sizes):
        raise InputError("anchors: found no objects; accepted: at least one")
    wrong = int((~(np.isfinite(sizes) & (sizes > 0)).all(axis=1)).sum())
    if wrong:
        raise InputError(f"anchors: found {wrong} of {len(sizes)} objects with a side that is not a number above 0; "
                         "accepted: sizes in pixels")


def _chunks(sizes: np.ndarray) -> list[np.ndarray]:
    return [sizes[start : start + _CHUNK] for start in range(0, len(sizes), _CHUNK)]


def _ratios(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The worse ratio of sides of every pair, ``[K, T]``, at least 1."""
    sides = (np.maximum.outer(anchor, size) / np.minimum.outer(anchor, size)
             for anchor, size in zip(anchors.T, sizes.T, strict=True))
    worse: np.ndarray = np.maximum(*sides)
    return worse
