"""Rows of COCO JSON in, the curves and numbers of pycocotools out: boxes, masks and key points.

hotcoco runs its loops compiled and is equal to the bit (tested); pycocotools itself stands in where it is missing, and
where there is nothing to compile for.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov7.config import InputError
from yolov7.keypoints import COCO_PERSON
from yolov7.masks import runs_of_text

ImageId = int | str
Size = tuple[int, int]  # height, width
Row = dict[str, Any]
BOXES, MASKS, KEYPOINTS = KINDS = ("bbox", "segm", "keypoints")  # pycocotools' words
MIN_NUMBERS = 6  # of a polygon: three points


@dataclass(frozen=True)
class Scored:
    """Curves of pycocotools and what they were made of."""

    curves: Mapping[str, Any]  # precision [10 IoUs, 101 recalls, C, areas, limits], recall [10, C, areas, limits]
    stats: tuple[float, ...]  # its numbers: 12, of key points 10
    objects: Sequence[Row]  # annotations that were scored; `category_id` counts from 1
    categories: Mapping[ImageId, str]  # id -> name, in the order of the curves
    images: int


def score(kind: str, ground_truth: Mapping[str, Any], detections: Iterable[Row], image_ids: Iterable[ImageId],
          sizes: Mapping[ImageId, Size] | None = None, sigmas: Sequence[float] = ()) -> Scored:
    """Score results of a ``kind``, one of `KINDS`; see `yolov7.evaluation.coco.score_detections`."""
    images = _numbers(image_ids)
    _check_images(ground_truth, images)
    names = _category_names(ground_truth)
    categories = _numbers(names)
    known_sizes = _sizes(ground_truth) | dict(sizes or {})
    truth, found = _PREPARE[kind]
    size_of = {number: known_sizes.get(key, (0, 0)) for key, number in images.items()}
    objects = [truth(a, _common(a), size_of[a["image_id"]], len(sigmas))
               for a in _known(ground_truth.get("annotations") or (), images, categories)]
    results = [found(d) for d in _known(detections, images, categories)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to the terminal
        curves = _curves(kind, _dataset(objects, size_of, categories), _dataset(results, size_of, categories), sigmas)
        stats = _summarize(kind, curves)
    return Scored(curves, stats, objects, {key: names[key] for key in categories}, len(images))


# --- renumbering -----------------------------------------------------------------------------------------------
# pycocotools mixes up ids of different types and takes an object with id 0 for unmatched: everything is renumbered
# from 1, in its own order of ids, which decides between equal scores.


def _numbers(ids: Iterable[ImageId]) -> dict[ImageId, int]:
    ordered = sorted(set(ids), key=lambda key: (isinstance(key, str), key))
    return {key: number for number, key in enumerate(ordered, start=1)}


def _check_images(ground_truth: Mapping[str, Any], images: dict[ImageId, int]) -> None:
    listed = {image["id"] for image in ground_truth.get("images") or ()}
    unlisted = [key for key in images if key not in listed]
    if listed and unlisted:
        raise InputError(
            f"ground truth: {len(unlisted)} of {len(images)} evaluated images are not in its images, first the id "
            f"{unlisted[0]!r}; accepted: ids like {next(iter(listed))!r}")


def _sizes(ground_truth: Mapping[str, Any]) -> dict[ImageId, Size]:
    """Those that the file states."""
    return {image["id"]: (image["height"], image["width"]) for image in ground_truth.get("images") or ()
            if type(image.get("height")) is int and type(image.get("width")) is int}


def _category_names(ground_truth: Mapping[str, Any]) -> dict[ImageId, str]:
    """Category id -> name; without a list of categories, those of the annotations."""
    listed = ground_truth.get("categories")
    if listed is None:
        return {a["category_id"]: str(a["category_id"]) for a in ground_truth.get("annotations") or ()}
    return {category["id"]: str(category.get("name", category["id"])) for category in listed}


def _known(entries: Iterable[Row], images: dict[ImageId, int], categories: dict[ImageId, int]) -> list[Row]:
    """Copies of the entries that count, renumbered."""
    counted = [e for e in entries if e["image_id"] in images and e["category_id"] in categories]
    return [{**e, "id": number, "image_id": images[e["image_id"]], "category_id": categories[e["category_id"]]}
            for number, e in enumerate(counted, start=1)]


# --- annotations and results of each kind ------------------------------------------------------------------------


def _common(annotation: Row) -> Row:
    """What annotations of all kinds have; the area is that of the box where the file says none."""
    box = annotation.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise InputError(f"ground truth: an annotation has the bbox {box!r}; accepted: [left, top, width, height]")
    area = annotation.get("area")
    kept = {key: annotation[key] for key in ("id", "image_id", "category_id", "bbox")}
    return {**kept, "area": box[2] * box[3] if area is None else area, "iscrowd": int(annotation.get("iscrowd") or 0)}


def _true_box(_: Row, common: Row, size: Size, points: int) -> Row:
    return common


def _found_box(detection: Row) -> Row:
    return {**detection, "area": detection["bbox"][2] * detection["bbox"][3], "iscrowd": 0}


def _true_mask(annotation: Row, common: Row, size: Size, points: int) -> Row:
    """With its polygons or run lengths. An object of which only the box is known is neither missed, nor does it make
    what is found there wrong: its box counts as a crowd."""
    segmentation = usable_segmentation(annotation.get("segmentation"), size)
    if segmentation is None:
        left, top, width, height = common["bbox"]
        box = [left, top, left + width, top, left + width, top + height, left, top + height]
        return {**common, "segmentation": [box], "iscrowd": 1}
    if annotation.get("area") is None:
        common = {**common, "area": _mask_area(segmentation, size)}
    return {**common, "segmentation": segmentation}


def _found_mask(detection: Row) -> Row:
    """Without a box, from which the scorer would take the area."""
    kept = {key: detection[key] for key in ("id", "image_id", "category_id", "score", "segmentation")}
    return {**kept, "area": _rle_area(detection["segmentation"]), "iscrowd": 0}


def _true_keypoints(annotation: Row, common: Row, size: Size, points: int) -> Row:
    """With so many key points, none of them labelled where there are none: such an object is ignored."""
    values = annotation.get("keypoints")
    if not isinstance(values, (list, tuple)) or len(values) != 3 * points:
        values = [0] * (3 * points)
    labelled = sum(visibility > 0 for visibility in values[2::3])
    stated = annotation.get("num_keypoints")
    number = stated if type(stated) is int and labelled else labelled
    return {**common, "keypoints": list(values), "num_keypoints": number}


def _found_keypoints(detection: Row) -> Row:
    """With the box around the key points, whose area is that of the detection, as pycocotools has it."""
    x, y = detection["keypoints"][0::3], detection["keypoints"][1::3]
    left, top, right, bottom = min(x), min(y), max(x), max(y)
    kept = {key: detection[key] for key in ("id", "image_id", "category_id", "score", "keypoints")}
    return {**kept, "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
            "iscrowd": 0}


_PREPARE: dict[str, tuple[Callable[[Row, Row, Size, int], Row], Callable[[Row], Row]]] = {
    BOXES: (_true_box, _found_box), MASKS: (_true_mask, _found_mask), KEYPOINTS: (_true_keypoints, _found_keypoints)}


def usable_segmentation(segmentation: Any, size: Size) -> Any:
    """COCO's polygons that can be filled, or a run-length mask of an image of this size; None where it is neither."""
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if isinstance(part, list) and len(part) >= MIN_NUMBERS
                 and len(part) % 2 == 0 and all(type(value) in (int, float) for value in part)]
        return parts or None
    if not isinstance(segmentation, dict) or segmentation.get("size") != list(size):
        return None
    counts = segmentation.get("counts")
    try:
        runs = runs_of_text(counts) if isinstance(counts, (str, bytes)) else counts
    except ValueError:
        return None
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    return segmentation if sum(runs) == size[0] * size[1] else None


def segmentation_rle(segmentation: Any, size: Size) -> Row:
    """A usable segmentation as one run-length mask, by pycocotools."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return dict(segmentation)
    parts = coco_mask.frPyObjects(segmentation, *size)
    merged: Row = coco_mask.merge(parts) if isinstance(parts, list) else parts
    return merged


def _mask_area(segmentation: Any, size: Size) -> float:
    return _rle_area(segmentation_rle(segmentation, size))


def _rle_area(rle: Row) -> float:
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(rle))


# --- pycocotools -------------------------------------------------------------------------------------------------


def _dataset(entries: list[Row], sizes: Mapping[int, Size], categories: Mapping[ImageId, int]) -> Row:
    return {
        "images": [{"id": number, "height": height, "width": width} for number, (height, width) in sizes.items()],
        "categories": [{"id": number, "name": str(number)} for number in categories.values()],
        "annotations": entries}


def _curves(kind: str, truth: Row, found: Row, sigmas: Sequence[float]) -> dict[str, Any]:
    """``precision`` and ``recall``, see `Scored`."""
    make = _compiled_evaluation if truth["annotations"] and found["annotations"] else _plain_evaluation
    evaluation = make(kind, truth, found)
    if kind == KEYPOINTS and tuple(sigmas) != COCO_PERSON.sigmas:  # it knows those, to its own last bit
        evaluation.params.kpt_oks_sigmas = np.array(sigmas) if make is _plain_evaluation else list(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    return {key: np.asarray(evaluation.eval[key]) for key in ("precision", "recall")}


def _compiled_evaluation(kind: str, truth: Row, found: Row) -> Any:
    try:
        from hotcoco import COCO, COCOeval
    except ImportError:
        return _plain_evaluation(kind, truth, found)
    index = COCO(truth)
    return COCOeval(index, index.loadRes(found["annotations"]), kind)


def _plain_evaluation(kind: str, truth: Row, found: Row) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    indices = COCO(), COCO()
    for index, dataset in zip(indices, (truth, found), strict=True):
        index.dataset = dataset
        index.createIndex()
    return COCOeval(*indices, kind)


def _summarize(kind: str, curves: Mapping[str, Any]) -> tuple[float, ...]:
    """The numbers by pycocotools' own code: another order of summation would move the last bit."""
    from pycocotools.cocoeval import COCOeval

    summary: Any = COCOeval(iouType=kind)
    summary.eval = curves
    summary.summarize()
    return tuple(float(value) for value in summary.stats)
