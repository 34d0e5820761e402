"""Sheets of images that a run leaves behind: what the model was shown, and what it found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_masks
from torchvision.ops import nms

from yolov7.config import InputError, atomic_write
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.data.objects import Objects
from yolov7.inference.draw import Overlay, draw_boxes, draw_instances, draw_labels
from yolov7.inference.sheet import Group, Header, Panel, class_key, compose, encode_sheet, kept_image, resized
from yolov7.masks import Masks, masks_from, masks_of_rles
from yolov7.structures import Batch, Instances, Targets

IMAGES = 16
SHOWN_SCORE = 0.25
BOLD_BOXES = 10  # up to here boxes have lines of 2 pixels, more have thin ones
BEST = 3  # detections that are shown where no score is high enough
BEST_IOU = 0.5  # of two of them at most: not one box under three names
RULE = "Labels without a free place have smaller letters or are left out."


def batch_sheet(batch: Batch, names: tuple[str, ...], draw: Overlay = draw_instances, title: str = "",
                facts: Mapping[str, Any] = MappingProxyType({})) -> np.ndarray:
    """The first images of a training batch with their objects, as the model sees them: uint8 ``[H, W, 3]`` RGB.

    ``facts`` are those of the instances that a model of this data finds (see `Instances`).
    """
    groups, labels = [], []
    for index, image in enumerate(batch.images[:IMAGES].cpu().numpy()):
        truth = _instances_of(batch.targets, index, image.shape[1:], names, facts)
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
        pair = (_truth_panel(image, truth, image_set, detections.extra.keys(), draw),
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


def _truth_panel(image: np.ndarray, truth: Objects, image_set: ImageSet, columns: Collection[str],
                 draw: Overlay) -> Panel:
    """The objects with those of the columns of the detections that the data set has; without one as boxes alone."""
    found = _instances_of_objects(truth, image_set, image.shape[:2], columns)
    return _panel(image, found, image_set.names, draw if found.extra else draw_instances, False,
                  f"ground truth: {len(truth) or 'none'}")


def instances_of_truth(image_set: ImageSet, index: int, size: tuple[int, int]) -> Instances:
    """The objects of an image of this height and width, with masks and key points where there are some."""
    return _instances_of_objects(image_set.objects_of(index), image_set, size, ("masks", "keypoints"))


def _instances_of_objects(truth: Objects, image_set: ImageSet, size: tuple[int, int],
                          columns: Collection[str]) -> Instances:
    extra: dict[str, Any] = {}
    if "masks" in columns and truth.has_polygon.any():
        extra["masks"] = _masks_of_polygons(list(truth.polygons), size)
    if "keypoints" in columns and truth.keypoints.shape[1]:
        extra["keypoints"] = _scored(torch.from_numpy(np.asarray(truth.keypoints, np.float32)))
    return Instances(torch.from_numpy(np.asarray(truth.boxes, np.float32)), torch.ones(len(truth)),
                     torch.from_numpy(np.asarray(truth.labels)), image_set.names, extra,
                     image_set.keypoint_layout.arguments())


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


# --- what is drawn of objects ----------------------------------------------------------------------------------


def _instances_of(targets: Targets, index: int, size: tuple[int, int], names: tuple[str, ...],
                  facts: Mapping[str, Any]) -> Instances:
    """The objects of one image of a batch, of this height and width, with the columns that a model would find."""
    count = int(targets.valid[index].sum())  # objects stand first
    extra: dict[str, Any] = {name: value[index, :count] for name, value in targets.extra.items()}
    if "masks" in targets.maps:
        index_map = targets.maps["masks"][index].numpy()
        extra["masks"] = _masks_of_cells([index_map == row + 1 for row in range(count)], size)
    elif "masks" in extra:
        extra["masks"] = _masks_of_cells(list(extra["masks"].numpy() > 0), size)
    if "keypoints" in extra:
        extra["keypoints"] = _scored(extra["keypoints"])
    boxes, labels = targets.boxes[index, :count], targets.labels[index, :count]
    return Instances(boxes, torch.ones(count), labels, names, extra, facts)


def _scored(keypoints: torch.Tensor) -> torch.Tensor:
    """Key points ``[N, K, 3]`` with 1 for those that are labelled, hidden ones too, instead of their visibility."""
    return torch.cat((keypoints[..., :2], (keypoints[..., 2:] > 0).to(keypoints.dtype)), dim=-1)


def _masks_of_cells(cells: Sequence[np.ndarray], size: tuple[int, int]) -> Masks:
    """Masks of an image of this height and width, given at a lower resolution: bool ``[h, w]`` each."""
    windows, pixels = [], []
    for part in cells:
        step = size[0] // part.shape[0]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        windows.append((step * left, step * top, step * right, step * bottom))
        pixels.append(part[top:bottom, left:right].repeat(step, axis=0).repeat(step, axis=1))
    return masks_from(windows, pixels, size)


def _masks_of_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> Masks:
    """Masks of closed lines ``[K, 2]`` in pixels, as COCO fills them: edges that are walked both ways leave none."""
    height, width = size
    nothing = {"size": [height, width], "counts": [height * width]}
    lines = [line.astype(np.float64).reshape(-1).tolist() for line in polygons]
    return masks_of_rles([coco_masks.frPyObjects([line], height, width)[0] if line
                          else coco_masks.frPyObjects(nothing, height, width) for line in lines], size)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image uint8 ``[H, W, 3]`` RGB in the format that the suffix names, a JPEG with a bound on its size."""
    atomic_write(path, encode_sheet(image, path.suffix))
