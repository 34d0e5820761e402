"""Where the labels of boxes stand: beside what they name, never on each other.

The rule. Boxes come best first, and so do their labels. Each one goes to the place above, inside, below or beside its
box that is in the image, is free of labels, and hides least of the objects; above is preferred. No label hides more
than a third of any object. Where no place is left the letters become smaller, then the label is left out: its box
stays, in the colour of its class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yolov7.inference.lettering import Plate

MAX_HIDDEN = 1 / 3  # of the area of an object
Floats = NDArray[np.float64]

# the corner of the box that a label touches (x, y: 0 left or top, 1 right or bottom), how far it is moved from there,
# in its own width and height, and how much worse that is than the first
_SPOTS = np.array([
    (0, 0, 0, -1, 0.0), (1, 0, -1, -1, 0.05),  # above
    (0, 0, 0, 0, 0.1), (1, 0, -1, 0, 0.15),  # inside, at the top
    (0, 1, 0, 0, 0.3), (1, 1, -1, 0, 0.35),  # below
    (0, 1, 0, -1, 0.3), (1, 1, -1, -1, 0.35),  # inside, at the bottom
    (1, 0, 0, 0, 0.5), (0, 0, -1, 0, 0.5),  # beside
])


def place_labels(boxes: NDArray[np.int64], choices: Sequence[Sequence[Plate]],
                 size: tuple[int, int]) -> list[tuple[Plate, int, int] | None]:
    """For each box the plate and where its left and upper corner stands, None where it is left out (see the module).

    ``boxes`` ``[N, 4]`` xyxy are pixels of an image of ``size`` (height, width), both corners inside; ``choices`` are
    the plates of each box, the preferred one first.
    """
    outer = boxes.astype(np.float64) + (0, 0, 1, 1)  # both corners are part of the box
    placed: list[tuple[Plate, int, int] | None] = []
    taken = np.zeros((0, 4))
    for index, plates in enumerate(choices):
        found = None
        for plate in plates:
            spots = _spots(outer[index], plate, size)
            spots = spots[~(_overlaps(spots[:, :4], taken) > 0).any(axis=1)]
            if (best := _best(spots, outer, index)) is not None:
                found = plate, int(best[0]), int(best[1])
                taken = np.concatenate((taken, best[None, :4]))
                break
        placed.append(found)
    return placed


def _spots(box: Floats, plate: Plate, size: tuple[int, int]) -> Floats:
    """Places ``[K, 5]`` for a plate within the image: xyxy, and how much worse than the first kind each is."""
    height, width = size
    right, bottom = width - plate.width, height - plate.height
    x = np.clip(box[(0, 2),][_SPOTS[:, 0].astype(int)] + _SPOTS[:, 2] * plate.width, None, right)
    y = box[(1, 3),][_SPOTS[:, 1].astype(int)] + _SPOTS[:, 3] * plate.height
    inside = (x >= 0) & (y >= 0) & (y <= bottom)
    spots: Floats = np.stack((x, y, x + plate.width, y + plate.height, _SPOTS[:, 4]), axis=1)[inside]
    return spots


def _best(spots: Floats, boxes: Floats, index: int) -> Floats | None:
    """The place that hides least of the objects, in shares of these and of the label; None where that is too much."""
    if not len(spots):
        return None
    covered = _overlaps(spots[:, :4], boxes)  # [K, N] pixels
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    shares = covered / areas
    plate = (spots[0, 2] - spots[0, 0]) * (spots[0, 3] - spots[0, 1])
    others = covered.sum(axis=1) - covered[:, index]
    cost = spots[:, 4] + shares.sum(axis=1) + others / (2 * plate)
    cost[(shares > MAX_HIDDEN).any(axis=1)] = np.inf
    best = int(cost.argmin())
    found: Floats | None = None if np.isinf(cost[best]) else spots[best]
    return found


def _overlaps(places: Floats, others: Floats) -> Floats:
    """Common area of each place ``[K, 4]`` and each other ``[N, 4]``: ``[K, N]`` pixels."""
    left_top = np.maximum(places[:, None, :2], others[None, :, :2])
    sides = np.clip(np.minimum(places[:, None, 2:], others[None, :, 2:]) - left_top, 0, None)
    area: Floats = sides[..., 0] * sides[..., 1]
    return area
