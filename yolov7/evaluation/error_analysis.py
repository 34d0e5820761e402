"""Error analysis: the images with the worst detections, to be looked at.

An image's score is F1 of its detections above a confidence, ``2 right / (2 right + false + missed)``: one number for
what is missed and what is found in vain, that does not depend on the other images (average precision of a single image
does not punish a false detection below its last right one). Detections are right if they are matched with an object of
their class, one to one, the highest IoU first; of key points OKS is the IoU. The lowest score is the worst; among equal
ones the image with more errors, then the first path. Images without an error are never among the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolov7.config import atomic_write
from yolov7.data.images import cv2, load_image
from yolov7.evaluation.comparison import OF_BOXES, Comparison, Floats, ImageJudge, Similarity
from yolov7.evaluation.error_shapes import Mark, find_mark
from yolov7.inference.draw import draw_boxes
from yolov7.inference.sheet import (
    INK,
    PAPER,
    Group,
    Header,
    Panel,
    class_key,
    compose,
    encode_sheet,
    kept_image,
    resized,
)

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet


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

    def __init__(self, keep: int = 16, confidence: float = 0.25, iou: float = 0.5,
                 similarity: Similarity = OF_BOXES) -> None:
        self.similarity, self.name = similarity, similarity.name("errors")
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
        """Write ``worst.jpg``, of masks ``worst_segm.jpg``, unless no image has an error."""
        if self.images:
            mark = find_mark(self.similarity.kind, () if image_set is None else image_set.keypoint_layout.limbs)
            sheet = error_sheet(self.images, names, mark)
            atomic_write(folder / f"{self.similarity.name('worst')}.jpg", encode_sheet(sheet))


# --- drawing ---------------------------------------------------------------------------------------------------

TITLE = "The worst images"
EXPLAINED = ("Pairs: ground truth, missed objects in colour (left) | detections, false ones in colour (right). What is "
             "right has a thin white line.")


def error_sheet(images: Sequence[JudgedImage], names: Sequence[str], mark: Mark | None = None) -> np.ndarray:
    """Each image twice, with its objects on the left and its detections on the right: uint8 ``[H, W, 3]`` RGB.

    Errors have the colour and the name of their class, missed objects on the left and false detections on the right;
    what is right has a thin white line. ``mark`` draws what is compared, where that is not the boxes. Raises
    `InputError` for an image that can no longer be read.
    """
    groups = [Group(_pair(judged, names, mark), PurePath(judged.comparison.path).name) for judged in images]
    wrong = [label for j in images for label in (*j.comparison.true_labels[j.missed_mask].tolist(),
                                                 *j.comparison.labels[j.false_mask].tolist())]
    about = EXPLAINED if images else "No image has an error."
    return compose(Header(TITLE, (about,), class_key(wrong, names)), groups)


def _pair(judged: JudgedImage, names: Sequence[str], mark: Mark | None) -> tuple[Panel, Panel]:
    found = judged.comparison
    image = load_image(found.path)
    size = image.shape[:2]
    image = kept_image(image)
    true_shapes, shapes = (None, None) if mark is None or found.shapes is None else (found.shapes[1], found.shapes[0])

    def panel(side: _Side, caption: str) -> Panel:
        def draw(height: int, width: int) -> np.ndarray:
            ratio = width / size[1], height / size[0]
            canvas = resized(image, height, width).copy()
            if mark is not None and side.shapes is not None:
                mark(canvas, side.shapes, side.labels, side.wrong, ratio)
            else:
                _draw_right(canvas, (side.boxes * np.array(ratio * 2))[~side.wrong])
            return _with_wrong(canvas, side, ratio, names)

        return Panel(size, draw, caption)

    missed, false = judged.missed_mask, judged.false_mask
    return (panel(_Side(found.true_boxes, found.true_labels, missed, None, true_shapes),
                  f"missed: {missed.sum()} of {len(missed)}"),
            panel(_Side(found.boxes, found.labels, false, found.scores, shapes),
                  f"false: {false.sum()} of {len(false)}, F1 {judged.f1:.2f}"))


class _Side(NamedTuple):
    """What one of two pictures shows."""

    boxes: NDArray[np.float32]  # [N, 4] native pixels
    labels: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    scores: Floats | None
    shapes: Any  # for a `Mark`


def _draw_right(canvas: np.ndarray, boxes: Floats) -> None:
    for left, top, right, bottom in np.round(boxes).astype(int).tolist():
        cv2.rectangle(canvas, (left, top), (right, bottom), PAPER, 1)
        cv2.rectangle(canvas, (left - 1, top - 1), (right + 1, bottom + 1), INK, 1)  # seen on light ground, too


def _with_wrong(canvas: np.ndarray, side: _Side, ratio: tuple[float, float], names: Sequence[str]) -> np.ndarray:
    boxes = (side.boxes * np.array(ratio * 2))[side.wrong]
    scores = None if side.scores is None else side.scores[side.wrong]
    return draw_boxes(canvas, boxes, side.labels[side.wrong], names, scores, min_line=2)
