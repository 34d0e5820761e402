"""The pictures with the worst detections, to be looked at.

A picture's score is F1 of its detections above a confidence, ``2 right / (2 right + false + missed)``: one number
for what is missed and what is found in vain, that does not depend on the other pictures (average precision of a
single picture does not punish a false detection below its last right one). Detections are right if they are matched
with an object of their class, one to one, the highest IoU first. The lowest score is the worst; among equal ones the
picture with more errors, then the first path. Pictures without an error are never among the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yolov7.data.images import cv2, load_image, resize_long_side
from yolov7.evaluation.confusion import Floats, Picture
from yolov7.inference.draw import FONT, class_colour, draw_boxes, mosaic_of

PAIRS = 2  # pictures in a row of the sheet, each of them twice
TILE = 400  # pixels
CAPTION = 24  # pixels
FRAME = 2  # pixels around a picture, within the tile
INK, PAPER = (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class JudgedPicture:
    """One picture: what was found, what is there, and what of it is wrong."""

    path: str
    picture: Picture  # N detections above the confidence, M objects
    false_mask: NDArray[np.bool_]  # [N] detections without an object of their class
    missed_mask: NDArray[np.bool_]  # [M] objects without a detection of their class

    @property
    def errors(self) -> int:
        """False detections and missed objects."""
        return int(self.false_mask.sum()) + int(self.missed_mask.sum())

    @property
    def f1(self) -> float:
        """The score, 0..1; 1 if there is neither an object nor a detection."""
        counted = len(self.false_mask) + len(self.missed_mask)  # twice the right ones, and the errors
        return 1 - self.errors / counted if counted else 1.0

    @property
    def order(self) -> tuple[float, int, str]:
        """Worst first."""
        return self.f1, -self.errors, self.path


class WorstPictures:
    """Collects pictures one at a time and keeps the ``keep`` worst; see the module for what that means.

    To share the work among processes give each its own collector, send the collectors (they pickle) to one place and
    `merge` them there; the order of pictures does not matter.
    """

    def __init__(self, keep: int = 16, confidence: float = 0.25, iou: float = 0.5) -> None:
        self.keep = keep
        self.confidence = confidence
        self.iou = iou
        self._kept: list[JudgedPicture] = []

    @property
    def pictures(self) -> tuple[JudgedPicture, ...]:
        """The worst so far, the very worst first; fewer than ``keep`` if there are no more with an error."""
        return tuple(self._kept)

    def add(self, path: str, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, true_boxes: ArrayLike,
            true_labels: ArrayLike) -> None:
        """Judge a picture: N detections and M objects, arrays or tensors in memory of the host.

        ``boxes [N, 4]`` and ``true_boxes [M, 4]`` are xyxy in native pixels, ``scores [N]`` 0..1, ``labels [N]`` and
        ``true_labels [M]`` class indices; zero rows where there are none. Raises `ValueError` for unequal lengths.
        """
        picture = Picture.of(boxes, scores, labels, true_boxes, true_labels, self.confidence)
        rows, columns = picture.matches(self.iou, by_class=True).T
        false_mask, missed_mask = np.ones(len(picture.labels), bool), np.ones(len(picture.true_labels), bool)
        false_mask[rows], missed_mask[columns] = False, False
        if false_mask.any() or missed_mask.any():
            self._keep([JudgedPicture(path, picture, false_mask, missed_mask)])

    def merge(self, other: WorstPictures) -> None:
        """Add the pictures of another collector; `ValueError` if that one judges by other rules."""
        rules = [(w.keep, w.confidence, w.iou) for w in (self, other)]
        if rules[0] != rules[1]:
            raise ValueError(f"worst pictures: number, confidence and IoU are {rules[1]}; accepted: {rules[0]}")
        self._keep(other._kept)

    def _keep(self, pictures: Sequence[JudgedPicture]) -> None:
        self._kept = sorted([*self._kept, *pictures], key=lambda judged: judged.order)[: self.keep]


# --- drawing ---------------------------------------------------------------------------------------------------


def worst_sheet(pictures: Sequence[JudgedPicture], names: Sequence[str]) -> np.ndarray:
    """Each picture twice, with its objects on the left and its detections on the right: uint8 ``[H, W, 3]`` RGB.

    Errors have the colour and the name of their class, missed objects on the left and false detections on the right;
    what is right has a thin white line. Raises `InputError` for a picture that can no longer be read.
    """
    title = "Left: ground truth, missed objects in colour. Right: detections, false ones in colour. White: right."
    strips = [_caption(title if pictures else "No picture has an error.", 2 * PAIRS * TILE)]
    for start in range(0, len(pictures), PAIRS):
        strips += _row(pictures[start : start + PAIRS], names)
    return np.concatenate(strips)


def _row(pictures: Sequence[JudgedPicture], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The captions of up to `PAIRS` pictures, and their pairs without what is grey in all of them."""
    texts = [f"F1 {j.f1:.2f}, missed {j.missed_mask.sum()}, false {j.false_mask.sum()}: {PurePath(j.path).name}"
             for j in pictures]
    captions = [_caption(text, 2 * TILE) for text in [*texts, *[""] * (PAIRS - len(texts))]]
    tiles = [tile for judged in pictures for tile in _pair(judged, names)]
    height = max(len(tile) for tile in tiles)
    top = (TILE - height) // 2
    return np.concatenate(captions, axis=1), mosaic_of(tiles, 2 * PAIRS, TILE)[top : top + height]


def _pair(judged: JudgedPicture, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and detections on the picture, framed, with a long side of `TILE` pixels: letters stay sharp."""
    image, found = load_image(judged.path), judged.picture
    side = TILE - 2 * FRAME
    ratio = side / max(image.shape[:2])
    image = resize_long_side(image, side, training=False)
    return (
        _drawn(image, found.true_boxes * ratio, found.true_labels, names, judged.missed_mask),
        _drawn(image, found.boxes * ratio, found.labels, names, judged.false_mask, found.scores),
    )


def _drawn(image: np.ndarray, boxes: Floats, labels: NDArray[np.int64], names: Sequence[str],
           wrong: NDArray[np.bool_], scores: Floats | None = None) -> np.ndarray:
    canvas = image.copy()
    corners = np.round(boxes).astype(int)
    for left, top, right, bottom in corners[~wrong].tolist():
        cv2.rectangle(canvas, (left, top), (right, bottom), PAPER, 1)
        cv2.rectangle(canvas, (left - 1, top - 1), (right + 1, bottom + 1), INK, 1)  # seen on light ground, too
    for (left, top, right, bottom), label in zip(corners[wrong].tolist(), labels[wrong].tolist(), strict=True):
        cv2.rectangle(canvas, (left, top), (right, bottom), class_colour(label), 2)  # bolder than below
    canvas = draw_boxes(canvas, boxes[wrong], labels[wrong], names, None if scores is None else scores[wrong])
    return np.pad(canvas, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), constant_values=PAPER[0])


def _caption(text: str, width: int) -> np.ndarray:
    """A white strip ``[CAPTION, width, 3]`` with a text, cut where the strip ends."""
    strip = np.full((CAPTION, width, 3), PAPER, np.uint8)
    readable = text.encode("ascii", "replace").decode()  # the font has no other letters
    cv2.putText(strip, readable, (4, CAPTION - 8), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return strip
