"""``--class-weights auto``: rare classes weigh more in the class term of the loss."""

from __future__ import annotations

import numpy as np

MAX_WEIGHT = 5.0  # and at least one over this: no class decides alone
DIGITS = 4


def balanced_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Weights ``[C]`` of classes with so many objects, int64 ``[C]``: one over the root of the count, so that the mean
    over all objects is 1, within 1/`MAX_WEIGHT` to `MAX_WEIGHT`; 1 for classes without objects.

    With one over the count itself, a class of one object in a thousand would weigh as much as all others together, and
    its few labels would be learnt by heart.
    """
    present = counts > 0
    roots = np.where(present, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    total = (roots * counts).sum()
    if not total:
        return tuple(1.0 for _ in counts)
    weights = np.clip(roots * counts.sum() / total, 1 / MAX_WEIGHT, MAX_WEIGHT)
    return tuple(round(float(weight), DIGITS) if there else 1.0 for weight, there in zip(weights, present, strict=True))
