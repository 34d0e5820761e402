"""Error analysis: the images with the worst detections, to be looked at.

An image's score is F1 of its detections above a confidence, ``2 right / (2 right + false + missed)``: one number for
what is missed and what is found in vain, that does not depend on the other images (average precision of a single image
does not punish a false detection below its last right one). Detections are right if they are matched with an object of
their class, one to one, the highest IoU first. The lowest score is the worst; among equal ones the image with more
errors, then the first path. Images without an error are never among the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolov7.config import atomic_write
from yolov7.data.images import cv2, encode_image, load_image, resize_long_side
from yolov7.evaluation.comparison import Comparison, Floats, ImageJudge
from yolov7.inference.draw import class_colour, draw_boxes, mosaic_of
from yolov7.inference.lettering import FONT

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet

PAIRS = 2  # images in a row of the sheet, each of them twice
TILE = 400  # pixels
CAPTION = 24  # pixels
FRAME = 2  # pixels around an image, within the tile
INK, PAPER = (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class JudgedImage:
    """One image: what was found, what is there, and what of it is wrong."""

    comparison: Comparison  # N detections above the confidence, M objects
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


class ErrorAnalysis(ImageJudge):
    """The evaluator that keeps the ``keep`` worst images; see the module for what that means.

    The order of images does not matter.
    """

    name = "errors"

    def __init__(self, keep: int = 16, confidence: float = 0.25, iou: float = 0.5) -> None:
        self.keep, self.confidence, self.iou = self.rules = keep, confidence, iou
        self.images: tuple[JudgedImage, ...] = ()  # the worst so far, the very worst first

    def update(self, image: Comparison) -> None:
        """Judge an image."""
        image = image.above(self.confidence)
        rows, columns = image.matches(self.iou, by_class=True).T
        false_mask, missed_mask = np.ones(len(image.labels), bool), np.ones(len(image.true_labels), bool)
        false_mask[rows], missed_mask[columns] = False, False
        if false_mask.any() or missed_mask.any():
            self._keep([JudgedImage(image, false_mask, missed_mask)])

    def merge(self, other: ErrorAnalysis) -> None:
        """Add the images of another process; `ValueError` if that one judged by other rules."""
        if other.rules != self.rules:
            raise ValueError(f"error analysis: number, confidence and IoU are {other.rules}; accepted: {self.rules}")
        self._keep(other.images)

    def _keep(self, images: Sequence[JudgedImage]) -> None:
        worst = sorted([*self.images, *images], key=lambda image: (image.f1, -image.errors, image.comparison.path))
        self.images = tuple(worst[: self.keep])

    def text(self, names: Sequence[str]) -> str:
        """Nothing: it is to be looked at."""
        return ""

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet | None = None) -> None:
        """Write ``worst.jpg``, unless no image has an error."""
        if self.images:
            atomic_write(folder / "worst.jpg", encode_image(error_sheet(self.images, names), ".jpg"))


# --- drawing ---------------------------------------------------------------------------------------------------


def error_sheet(images: Sequence[JudgedImage], names: Sequence[str]) -> np.ndarray:
    """Each image twice, with its objects on the left and its detections on the right: uint8 ``[H, W, 3]`` RGB.

    Errors have the colour and the name of their class, missed objects on the left and false detections on the right;
    what is right has a thin white line. Raises `InputError` for an image that can no longer be read.
    """
    title = "Left: ground truth, missed objects in colour. Right: detections, false ones in colour. White: right."
    strips = [_caption(title if images else "No image has an error.", 2 * PAIRS * TILE)]
    for start in range(0, len(images), PAIRS):
        strips += _row(images[start : start + PAIRS], names)
    return np.concatenate(strips)


def _row(images: Sequence[JudgedImage], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The captions of up to `PAIRS` images, and their pairs without what is grey in all of them."""
    texts = [f"F1 {j.f1:.2f}, missed {j.missed_mask.sum()}, false {j.false_mask.sum()}: "
             f"{PurePath(j.comparison.path).name}" for j in images]
    captions = [_caption(text, 2 * TILE) for text in [*texts, *[""] * (PAIRS - len(texts))]]
    tiles = [tile for judged in images for tile in _pair(judged, names)]
    height = max(len(tile) for tile in tiles)
    top = (TILE - height) // 2
    return np.concatenate(captions, axis=1), mosaic_of(tiles, 2 * PAIRS, TILE)[top : top + height]


def _pair(judged: JudgedImage, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth and detections on the image, framed, with a long side of `TILE` pixels: letters stay sharp."""
    image, found = load_image(judged.comparison.path), judged.comparison
    side = TILE - 2 * FRAME
    ratio = side / max(image.shape[:2])
    image = resize_long_side(image, side, training=False)
    return (
        _drawn(image, found.true_boxes * ratio, found.true_labels, names, judged.missed_mask),
        _drawn(image, found.boxes * ratio, found.labels, names, judged.false_mask, found.scores))


def _drawn(image: np.ndarray, boxes: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str],
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
