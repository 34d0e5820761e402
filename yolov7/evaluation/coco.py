"""The official COCO score of boxes, masks and key points, equal to pycocotools' to the last bit, and a table by class
(docs/reference.md, COCO results)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolov7.config import InputError, atomic_write
from yolov7.evaluation.coco_scoring import BOXES, KEYPOINTS, MASKS, ImageId, Row, Scored, Size, score

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.structures import Instances

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
KEYPOINT_STATS = (  # of key points, whose OKS stands for the IoU
    ("AP", "OKS 0.50:0.95"),
    ("AP50", "OKS 0.50"),
    ("AP75", "OKS 0.75"),
    ("APm", "medium: area of 32 x 32 to 96 x 96 px"),
    ("APl", "large: area above 96 x 96 px"),
    ("AR", "recall, 20 detections an image"),
    ("AR50", "recall, OKS 0.50"),
    ("AR75", "recall, OKS 0.75"),
    ("ARm", "recall, medium"),
    ("ARl", "recall, large"),
)
RECALL = {BOXES: 8, MASKS: 8, KEYPOINTS: 5}  # where the recall of most detections stands
LIMITS = {BOXES: 100, MASKS: 100, KEYPOINTS: 20}  # detections of a class in an image, the best ones
TITLES = {MASKS: "masks", KEYPOINTS: "key points"}


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
    AR100: float  # with as many detections an image as count: 100, of key points 20


@dataclass(frozen=True)
class CocoResult:
    """``stats`` are pycocotools' 12 numbers in its order (see `STATS`; of key points 10, see `KEYPOINT_STATS`), -1
    where there is no object to measure on.

    The properties serve curves and the choice of the best epoch: they give 0 for -1.
    """

    stats: tuple[float, ...]
    per_class: tuple[ClassResult, ...]
    images: int  # evaluated images, those without objects included
    predictions: Sequence[Row] = field(default=(), compare=False, repr=False)  # COCO results, as scored
    kind: str = BOXES  # what is scored, in pycocotools' words: bbox, segm or keypoints
    counts: bool = True  # in the choice of the best epoch

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
    def fitness(self) -> float | None:
        """What makes an epoch the best: mostly AP (docs/reference.md, Fitness)."""
        return fitness(self.AP, self.AP50) if self.counts else None

    @property
    def numbers(self) -> dict[str, tuple[float, str]]:
        """Name -> number and its meaning."""
        names = KEYPOINT_STATS if self.kind == KEYPOINTS else STATS
        return {name: (value, meaning) for (name, meaning), value in zip(names, self.stats, strict=True)}

    def metrics(self) -> dict[str, float]:
        """The numbers that are followed over a run."""
        return {"AP": self.AP, "AP50": self.AP50, "AP75": self.AP75}

    def table(self) -> dict[str, Any]:
        """``stats``, ``per_class`` and ``images`` as plain values."""
        return {"stats": list(self.stats), "per_class": [asdict(row) for row in self.per_class], "images": self.images}

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet) -> None:
        """Write ``predictions.json``, of masks ``predictions_segm.json``, of key points ``predictions_keypoints.json``.

        These are files of their own: where results have boxes too, pycocotools takes the areas from these.
        """
        write_predictions(folder / named("predictions.json", self.kind), self.predictions)

    def text(self, names: Sequence[str] = ()) -> str:
        """All numbers with their names and a table by class, for people."""
        summary = [f"{name:<6}{_number(value)}  {meaning}" for name, (value, meaning) in self.numbers.items()]
        if self.kind != BOXES:
            summary.insert(0, f"{TITLES[self.kind]}:")
        if not self.objects:
            summary.append("The images have no objects: nothing to measure.")
        return "\n".join([*summary, "", *_table(self)])


def named(file: str, kind: str) -> str:
    """The name of a file of boxes as that of another kind: ``predictions_segm.json``."""
    stem, suffix = file.rsplit(".", 1)
    return file if kind == BOXES else f"{stem}_{kind}.{suffix}"


class CocoEvaluator:
    """An evaluator by the official score; it says of which kind, and what the rows of an image are.

    Where it does not ``count``, its result has no part in the choice of the best epoch.
    """

    name: str  # the kind

    def __init__(self, counts: bool = True) -> None:
        self.counts = counts
        self.predictions: list[Row] = []  # COCO results
        self.evaluated: list[ImageId] = []

    def rows(self, found: Instances, image_set: ImageSet, image_id: ImageId) -> list[Row]:
        """The native detections of an image as COCO results."""
        raise NotImplementedError

    def truth(self, image_set: ImageSet) -> dict[str, Any]:
        """The objects as COCO annotations."""
        return image_set.ground_truth()

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        """The native detections of an image."""
        image_id = image_set.image_ids[index]
        rows = self.rows(found, image_set, image_id)
        if (name := _name_beside(image_set, index)) is not None:
            rows = [{"image_id": image_id, "file_name": name, **row} for row in rows]
        self.predictions += rows
        self.evaluated.append(image_id)

    def merge(self, other: CocoEvaluator) -> None:
        """Add the images of another process behind those of this one."""
        self.predictions += other.predictions
        self.evaluated += other.evaluated

    def result(self, image_set: ImageSet) -> CocoResult:
        """The score of all images so far."""
        sizes = {image_id: (height, width) for image_id, (height, width) in
                 zip(image_set.image_ids, image_set.sizes.tolist(), strict=True)}
        result = score_detections(self.truth(image_set), self.predictions, self.evaluated, self.name, sizes,
                                  image_set.keypoint_layout.sigmas)
        return replace(result, predictions=self.predictions, counts=self.counts)


class CocoBoxes(CocoEvaluator):
    """The evaluator of bounding boxes by the official score."""

    name = BOXES

    def rows(self, found: Instances, image_set: ImageSet, image_id: ImageId) -> list[Row]:
        """See `to_coco`."""
        return to_coco(found, image_id, image_set.category_ids)

    def truth(self, image_set: ImageSet) -> dict[str, Any]:
        """Their boxes are enough."""
        return image_set.ground_truth(shapes=False)


class CocoMasks(CocoEvaluator):
    """The evaluator of masks by the official score; they are kept as run lengths."""

    name = MASKS

    def rows(self, found: Instances, image_set: ImageSet, image_id: ImageId) -> list[Row]:
        """``segmentation`` is the run-length mask, with compressed counts."""
        return [{**row, "segmentation": rle} for row, rle in
                zip(_shared(found, image_id, image_set.category_ids), found.extra["masks"].rles, strict=True)]

    def truth(self, image_set: ImageSet) -> dict[str, Any]:
        """Label files state no areas: those of the masks count then."""
        content = image_set.ground_truth()
        if image_set.annotation_file is None:
            unknown = np.isnan(image_set.objects.area)
            for annotation, is_unknown in zip(content["annotations"], unknown.tolist(), strict=True):
                annotation["area"] = None if is_unknown else annotation["area"]
        return content


class CocoKeypoints(CocoEvaluator):
    """The evaluator of key points by the official score, with the sigmas of the data set."""

    name = KEYPOINTS

    def rows(self, found: Instances, image_set: ImageSet, image_id: ImageId) -> list[Row]:
        """``keypoints`` are x, y in pixels and the score of the visibility, one point after the other.

        Raises `InputError` where the model has other key points than the data set.
        """
        points = found.extra["keypoints"].double()  # [N, K, 3]
        expected = len(image_set.keypoint_names)
        if len(points) and points.shape[1] != expected:
            raise InputError(f"key points: the model finds {points.shape[1]} of an object, but those of the split "
                             f"{image_set.split!r} have {expected}; accepted: as many")
        rows = zip(_shared(found, image_id, image_set.category_ids), points.flatten(1).tolist(), strict=True)
        return [{**row, "keypoints": [round(value, 3) for value in values]} for row, values in rows]


def _name_beside(image_set: ImageSet, index: int) -> str | None:
    """The file's name, where nothing else tells which image has a number: no JSON file, and not the name itself."""
    name = Path(image_set.paths[index])
    is_number = name.stem.isdecimal() and name.stem.isascii() and int(name.stem) == image_set.image_ids[index]
    return None if is_number or image_set.annotation_file is not None else name.name


def score_detections(ground_truth: dict[str, Any], detections: Sequence[Row], image_ids: Iterable[ImageId],
                     kind: str = BOXES, sizes: Mapping[ImageId, Size] | None = None,
                     sigmas: Sequence[float] = ()) -> CocoResult:
    """Score COCO results of a ``kind`` (bbox, segm, keypoints) against COCO annotations, as pycocotools does.

    Only the images in ``image_ids`` count, with or without detections. Annotations may lack ``id``, ``area`` (then
    that of the mask or the box) and ``iscrowd`` (then 0), the file ``info``. Detections of a category that the ground
    truth does not list are ignored. ``sizes`` are height and width of the images, which masks need where the ground
    truth does not state them, ``sigmas`` those of the key points. An object without a usable mask is ignored where
    masks are scored. The input is left as it is.

    Raises `InputError` for images that the ground truth does not know and annotations without box.
    """
    scored = score(kind, ground_truth, detections, image_ids, sizes, sigmas)
    return CocoResult(scored.stats, _per_class(scored), scored.images, kind=kind)


def to_coco(detections: Instances, image_id: ImageId, category_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """Instances in native pixels -> COCO results: ``bbox`` is left, top, width, height in pixels, rounded to 3
    decimals, ``score`` to 5; class ``i`` is the category ``category_ids[i]``."""
    rows = zip(detections.boxes.double().tolist(), _shared(detections, image_id, category_ids), strict=True)
    return [{"image_id": row["image_id"], "category_id": row["category_id"],
             "bbox": [round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3)],
             "score": row["score"]} for (left, top, right, bottom), row in rows]


def _shared(detections: Instances, image_id: ImageId, category_ids: Sequence[int | str]) -> list[Row]:
    """What results of all kinds have."""
    rows = zip(detections.scores.double().tolist(), detections.labels.tolist(), strict=True)
    return [{"image_id": image_id, "category_id": category_ids[label], "score": round(score, 5)}
            for score, label in rows]


def write_predictions(path: str | Path, predictions: Sequence[dict[str, Any]]) -> None:
    """Write COCO results as JSON, whole or not at all."""
    atomic_write(path, json.dumps(list(predictions), separators=(",", ":")))


# --- output ----------------------------------------------------------------------------------------------------


def _per_class(scored: Scored) -> tuple[ClassResult, ...]:
    precision = scored.curves["precision"][..., 0, -1]  # [10 IoUs, 101 recalls, C], all areas, most detections
    recall = scored.curves["recall"][..., 0, -1]  # [10, C]
    rows = []
    for index, name in enumerate(scored.categories.values()):
        counted = [o for o in scored.objects if o["category_id"] == index + 1 and not o["iscrowd"]
                   and o.get("num_keypoints", 1)]
        means = (_mean(p[..., index]) for p in (precision, precision[0], precision[5], recall))
        rows.append(ClassResult(name, len({o["image_id"] for o in counted}), len(counted), *means))
    return tuple(rows)


def _mean(values: Any) -> float:
    """The scorer's mean: -1 stands for absent."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


def _number(value: float) -> str:
    return f"{value:7.3f}" if value >= 0 else f"{'-':>7}"


def _table(result: CocoResult) -> list[str]:
    total = ("all", result.images, result.objects, *(result.stats[i] for i in (0, 1, 2, RECALL[result.kind])))
    present = [astuple(row) for row in result.per_class if row.objects]
    absent = [row.name for row in result.per_class if not row.objects]
    titles = ("images", "objects", "AP", "AP50", "AP75", f"AR{LIMITS[result.kind]}")
    return class_table(titles, [total, *present], absent)


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
