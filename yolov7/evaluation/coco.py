"""The official COCO score: 12 numbers, equal to pycocotools' to the last bit, and a table by class (docs/reference.md,
COCO results)."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolov7.config import InputError, atomic_write

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.structures import Instances

ImageId = int | str
STATS = (  # in pycocotools' order: name, what is averaged
    ("AP", "IoU 0.50:0.95"),
    ("AP50", "IoU 0.50"),
    ("AP75", "IoU 0.75"),
    ("APs", "small: area below 32 x 32 px"),
    ("APm", "medium"),
    ("APl", "large: area above 96 x 96 px"),
    ("AR1", "recall, 1 detection an image"),
    ("AR10", "recall, 10 detections an image"),
    ("AR100", "recall, 100 detections an image"),
    ("ARs", "recall, small"),
    ("ARm", "recall, medium"),
    ("ARl", "recall, large"),
)


def fitness(ap: float, ap50: float) -> float:
    """What makes an epoch the best: mostly AP (docs/reference.md, Fitness)."""
    return 0.9 * ap + 0.1 * ap50


@dataclass(frozen=True)
class ClassResult:
    """Scores of one class, -1 where it has no objects."""

    name: str
    images: int  # evaluated images with objects of the class
    objects: int  # without iscrowd=1 annotations
    AP: float
    AP50: float
    AP75: float
    AR100: float


@dataclass(frozen=True)
class CocoResult:
    """``stats`` are pycocotools' 12 numbers in its order (see `STATS`), -1 where there is no object to measure on.

    The properties serve curves and the choice of the best epoch: they give 0 for -1.
    """

    stats: tuple[float, ...]
    per_class: tuple[ClassResult, ...]
    images: int  # evaluated images, those without objects included
    predictions: Sequence[dict[str, Any]] = field(default=(), compare=False, repr=False)  # COCO results, as scored

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get: they have no use for the predictions, of which there are many."""
        return vars(self) | {"predictions": ()}

    @property
    def AP(self) -> float:  # noqa: N802 - the metric's name
        """Mean over IoU 0.50:0.95 and classes."""
        return max(self.stats[0], 0.0)

    @property
    def AP50(self) -> float:  # noqa: N802
        """At IoU 0.50."""
        return max(self.stats[1], 0.0)

    @property
    def AP75(self) -> float:  # noqa: N802
        """At IoU 0.75."""
        return max(self.stats[2], 0.0)

    @property
    def objects(self) -> int:
        """Objects that count: all but iscrowd=1 annotations."""
        return sum(row.objects for row in self.per_class)

    @property
    def fitness(self) -> float:
        """What makes an epoch the best: mostly AP (docs/reference.md, Fitness)."""
        return fitness(self.AP, self.AP50)

    def metrics(self) -> dict[str, float]:
        """The numbers that are followed over a run."""
        return {"AP": self.AP, "AP50": self.AP50, "AP75": self.AP75}

    def table(self) -> dict[str, Any]:
        """``stats``, ``per_class`` and ``images`` as plain values."""
        return {"stats": list(self.stats), "per_class": [asdict(row) for row in self.per_class], "images": self.images}

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet) -> None:
        """Write ``predictions.json``."""
        write_predictions(folder / "predictions.json", self.predictions)

    def text(self, names: Sequence[str] = ()) -> str:
        """The 12 numbers with their names and a table by class, for people."""
        numbers = zip(STATS, self.stats, strict=True)
        summary = [f"{name:<6}{_number(value)}  {meaning}" for (name, meaning), value in numbers]
        if not self.objects:
            summary.append("The images have no objects: nothing to measure.")
        return "\n".join([*summary, "", *_table(self)])


class CocoBoxes:
    """The evaluator of bounding boxes by the official score."""

    name = "bbox"  # pycocotools' word for them

    def __init__(self) -> None:
        self.predictions: list[dict[str, Any]] = []  # COCO results
        self.evaluated: list[ImageId] = []

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        """The native detections of an image."""
        image_id = image_set.image_ids[index]
        rows = to_coco(found, image_id, image_set.category_ids)
        if (name := _name_beside(image_set, index)) is not None:
            rows = [{"image_id": image_id, "file_name": name, **row} for row in rows]
        self.predictions += rows
        self.evaluated.append(image_id)

    def merge(self, other: CocoBoxes) -> None:
        """Add the images of another process behind those of this one."""
        self.predictions += other.predictions
        self.evaluated += other.evaluated

    def result(self, image_set: ImageSet) -> CocoResult:
        """The score of all images so far."""
        result = score_detections(image_set.ground_truth(), self.predictions, self.evaluated)
        return replace(result, predictions=self.predictions)


def _name_beside(image_set: ImageSet, index: int) -> str | None:
    """The file's name, where nothing else tells which image has a number: no JSON file, and not the name itself."""
    name = Path(image_set.paths[index])
    is_number = name.stem.isdecimal() and name.stem.isascii() and int(name.stem) == image_set.image_ids[index]
    return None if is_number or image_set.annotation_file is not None else name.name


def score_detections(ground_truth: dict[str, Any], detections: Sequence[dict[str, Any]],
                     image_ids: Iterable[ImageId]) -> CocoResult:
    """Score COCO results against COCO annotations, as pycocotools does.

    Only the images in ``image_ids`` count, with or without detections. Annotations may lack ``id``, ``area`` (then
    that of the box) and ``iscrowd`` (then 0), the file ``info``. Detections of a category that the ground truth does
    not list are ignored. The input is left as it is.

    Raises `InputError` for images that the ground truth does not know and annotations without box.
    """
    images = _numbers(image_ids)
    _check_images(ground_truth, images)
    names = _category_names(ground_truth)
    categories = _numbers(names)
    objects = [_ground_truth(a) for a in _known(ground_truth.get("annotations") or (), images, categories)]
    results = [{**d, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for d in _known(detections, images, categories)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to the terminal
        curves = _curves(*(_dataset(entries, images, categories) for entries in (objects, results)))
        stats = _summarize(curves)
    per_class = _per_class(curves, list(categories), names, objects)
    return CocoResult(stats, per_class, len(images))


def to_coco(detections: Instances, image_id: ImageId, category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """Instances in native pixels -> COCO results: ``bbox`` is left, top, width, height in pixels, rounded to 3
    decimals, ``score`` to 5; class ``i`` is the category ``category_ids[i]``."""
    rows = zip(detections.boxes.double().tolist(), detections.scores.double().tolist(), detections.labels.tolist(),
               strict=True)
    return [{"image_id": image_id, "category_id": category_ids[label],
             "bbox": [round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3)],
             "score": round(score, 5)} for (left, top, right, bottom), score, label in rows]


def write_predictions(path: str | Path, predictions: Sequence[dict[str, Any]]) -> None:
    """Write COCO results as JSON, whole or not at all."""
    atomic_write(path, json.dumps(list(predictions), separators=(",", ":")))


# --- input for pycocotools -------------------------------------------------------------------------------------
# It mixes up ids of different types and takes an object with id 0 for unmatched: everything is renumbered from 1,
# in its own order of ids, which decides between equal scores.


def _numbers(ids: Iterable[ImageId]) -> dict[ImageId, int]:
    ordered = sorted(set(ids), key=lambda key: (isinstance(key, str), key))
    return {key: number for number, key in enumerate(ordered, start=1)}


def _check_images(ground_truth: dict[str, Any], images: dict[ImageId, int]) -> None:
    listed = {image["id"] for image in ground_truth.get("images") or ()}
    unlisted = [key for key in images if key not in listed]
    if listed and unlisted:
        raise InputError(
            f"ground truth: {len(unlisted)} of {len(images)} evaluated images are not in its images, first the id "
            f"{unlisted[0]!r}; accepted: ids like {next(iter(listed))!r}")


def _category_names(ground_truth: dict[str, Any]) -> dict[ImageId, str]:
    """Category id -> name; without a list of categories, those of the annotations."""
    listed = ground_truth.get("categories")
    if listed is None:
        return {a["category_id"]: str(a["category_id"]) for a in ground_truth.get("annotations") or ()}
    return {category["id"]: str(category.get("name", category["id"])) for category in listed}


def _known(entries: Iterable[dict[str, Any]], images: dict[ImageId, int],
           categories: dict[ImageId, int]) -> list[dict[str, Any]]:
    """Copies of the entries that count, renumbered."""
    counted = [e for e in entries if e["image_id"] in images and e["category_id"] in categories]
    return [{**e, "id": number, "image_id": images[e["image_id"]], "category_id": categories[e["category_id"]]}
            for number, e in enumerate(counted, start=1)]


def _ground_truth(annotation: dict[str, Any]) -> dict[str, Any]:
    box = annotation.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise InputError(f"ground truth: an annotation has the bbox {box!r}; accepted: [left, top, width, height]")
    area = annotation.get("area")
    area = box[2] * box[3] if area is None else area
    kept = {key: annotation[key] for key in ("id", "image_id", "category_id", "bbox")}
    return {**kept, "area": area, "iscrowd": int(annotation.get("iscrowd") or 0)}


def _dataset(entries: list[dict[str, Any]], images: dict[ImageId, int],
             categories: dict[ImageId, int]) -> dict[str, Any]:
    return {
        "images": [{"id": number} for number in images.values()],
        "categories": [{"id": number, "name": str(number)} for number in categories.values()],
        "annotations": entries}


def _curves(truth: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """``precision`` [10 IoUs, 101 recalls, C, 4 areas, 3 limits] and ``recall`` [10, C, 4, 3] of pycocotools.

    hotcoco runs its loops compiled and is equal to the bit (tested); pycocotools itself stands in where it is
    missing, and where there is nothing to compile for.
    """
    make = _compiled_evaluation if truth["annotations"] and found["annotations"] else _plain_evaluation
    evaluation = make(truth, found)
    evaluation.evaluate()
    evaluation.accumulate()
    return {key: np.asarray(evaluation.eval[key]) for key in ("precision", "recall")}


def _compiled_evaluation(truth: dict[str, Any], found: dict[str, Any]) -> Any:
    try:
        from hotcoco import COCO, COCOeval
    except ImportError:
        return _plain_evaluation(truth, found)
    index = COCO(truth)
    return COCOeval(index, index.loadRes(found["annotations"]), "bbox")


def _plain_evaluation(truth: dict[str, Any], found: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    indices = COCO(), COCO()
    for index, dataset in zip(indices, (truth, found), strict=True):
        index.dataset = dataset
        index.createIndex()
    return COCOeval(*indices, "bbox")


def _summarize(curves: dict[str, Any]) -> tuple[float, ...]:
    """The 12 numbers by pycocotools' own code: another order of summation would move the last bit."""
    from pycocotools.cocoeval import COCOeval

    summary: Any = COCOeval(iouType="bbox")
    summary.eval = curves
    summary.summarize()
    return tuple(float(value) for value in summary.stats)


# --- output ----------------------------------------------------------------------------------------------------


def _per_class(curves: dict[str, Any], order: list[ImageId], names: dict[ImageId, str],
               objects: list[dict[str, Any]]) -> tuple[ClassResult, ...]:
    precision = curves["precision"][..., 0, -1]  # [10 IoUs, 101 recalls, C], all areas, 100 detections
    recall = curves["recall"][..., 0, -1]  # [10, C]
    rows = []
    for index, category in enumerate(order):
        counted = [o for o in objects if o["category_id"] == index + 1 and not o["iscrowd"]]
        means = (_mean(p[..., index]) for p in (precision, precision[0], precision[5], recall))
        rows.append(ClassResult(names[category], len({o["image_id"] for o in counted}), len(counted), *means))
    return tuple(rows)


def _mean(values: Any) -> float:
    """The scorer's mean: -1 stands for absent."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _number(value: float) -> str:
    return f"{value:7.3f}" if value >= 0 else f"{'-':>7}"


def _table(result: CocoResult) -> list[str]:
    total = ("all", result.images, result.objects, *(result.stats[i] for i in (0, 1, 2, 8)))
    present = [astuple(row) for row in result.per_class if row.objects]
    absent = [row.name for row in result.per_class if not row.objects]
    return class_table(("images", "objects", "AP", "AP50", "AP75", "AR100"), [total, *present], absent)


def class_table(titles: Sequence[str], rows: Sequence[tuple[Any, ...]], absent: Sequence[str]) -> list[str]:
    """The lines of a table by class: rows have a name, counts and scores; ``absent`` classes are named below."""
    first = max(len("class"), *(len(name) for name, *_ in rows))
    widths = [max(len(title) + 2, 7) for title in titles]
    lines = []
    for name, *values in (("class", *titles), *rows):
        cells = (_number(value) if isinstance(value, float) else value for value in values)
        lines.append(f"{name:<{first}}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
    if absent:
        lines.append(f"without objects, not counted ({len(absent)}): {', '.join(absent)}")
    return lines
