"""Sheets of images that a run leaves behind: what the model was shown, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
from torchvision.ops import nms

from yolov7.config import InputError, atomic_write
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.data.objects import Objects
from yolov7.inference.draw import Overlay, draw_boxes, draw_instances, draw_labels
from yolov7.inference.sheet import Group, Header, Panel, class_key, compose, encode_sheet, kept_image, resized
from yolov7.structures import Batch, Instances

IMAGES = 16
SHOWN_SCORE = 0.25
BOLD_BOXES = 10  # up to here boxes have lines of 2 pixels, more have thin ones
BEST = 3  # detections that are shown where no score is high enough
BEST_IOU = 0.5  # of two of them at most: not one box under three names
RULE = "Labels without a free place have smaller letters or are left out."


def batch_sheet(batch: Batch, names: tuple[str, ...], draw: Overlay = draw_instances, title: str = "") -> np.ndarray:
    """The first images of a training batch with their objects, as the model sees them: uint8 ``[H, W, 3]`` RGB."""
    targets = batch.targets
    groups, labels = [], []
    for index, image in enumerate(batch.images[:IMAGES].numpy()):
        count = int(targets.valid[index].sum())  # objects stand first
        extra = {name: value[index] for name, value in targets.extra.items()}
        truth = Instances(targets.boxes[index], targets.valid[index].float(), targets.labels[index], names,
                          extra)[:count]
        panel = _panel(np.ascontiguousarray(image.transpose(1, 2, 0)), truth, names, draw, False)
        groups.append(Group((panel,), _source_of(batch, index)))
        labels += truth.labels.tolist()
    height, width = batch.images.shape[2:]
    shown = f"the first {len(groups)} of " if len(groups) < len(batch.images) else ""
    about = (f"{shown}{len(batch.images)} images as the network sees them, {width} x {height} px after augmentation, "
             f"with their objects. {RULE}")
    return compose(Header(title or "Training batch", (about[0].upper() + about[1:],), class_key(labels, names)), groups)


def _source_of(batch: Batch, index: int) -> str:
    if index >= len(batch.metas):
        return ""
    meta = batch.metas[index]
    return PurePath(meta.path).name + (" and others" if meta.mosaic else "")


def prediction_sheet(samples: Sequence[tuple[str, Instances]], image_set: ImageSet, draw: Overlay = draw_instances,
                     title: str = "", min_score: float = SHOWN_SCORE) -> np.ndarray:
    """Pairs of ground truth (left) and detections (right) of some images: uint8 ``[H, W, 3]`` RGB.

    Detections have a score of ``min_score`` or more; where none has, but there are objects, the best ones are shown,
    which their caption says.
    """
    index_of = {name: index for index, name in enumerate(image_set.paths)}
    groups, labels = [], []
    for name, detections in samples:
        try:
            image = load_image(name)
        except InputError:  # it has gone since
            continue
        truth = image_set.objects_of(index_of[name])
        found, caption, alert = _chosen(detections, len(truth), min_score)
        pair = (_truth_panel(image, truth, image_set.names),
                _panel(image, found, image_set.names, draw, True, f"predicted: {caption}", alert))
        groups.append(Group(pair, PurePath(name).name))
        labels += [*truth.labels.tolist(), *found.labels.tolist()]
    about = f"Pairs: ground truth (left) | predicted with score >= {min_score:g} (right). {RULE}"
    return compose(Header(title or "Predictions", (about,), class_key(labels, image_set.names)), groups)


def _chosen(detections: Instances, objects: int, min_score: float) -> tuple[Instances, str, bool]:
    """Detections to be shown, what they are called, and whether that needs attention."""
    shown = detections[detections.scores >= min_score]
    if len(shown):
        return shown, str(len(shown)), False
    if not objects:
        return shown, "none", False
    best = detections[nms(detections.boxes.float(), detections.scores.float(), BEST_IOU)[:BEST]]
    return best, f"best {len(best)}, below {min_score:g}" if len(best) else "none", True


def _truth_panel(image: np.ndarray, truth: Objects, names: tuple[str, ...]) -> Panel:
    found = Instances(torch.from_numpy(np.asarray(truth.boxes, np.float32)), torch.ones(len(truth)),
                      torch.from_numpy(np.asarray(truth.labels)), names)
    return _panel(image, found, names, draw_instances, False, f"ground truth: {len(truth) or 'none'}")


def _panel(image: np.ndarray, found: Instances, names: Sequence[str], draw: Overlay, with_scores: bool,
           caption: str = "", alert: bool = False) -> Panel:
    """An image with its instances, whose boxes and labels are drawn in the size of its place.

    What a task draws may be in pixels of the image: it is drawn there, without labels.
    """
    height, width = image.shape[:2]
    if draw is not draw_instances:
        image = draw(image, found, ("",) * len(names), False)
    image = kept_image(image)
    boxes, scores, labels = (column.detach().cpu().numpy() for column in (found.boxes, found.scores, found.labels))
    written, min_line = scores if with_scores else None, 2 if len(boxes) <= BOLD_BOXES else 1

    def drawn(panel_height: int, panel_width: int) -> np.ndarray:
        panel = resized(image, panel_height, panel_width)
        places = boxes * np.array((panel_width / width, panel_height / height) * 2)
        if draw is draw_instances:
            return draw_boxes(panel, places, labels, names, written, min_line)
        return draw_labels(panel, places, labels, names, written)

    return Panel((height, width), drawn, caption, alert)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image uint8 ``[H, W, 3]`` RGB in the format that the suffix names, a JPEG with a bound on its size."""
    atomic_write(path, encode_sheet(image, path.suffix))
