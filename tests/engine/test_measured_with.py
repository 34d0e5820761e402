"""``results.json``: numbers beside what they were measured with."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import yolov7
from yolov7 import cli
from yolov7.engine.measured_with import checksums

COMPAT = Path(__file__).parents[1] / "compat"
OLD = {"stats", "per_class", "images", "v7", "milliseconds"}


def evaluated(tmp_path: Path, *flags: str) -> dict[str, Any]:
    assert cli.main(["test", *flags, "--project", str(tmp_path), "--device", "cpu", "--workers", "0"]) == 0
    return dict(json.loads((tmp_path / "exp" / "results.json").read_text()))


@pytest.fixture(scope="module")
def results(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    best = str(run / "weights" / "best.pt")
    return evaluated(tmp_path_factory.mktemp("tested"), "--weights", best, "--batch-size", "3", "--precision", "fp32",
                     "--iou-thres", "0.6")


def test_old_keys_stay(results: dict[str, Any]) -> None:
    assert set(results) >= OLD
    assert len(results["stats"]) == 12 and set(results["per_class"][0]) == {
        "name", "images", "objects", "AP", "AP50", "AP75", "AR100"}


def test_named_numbers_are_the_old_ones(results: dict[str, Any]) -> None:
    values = [entry["value"] for entry in results["metrics"].values()]
    assert values[:12] == [None if value < 0 else value for value in results["stats"]]
    assert values[12:] == [results["v7"]["AP"], results["v7"]["AP50"]]
    for row in results["per_class"]:
        assert results["classes"][row["name"]]["AP"] == (None if row["AP"] < 0 else row["AP"])
    best = results["best_F1"]
    assert (best["precision"], best["recall"]) == (results["v7"]["precision"], results["v7"]["recall"])


def test_settings(results: dict[str, Any], run: Path, shapes: Path) -> None:
    settings, best = results["settings"], run / "weights" / "best.pt"
    (weights,) = settings["weights"]
    assert weights == {"path": str(best), "bytes": best.stat().st_size,
                       "sha256": hashlib.sha256(best.read_bytes()).hexdigest(), "model": "yolov7-tiny",
                       "precision": "fp32"}
    expected = {"model": "yolov7-tiny", "precision": "fp32", "data": str(shapes), "split": "val", "images": 4,
                "img_size": 64, "network_shape": None, "batch_size": 3, "processes": 1, "augment": False,
                "half_decode": False, "compile": False, "device": "cpu", "metric": "coco", "single_cls": False,
                "version": yolov7.__version__}
    assert {key: settings[key] for key in expected} == expected
    assert settings["objects"] == sum(row["objects"] for row in results["per_class"])
    assert settings["classes"] == [row["name"] for row in results["per_class"]]
    assert settings["nms"] == {"conf_thres": 0.001, "iou_thres": 0.6, "max_det": 300, "multi_label": True,
                               "agnostic": False, "max_candidates": 30000}
    age = datetime.now(timezone.utc) - datetime.fromisoformat(settings["date"])
    assert 0 <= age.total_seconds() < 600


def test_every_setting_is_documented(results: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.partition("### Results of an evaluation")[2].partition("\n### ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {*results, *results["settings"]} <= named
    assert {*results["settings"]["weights"][0], *results["best_F1"], "left_out"} <= named | {"meaning"}


def test_an_ensemble_of_two_kinds(shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    files = [str(COMPAT / name) for name in ("best.pt", "best.onnx")]
    settings = evaluated(tmp_path, "--weights", *files, "--data", str(shapes), "--conf-thres", "0.3")["settings"]
    assert [entry["path"] for entry in settings["weights"]] == files
    assert [entry["precision"] for entry in settings["weights"]][1] == "fp32"
    assert settings["model"] == "compat" and settings["nms"]["conf_thres"] == 0.3
    assert settings["network_shape"] is None or settings["img_size"] == max(settings["network_shape"])


def test_a_graph_whose_weights_stand_beside_it() -> None:
    (found,) = checksums([COMPAT / "best.xml"])
    assert found["beside"]["path"].endswith("best.bin")
    assert found["beside"]["sha256"] == hashlib.sha256((COMPAT / "best.bin").read_bytes()).hexdigest()
