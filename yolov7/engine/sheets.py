"""Sheets of images that a run leaves behind: what the model was shown, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolov7.config import InputError, atomic_write
from yolov7.data.image_set import ImageSet
from yolov7.data.images import encode_image, load_image
from yolov7.inference.draw import Overlay, draw_boxes, draw_instances, mosaic_of
from yolov7.structures import Batch, Instances

IMAGES = 16
COLUMNS = 4
TILE = 320  # pixels
SHOWN_SCORE = 0.25


def batch_sheet(batch: Batch, names: tuple[str, ...], draw: Overlay = draw_instances) -> np.ndarray:
    """The first images of a training batch with their objects, as the model sees them: uint8 ``[H, W, 3]`` RGB."""
    tiles = []
    targets = batch.targets
    for index, image in enumerate(batch.images[:IMAGES].numpy()):
        count = int(targets.valid[index].sum())  # objects stand first
        extra = {name: value[index] for name, value in targets.extra.items()}
        truth = Instances(targets.boxes[index], targets.valid[index].float(), targets.labels[index], names, extra)
        tiles.append(draw(np.ascontiguousarray(image.transpose(1, 2, 0)), truth[:count], names, False))
    return mosaic_of(tiles, COLUMNS, TILE)


def prediction_sheet(samples: Sequence[tuple[str, Instances]], image_set: ImageSet,
                     draw: Overlay = draw_instances) -> np.ndarray:
    """Pairs of ground truth (left) and detections (right) of some images: uint8 ``[H, W, 3]`` RGB."""
    index_of = {name: index for index, name in enumerate(image_set.paths)}
    tiles = []
    for name, detections in samples:
        try:
            image = load_image(name)
        except InputError:  # it has gone since
            continue
        truth = image_set.objects_of(index_of[name])
        shown = detections[detections.scores > SHOWN_SCORE]
        tiles += [draw_boxes(image, truth.boxes, truth.labels, image_set.names),
                  draw(image, shown, image_set.names, True)]
    return mosaic_of(tiles, COLUMNS, TILE)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image uint8 ``[H, W, 3]`` RGB in the format that the suffix names."""
    atomic_write(path, encode_image(image, path.suffix))
