"""Without --data a run takes the built-in set of its model's task, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import micro_tasks
import pytest
import yaml

from yolov7 import cli
from yolov7.data import stick_figures, synthetic

FLAGS = ["--img-size", "64", "--batch-size", "2", "--epochs", "1", "--device", "cpu", "--precision", "fp32",
         "--workers", "0"]


def model_with(head: str, folder: Path) -> str:
    """The micro network with another head, as a file."""
    arguments = {} if head == "PoseHead" else micro_tasks.ARGUMENTS.get(head, {})
    definition = micro_tasks.definition_of(head, arguments)
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.fixture
def small_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for module in (synthetic, stick_figures):
        monkeypatch.setattr(module.generate, "__defaults__", (4, 2, 0))
    return tmp_path


@pytest.mark.parametrize(("head", "data", "classes"), [
    ("AnchorHead", "shapes", 6), ("SegmentHead", "shapes", 6), ("PoseHead", "stick-figures", 1),
    ("MaskHead", "shapes", 6)])
def test_the_data_follow_the_task(head: str, data: str, classes: int, small_sets: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", model_with(head, small_sets), *FLAGS]) == 0
    said = capsys.readouterr()
    head_of_run = (said.out + said.err).split("decided:")[1].splitlines()
    line = next(line for line in head_of_run if line.split()[:1] == ["data"])
    assert line.split()[1] == data and "built in" in line and "--data" in line
    run = small_sets / "runs" / "train" / "exp"
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"] == data
    content = json.loads((small_sets / "datasets" / data / "annotations" / "train.json").read_text(encoding="utf-8"))
    assert len(content["categories"]) == classes


def test_data_that_are_given_are_no_decision(small_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", model_with("SegmentHead", small_sets), "--data", "shapes", *FLAGS]) == 0
    said = capsys.readouterr()
    assert "built in" not in (said.out + said.err)


def test_data_without_what_the_task_learns_are_refused(small_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--cfg", model_with("PoseHead", small_sets), "--data", "shapes", *FLAGS]) == 2
    assert "have no key points" in capsys.readouterr().err
