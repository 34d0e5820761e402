"""The numbers of an evaluation under their names, with what each of them means; and the same for pandas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yolov7.evaluation.coco import LIMITS, RECALL, STATS, TITLES, CocoResult
from yolov7.evaluation.v7_metric import V7Result
from yolov7.runtime.tables import data_frame

if TYPE_CHECKING:
    import pandas

MEANINGS = {
    "AP": "average precision, mean over classes and IoU 0.50:0.95 (the official COCO score)",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    **{name: f"average precision of objects by area, {what}" for name, what in STATS[3:6]},
    **{name: f"average {what}" for name, what in STATS[6:]},
}
V7_MEANING = ("by the metric of the reference implementation, whose rules are not quite COCO's "
              "(docs/reference.md, v7 metric)")
V7_MEANINGS = {
    "v7_AP": f"average precision over IoU 0.50:0.95 {V7_MEANING}",
    "v7_AP50": f"average precision at IoU 0.50 {V7_MEANING}; the area below the curves of precision_recall.png",
}
BEST_F1 = ("where F1 at IoU 0.50, averaged over classes, is best over all score thresholds; precision and recall are "
           "means over classes there (the curves of confidence.png)")
MEAN = "all"  # the row of the mean over classes


def named_metrics(official: CocoResult | None, v7: V7Result | None,
                  others: Sequence[CocoResult | V7Result] = ()) -> dict[str, dict[str, Any]]:
    """Name -> ``value`` (None where there is nothing to measure on) and ``meaning``.

    ``others`` are the scores of masks or key points, whose names begin with their kind: ``segm_AP``.
    """
    values: dict[str, float | None] = {}
    if official:
        values |= {name: _known(value) for (name, _), value in zip(STATS, official.stats, strict=True)}
    if v7:
        values |= {"v7_AP": v7.AP, "v7_AP50": v7.AP50} if v7.objects.size else dict.fromkeys(V7_MEANINGS)
    metrics = {name: {"value": value, "meaning": (MEANINGS | V7_MEANINGS)[name]} for name, value in values.items()}
    for other in others:
        metrics |= _of_task(other) if isinstance(other, CocoResult) else _v7_of_task(other)
    return metrics


def _of_task(result: CocoResult) -> dict[str, dict[str, Any]]:
    return {f"{result.kind}_{name}": {"value": _known(value), "meaning": f"{TITLES[result.kind]}: {_spelt(name)}, "
                                                                         f"{meaning.removeprefix('recall, ')}"}
            for name, (value, meaning) in result.numbers.items()}


def _spelt(name: str) -> str:
    return "average precision" if name.startswith("AP") else "average recall"


def _v7_of_task(result: V7Result) -> dict[str, dict[str, Any]]:
    kind, rows = result.name.removeprefix("v7"), {}
    for name, value in (("AP", result.AP), ("AP50", result.AP50)):
        meaning = V7_MEANINGS[f"v7_{name}"].replace("recall.png", f"recall{kind}.png")
        rows[f"{result.name}_{name}"] = {"value": value if result.objects.size else None,
                                         "meaning": f"{result.word}: {meaning}"}
    return rows


def class_rows(official: CocoResult | None, v7: V7Result | None, names: Sequence[str],
               others: Sequence[CocoResult] = ()) -> dict[str, dict[str, Any]]:
    """Class -> numbers of images and objects, the official scores, and precision, recall and F1 at the best threshold.

    ``names[i]`` is that of class ``i``. None where a class has no objects. The official scores of ``others``, masks or
    key points, stand behind, as ``segm_AP``.
    """
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    for found in official.per_class if official else ():
        scores = {key: _known(getattr(found, key)) for key in ("AP", "AP50", "AP75", "AR100")}
        rows.setdefault(found.name, {}).update({"images": found.images, "objects": found.objects, **scores})
    if v7:
        columns = {"precision": v7.class_precision, "recall": v7.class_recall, "F1": v7.class_f1}
        place_of = {names[label]: place for place, label in enumerate(v7.classes.tolist())}
        for name, row in rows.items():
            place = place_of.get(name)
            row |= {key: None if place is None else float(column[place]) for key, column in columns.items()}
    for other in others:
        for found in other.per_class:
            rows.setdefault(found.name, {}).update(_scores_of_task(
                other, found.AP, found.AP50, found.AP75, found.AR100))
    return {name: row for name, row in rows.items() if row}


def _scores_of_task(result: CocoResult, *scores: float) -> dict[str, float | None]:
    names = ("AP", "AP50", "AP75", f"AR{LIMITS[result.kind]}")
    return {f"{result.kind}_{name}": _known(value) for name, value in zip(names, scores, strict=True)}


def best_f1(v7: V7Result) -> dict[str, Any]:
    """The threshold of the best F1, and what is measured there; None where there is nothing to measure on."""
    values = {"F1": v7.f1, "confidence": v7.confidence, "precision": v7.precision, "recall": v7.recall}
    measured = values if v7.objects.size else dict.fromkeys(values)
    return {**measured, "meaning": BEST_F1}


def mean_row(official: CocoResult | None, v7: V7Result | None, others: Sequence[CocoResult] = ()) -> dict[str, Any]:
    """As a row of `class_rows`, over all classes."""
    row: dict[str, Any] = {}
    if official:
        scores = {name: _known(official.stats[place]) for name, place in (("AP", 0), ("AP50", 1), ("AP75", 2),
                                                                          ("AR100", 8))}
        row |= {"images": official.images, "objects": official.objects, **scores}
    if v7:
        found = best_f1(v7)
        row |= {key: found[key] for key in ("precision", "recall", "F1")}
    for other in others:
        row |= _scores_of_task(other, *other.stats[:3], other.stats[RECALL[other.kind]])
    return row


def class_frame(rows: Mapping[str, Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows by class as a table with the column ``class`` first; what is None is NaN there. Needs pandas."""
    return data_frame([{"class": name, **{key: math.nan if value is None else value for key, value in row.items()}}
                       for name, row in rows.items()])


def _known(value: float) -> float | None:
    """None for the scorer's -1: absent."""
    return None if value < 0 else value
