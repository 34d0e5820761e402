"""Parts of a split: a share of its images, and folds. Which images they are depends on the data alone, not on seeds."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.objects import elements_of, starts_of

logger = logging.getLogger(__name__)

ORDER = 7  # seed of the order that parts are taken from, the same for all runs


def choose_images(image_set: ImageSet, indices: np.ndarray) -> ImageSet:
    """Only these images, int64 ``[K]``, with their objects; faults of the others stay."""
    rows, lengths = elements_of(image_set.offsets, indices)
    chosen = indices.tolist()
    return replace(image_set, paths=tuple(image_set.paths[i] for i in chosen),
                   image_ids=tuple(image_set.image_ids[i] for i in chosen), sizes=image_set.sizes[indices],
                   offsets=starts_of(lengths), objects=image_set.objects[rows], is_part=True)


def share_of(image_set: ImageSet, share: float) -> ImageSet:
    """A share of the images, at least one; a smaller share is part of a larger one. Says which classes it has lost."""
    if share >= 1:
        return image_set
    count = max(round(share * len(image_set)), 1)
    part = choose_images(image_set, np.sort(_order(len(image_set))[:count]))
    before, after = (np.bincount(images.objects.labels, minlength=len(images.names)) for images in (image_set, part))
    if lost := [name for name, had, has in zip(image_set.names, before, after, strict=True) if had and not has]:
        logger.warning("--fraction %g: %d images, in which no object is of: %s", share, count, ", ".join(lost[:20]))
    return part


def fold_of(image_set: ImageSet, folds: int, fold: int, held_out: bool) -> ImageSet:
    """The images of a fold, counted from 1, that are ``held_out``, or all others; raises `InputError`."""
    if len(image_set) < folds:
        raise InputError(f"--folds {folds}: the split {image_set.split!r} has {len(image_set)} images; accepted: at "
                         "most as many folds")
    if not 1 <= fold <= folds:
        raise InputError(f"--fold {fold}: accepted: 1 to {folds}")
    number = np.empty(len(image_set), np.int64)
    number[_order(len(image_set))] = np.arange(len(image_set)) % folds
    part = choose_images(image_set, np.flatnonzero((number == fold - 1) == held_out))
    return replace(part, split="val") if held_out else part  # as messages call it


def _order(count: int) -> np.ndarray:
    return np.random.default_rng([ORDER, count]).permutation(count)
