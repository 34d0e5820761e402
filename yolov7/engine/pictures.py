"""Pictures that a run leaves behind: what the model was shown, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolov7.config import write_atomically
from yolov7.data.image_set import ImageSet
from yolov7.data.images import encode_image, load_image
from yolov7.inference.draw import draw_boxes, draw_detections, mosaic_of
from yolov7.structures import Batch, Detections

PICTURES = 16
COLUMNS = 4
TILE = 320  # pixels
SHOWN_SCORE = 0.25


def batch_sheet(batch: Batch, names: tuple[str, ...]) -> np.ndarray:
    """The first pictures of a training batch with their boxes, as the model sees them: uint8 ``[H, W, 3]`` RGB."""
    tiles = []
    for image, boxes, labels, valid in zip(batch.images[:PICTURES].numpy(), batch.targets.boxes, batch.targets.labels,
                                           batch.targets.valid, strict=False):
        picture = np.ascontiguousarray(image.transpose(1, 2, 0))
        tiles.append(draw_boxes(picture, boxes[valid].numpy(), labels[valid].numpy(), names))
    return mosaic_of(tiles, COLUMNS, TILE)


def prediction_sheet(samples: Sequence[tuple[str, Detections]], image_set: ImageSet) -> np.ndarray:
    """Pairs of ground truth (left) and detections (right) of some pictures: uint8 ``[H, W, 3]`` RGB."""
    index_of = {name: index for index, name in enumerate(image_set.paths)}
    tiles = []
    for name, detections in samples:
        image = load_image(name)
        boxes, labels, _ = image_set.objects(index_of[name])
        sure = detections.scores > SHOWN_SCORE
        shown = Detections(detections.boxes[sure], detections.scores[sure], detections.labels[sure], detections.names)
        tiles += [draw_boxes(image, boxes, labels, image_set.names), draw_detections(image, shown, image_set.names)]
    return mosaic_of(tiles, COLUMNS, TILE)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 ``[H, W, 3]`` RGB in the format that the suffix names."""
    write_atomically(path, encode_image(picture, path.suffix))
