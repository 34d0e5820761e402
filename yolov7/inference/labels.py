"""Where the labels of boxes stand: beside what they name, never on each other.

The rule. Boxes come best first, and so do their labels. Each one goes to the place above, inside, below or beside its
box that is in the image, is free of labels, and hides least of the objects; above is preferred. No label hides more
than half of any object. Where no place is left the letters become smaller, then the label is left out: its box stays,
in the colour of its class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yolov7.inference.lettering import Plate

AT_ONCE = 1_000_000  # pairs of a place and a box
MAX_HIDDEN = 0.5  # of the area of an object
Floats = NDArray[np.float32]  # exact for whole pixels

# the corner of the box that a label touches (x, y: 0 left or top, 1 right or bottom), how far it is moved from there,
# in its own width and height, and how much worse that is than the first
_SPOTS = np.array([
    (0, 0, 0, -1, 0.0), (1, 0, -1, -1, 0.05),  # above
    (0, 0, 0, 0, 0.1), (1, 0, -1, 0, 0.15),  # inside, at the top
    (0, 1, 0, 0, 0.3), (1, 1, -1, 0, 0.35),  # below
    (0, 1, 0, -1, 0.3), (1, 1, -1, -1, 0.35),  # inside, at the bottom
    (1, 0, 0, 0, 0.5), (0, 0, -1, 0, 0.5), (1, 1, 0, -1, 0.55), (0, 1, -1, -1, 0.55),  # beside
], np.float32)


def place_labels(boxes: NDArray[np.int64], choices: Sequence[Sequence[Plate]],
                 size: tuple[int, int]) -> list[tuple[Plate, int, int] | None]:
    """For each box the plate and where its left and upper corner stands, None where it is left out (see the module).

    ``boxes`` ``[N, 4]`` xyxy are pixels of an image of ``size`` (height, width), both corners inside; ``choices`` are
    the plates of each box, the preferred one first.
    """
    row = _Placing(boxes, choices, size)
    return [row.place(index) for index in range(len(boxes))]


class _Placing:
    """Labels that are placed one after the other; places are judged for many boxes together."""

    def __init__(self, boxes: NDArray[np.int64], choices: Sequence[Sequence[Plate]], size: tuple[int, int]) -> None:
        self.boxes = (boxes + (0, 0, 1, 1)).astype(np.float32)  # both corners are part of the box
        self.choices, self.size = choices, size
        self._taken, self._count = np.zeros((len(boxes), 4), np.float32), 0
        self._together = max(1, AT_ONCE // max(1, len(_SPOTS) * len(boxes)))
        self._of: dict[int, tuple[int, dict[int, list[Floats]]]] = {}  # choice -> block, places by index

    def place(self, index: int) -> tuple[Plate, int, int] | None:
        """Where the label of a box goes; each one is asked for once, in their order."""
        for choice, plate in enumerate(self.choices[index]):
            for place in self._places(index, choice):
                if not _touches(place, self._taken[: self._count]):
                    self._taken[self._count] = place
                    self._count += 1
                    return plate, int(place[0]), int(place[1])
        return None

    def _places(self, index: int, choice: int) -> list[Floats]:
        block = index // self._together
        if self._of.get(choice, (-1,))[0] != block:
            start = block * self._together
            stop = min(start + self._together, len(self.boxes))
            indices = [i for i in range(start, stop) if len(self.choices[i]) > choice]
            plates = [self.choices[i][choice] for i in indices]
            self._of[choice] = block, _ranked(self.boxes, indices, plates, self.size)
        return self._of[choice][1][index]


def _ranked(boxes: Floats, indices: Sequence[int], plates: Sequence[Plate],
            size: tuple[int, int]) -> dict[int, list[Floats]]:
    """The places xyxy of some boxes' plates that the rule allows, the best one first, by the index of the box."""
    sides = np.array([(plate.width, plate.height) for plate in plates], np.float32)  # [n, 2]
    places = _places(boxes[indices], sides, size)  # [n, K, 4]
    covered = _overlaps(places, boxes)  # [n, K, N] pixels
    shares = covered * (1 / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    others = covered.sum(axis=2) - covered[np.arange(len(indices)), :, indices]
    cost = _SPOTS[:, 4] + shares.sum(axis=2) + others / (2 * sides.prod(axis=1)[:, None])
    height, width = size
    inside = (places[..., :2] >= 0).all(axis=2) & (places[..., 2:] <= (width, height)).all(axis=2)
    cost[~inside | (shares.max(axis=2) > MAX_HIDDEN)] = np.inf
    order = cost.argsort(axis=1, kind="stable")
    allowed = np.isfinite(cost).sum(axis=1).tolist()
    return {index: [places[row, spot] for spot in order[row, : allowed[row]]] for row, index in enumerate(indices)}


def _places(boxes: Floats, sides: Floats, size: tuple[int, int]) -> Floats:
    """All places of plates ``[n, K, 4]`` xyxy; those that leave the image to a side are moved into it."""
    x, y = (boxes[:, axis::2][:, _SPOTS[:, axis].astype(int)] + _SPOTS[:, axis + 2] * sides[:, axis, None]
            for axis in (0, 1))  # [n, K]
    x = np.minimum(np.maximum(x, 0), size[1] - sides[:, :1])
    return np.stack((x, y, x + sides[:, :1], y + sides[:, 1:]), axis=2)


def _overlaps(places: Floats, boxes: Floats) -> Floats:
    """Common area of each place ``[n, K, 4]`` and each box ``[N, 4]``: ``[n, K, N]`` pixels."""
    width, height = (np.minimum(places[..., None, axis + 2], boxes[:, axis + 2])
                     - np.maximum(places[..., None, axis], boxes[:, axis]) for axis in (0, 1))
    area: Floats = np.maximum(width, 0, out=width)
    area *= np.maximum(height, 0, out=height)
    return area


def _touches(place: Floats, taken: Floats) -> bool:
    left, top, right, bottom = place.tolist()
    return bool(((taken[:, 0] < right) & (taken[:, 2] > left) & (taken[:, 1] < bottom) & (taken[:, 3] > top)).any())
