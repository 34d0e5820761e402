"""Small images for pages: a whole image with its objects, or an object with what is around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.images import encode_image, load_image
from yolov7.engine.sheets import instances_of_truth
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.sheet import resized
from yolov7.pages import Image
from yolov7.structures import Instances
from yolov7.tasks.base import find_task

LARGE, SMALL = 360, 200  # pixels of the longer side
AROUND = 1.0  # of an object's longer side, on every side of it
MIN_AROUND = 24  # pixels
QUALITY = 80  # of JPEG


def overlay_of(image_set: ImageSet) -> Overlay:
    """How the objects of a split are drawn: with key points or masks where it has some."""
    if image_set.objects.keypoints.shape[1]:
        return find_task("PoseHead").draw
    return find_task("SegmentHead").draw if image_set.objects.has_polygon.any() else draw_instances


def whole_image(image_set: ImageSet, index: int, text: str, side: int = LARGE, draw: Overlay | None = None) -> Image:
    """An image of a split with its objects."""
    try:
        image = load_image(image_set.paths[index])
    except InputError as error:
        return unreadable(f"{text}: {error}")
    truth = instances_of_truth(image_set, index, image.shape[:2])
    return drawn(image, truth, text, side, draw or overlay_of(image_set))


def drawn(image: np.ndarray, found: Instances, text: str, side: int, draw: Overlay = draw_instances,
          with_scores: bool = False) -> Image:
    """An image with instances, drawn in the size that is shown so that lines and letters are seen."""
    height, width = image.shape[:2]
    gain = min(side / max(height, width), 1.0)
    size = max(round(height * gain), 1), max(round(width * gain), 1)
    if draw is not draw_instances:
        image = draw(image, found, found.names, with_scores)
        return _image(resized(image, *size), text)
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    smaller = Instances(found.boxes.float() * scale, found.scores, found.labels, found.names)
    return _image(draw_instances(resized(image, *size), smaller, found.names, with_scores), text)


def around(path: str, box: Sequence[float], label: int, names: tuple[str, ...], text: str, side: int = SMALL) -> Image:
    """An object, xyxy in pixels of its image, with what is around it."""
    try:
        image = load_image(path)
    except InputError as error:
        return unreadable(f"{text}: {error}")
    height, width = image.shape[:2]
    left, top, right, bottom = (float(value) for value in box)
    margin = max(max(right - left, bottom - top) * AROUND, MIN_AROUND)
    x0, y0 = max(int(left - margin), 0), max(int(top - margin), 0)
    x1, y1 = min(int(right + margin) + 1, width), min(int(bottom + margin) + 1, height)
    part = np.ascontiguousarray(image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])
    gain = side / max(part.shape[:2])
    part = resized(part, max(round(part.shape[0] * gain), 1), max(round(part.shape[1] * gain), 1))
    place = torch.tensor([[left - x0, top - y0, right - x0, bottom - y0]]) * gain
    one = Instances(place, torch.ones(1), torch.tensor([label]), names)
    return _image(draw_instances(part, one, names, False), text)


def unreadable(text: str) -> Image:
    """A grey field in place of an image that cannot be read."""
    return _image(np.full((SMALL // 2, SMALL, 3), 150, np.uint8), text)


def _image(image: np.ndarray, text: str) -> Image:
    return Image(encode_image(image, ".jpg", QUALITY), text)
