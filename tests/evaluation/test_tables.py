"""Numbers under their names, by class, and as tables of pandas."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.evaluation.coco import STATS, ClassResult, CocoResult
from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.evaluate import Evaluation, Result, StageTimes
from yolov7.evaluation.tables import MEANINGS, V7_MEANINGS, class_rows
from yolov7.evaluation.v7_metric import V7Metric, V7Result

NAMES = ("dog", "cat", "owl")  # the categories have another order


def official() -> CocoResult:
    rows = (ClassResult("cat", 2, 5, 0.5, 0.75, 0.25, 0.625), ClassResult("dog", 3, 4, 0.25, 0.5, 0.125, 0.375),
            ClassResult("owl", 0, 0, -1.0, -1.0, -1.0, -1.0))
    return CocoResult((0.375, 0.625, 0.1875, -1.0, *(index / 16 for index in range(8))), rows, 4)


def own(labels: tuple[int, ...] = (0, 0, 1)) -> V7Result:
    """Two dogs and a cat, of which one dog is found, and one is found where nothing is."""
    boxes = np.arange(len(labels))[:, None] * 100 + [[0, 0, 50, 50]]
    found = np.array([[0, 0, 50, 50], [500, 500, 550, 550]])[: len(labels)]
    metric = V7Metric()
    metric.update(Comparison.of(found, np.array([0.8, 0.3])[: len(found)], [0] * len(found), boxes, labels))
    return metric.result()


def evaluation(**results: Result) -> Evaluation:
    return Evaluation(dict(results), (), StageTimes(), (), NAMES)


def table(**results: Result) -> dict[str, Any]:
    return dict(json.loads(json.dumps(evaluation(**results).table(), allow_nan=False)))


def test_every_number_has_a_name_and_a_meaning() -> None:
    metrics = table(bbox=official(), v7=own())["metrics"]
    assert list(metrics) == [*(name for name, _ in STATS), "v7_AP", "v7_AP50"]
    assert metrics["AP"]["value"] == 0.375 and metrics["AP50"]["value"] == 0.625
    assert metrics["APs"]["value"] is None  # nothing to measure on
    assert all(len(entry["meaning"]) > 10 for entry in metrics.values())
    assert len({entry["meaning"] for entry in metrics.values()}) == len(metrics)
    v7 = metrics["v7_AP50"]["meaning"]
    assert "not quite COCO's" in v7 and "precision_recall.png" in v7
    assert set(MEANINGS) == {name for name, _ in STATS} and set(V7_MEANINGS) == {"v7_AP", "v7_AP50"}


def test_classes_stand_by_their_names() -> None:
    """Whatever their order in either metric."""
    classes = table(bbox=official(), v7=own())["classes"]
    assert list(classes) == ["dog", "cat", "owl"]
    assert classes["cat"] == {"images": 2, "objects": 5, "AP": 0.5, "AP50": 0.75, "AP75": 0.25, "AR100": 0.625,
                              "precision": 0, "recall": 0, "F1": 0}
    assert classes["dog"]["objects"] == 4 and classes["dog"]["recall"] == pytest.approx(0.5)
    assert classes["owl"] == {"images": 0, "objects": 0, **dict.fromkeys(("AP", "AP50", "AP75", "AR100", "precision",
                                                                          "recall", "F1"))}


def test_the_best_f1_is_that_of_the_curves() -> None:
    v7 = own()
    best = table(bbox=official(), v7=v7)["best_F1"]
    mean = v7.curves.f1.mean(0)
    assert best["F1"] == pytest.approx(mean.max()) == pytest.approx(v7.f1)
    assert best["confidence"] == v7.curves.points[mean.argmax()]
    assert (best["precision"], best["recall"]) == (v7.precision, v7.recall)
    assert "IoU 0.50" in best["meaning"]


def test_nothing_to_measure_on() -> None:
    result = replace(official(), stats=(-1.0,) * 12, per_class=official().per_class[2:])
    found = table(bbox=result, v7=own(()))
    assert {entry["value"] for entry in found["metrics"].values()} == {None}
    assert [found["best_F1"][key] for key in ("F1", "confidence", "precision", "recall")] == [None] * 4
    assert found["stats"] == [-1] * 12  # as before


def test_what_was_not_measured_is_not_there() -> None:
    found = table(bbox=official())
    assert "best_F1" not in found and "v7_AP" not in found["metrics"]
    assert set(found["classes"]["cat"]) == {"images", "objects", "AP", "AP50", "AP75", "AR100"}
    assert class_rows(None, None, NAMES) == {}


def test_a_table_of_pandas() -> None:
    pytest.importorskip("pandas")
    frame = evaluation(bbox=official(), v7=own()).to_pandas()
    assert list(frame["class"]) == ["all", "dog", "cat", "owl"]
    assert list(frame.columns) == ["class", "images", "objects", "AP", "AP50", "AP75", "AR100", "precision", "recall",
                                   "F1"]
    assert frame["objects"].tolist() == [9, 4, 5, 0] and frame["AP"].tolist()[:3] == [0.375, 0.25, 0.5]
    assert math.isnan(frame["AP"].iloc[3]) and frame["F1"].iloc[0] == pytest.approx(own().f1)
    assert list(evaluation(bbox=official()).to_pandas().columns)[-1] == "AR100"


def test_without_pandas_it_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        evaluation(bbox=official()).to_pandas()
