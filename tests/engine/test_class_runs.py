"""Runs on some classes of a data set, and on all of them as one: training, evaluation, resume, what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.options import TestOptions
from yolov7.data.catalog import open_data
from yolov7.engine import state as checkpoint
from yolov7.engine.testing import open_for
from yolov7.inference.network import ModelInfo
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
BASE = ["--img-size", "64", "--device", "cpu", "--workers", "0"]
CAPTURE = pytest.CaptureFixture[str]


def names_of(shapes: Path) -> list[str]:
    content = json.loads((shapes / "annotations" / "val.json").read_text())
    return [category["name"] for category in sorted(content["categories"], key=lambda category: category["id"])]


def train(shapes: Path, project: Path, *flags: str) -> int:
    return cli.main(["train", "--data", str(shapes), "--project", str(project), "--cfg", MICRO, "--batch-size", "4",
                     "--epochs", "1", *BASE, *flags])


def evaluate(weights: Path, project: Path, *flags: str) -> int:
    return cli.main(["test", "--weights", str(weights), "--project", str(project), *BASE, *flags])


@pytest.fixture(scope="module")
def subset(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("subset")
    assert train(shapes, project, "--classes", names_of(shapes)[3], "0", "--name", "run") == 0
    return project / "run"


@pytest.fixture(scope="module")
def single(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("single")
    assert train(shapes, project, "--single-cls", "--name", "run") == 0
    return project / "run"


@pytest.fixture(scope="module")
def all_classes(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of all classes, untrained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("all") / "all.pt"
    model = Detector(read_spec(MICRO), 6)
    description = checkpoint.weights.describe(model, tuple(names_of(shapes)), 64, str(shapes))
    checkpoint.weights.save({**description, "model": model.state_dict()}, path)
    return path


def scored_categories(folder: Path) -> set[int]:
    return {row["category_id"] for row in json.loads((folder / "predictions.json").read_text())}


def scored_classes(folder: Path) -> list[str]:
    return [row["name"] for row in json.loads((folder / "results.json").read_text())["per_class"]]


def test_a_run_on_some_classes_knows_them(shapes: Path, subset: Path) -> None:
    names = names_of(shapes)
    assert torch.load(subset / "weights" / "best.pt", weights_only=True)["names"] == [names[0], names[3]]
    assert yaml.safe_load((subset / "config.yaml").read_text())["classes"] == [names[0], names[3]]


def test_weights_of_some_classes_are_scored_on_these(shapes: Path, subset: Path, tmp_path: Path,
                                                     capsys: CAPTURE) -> None:
    assert evaluate(subset / "weights" / "best.pt", tmp_path) == 0
    names = names_of(shapes)
    message = (f"scoring the 2 of the 6 classes of {shapes.name} that the model was trained on: {names[0]}, "
               f"{names[3]}")
    assert message in capsys.readouterr().out
    assert scored_classes(tmp_path / "exp") == [names[0], names[3]]
    assert scored_categories(tmp_path / "exp") <= {1, 4}
    ours = json.loads((tmp_path / "exp" / "results.json").read_text())
    truth = json.loads((shapes / "annotations" / "val.json").read_text())["annotations"]
    assert sum(row["objects"] for row in ours["per_class"]) == sum(a["category_id"] in (1, 4) for a in truth)


def test_weights_of_all_classes_may_be_scored_on_some(shapes: Path, all_classes: Path, tmp_path: Path) -> None:
    names = names_of(shapes)
    assert evaluate(all_classes, tmp_path, "--conf-thres", "0") == 0
    assert evaluate(all_classes, tmp_path, "--conf-thres", "0", "--classes", names[4], names[1], "--name", "some") == 0
    assert scored_classes(tmp_path / "some") == [names[1], names[4]]
    assert scored_categories(tmp_path / "some") == {2, 5}
    whole, some = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("exp", "some"))
    assert all(row in some for row in whole if row["category_id"] in (2, 5))


def test_all_classes_as_one(shapes: Path, single: Path, tmp_path: Path) -> None:
    best = single / "weights" / "best.pt"
    content = torch.load(best, weights_only=True)
    assert (content["names"], content["merged"]) == (["object"], names_of(shapes))
    assert evaluate(best, tmp_path) == 0
    assert scored_classes(tmp_path / "exp") == ["object"]
    truth = json.loads((shapes / "annotations" / "val.json").read_text())["annotations"]
    assert json.loads((tmp_path / "exp" / "results.json").read_text())["per_class"][0]["objects"] == len(truth)


def test_some_classes_as_one(shapes: Path, tmp_path: Path) -> None:
    assert train(shapes, tmp_path, "--classes", "1", "2", "--single-cls", "--name", "both") == 0
    assert evaluate(tmp_path / "both" / "weights" / "best.pt", tmp_path) == 0
    truth = json.loads((shapes / "annotations" / "val.json").read_text())["annotations"]
    counted = json.loads((tmp_path / "exp" / "results.json").read_text())["per_class"][0]["objects"]
    assert counted == sum(a["category_id"] in (2, 3) for a in truth)


@pytest.mark.untraced
@pytest.mark.parametrize("flags", [["--classes", "0", "3"], ["--single-cls"]], ids=["some", "one"])
def test_resume_knows_the_classes(shapes: Path, tmp_path: Path, flags: list[str]) -> None:
    assert train(shapes, tmp_path, *flags, "--name", "run") == 0
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--epochs", "2", "--workers", "0"]) == 0


@pytest.mark.parametrize(("flags", "message"), [
    (["--classes", "sqare"], "--classes: unknown class 'sqare'; accepted: "),
    (["--classes", "6"], "unknown class '6'; accepted: "),
])  # fmt: skip
def test_unknown_classes(shapes: Path, tmp_path: Path, flags: list[str], message: str, capsys: CAPTURE) -> None:
    assert train(shapes, tmp_path / "p", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_classes_that_do_not_fit_name_the_flag(single: Path, shapes: Path, all_classes: Path, tmp_path: Path,
                                               capsys: CAPTURE) -> None:
    content = torch.load(single / "weights" / "best.pt", weights_only=True)
    foreign = tmp_path / "foreign.pt"  # of a single class, and nothing says which
    checkpoint.weights.save({**content, "merged": []}, foreign)
    assert evaluate(foreign, tmp_path) == 2
    assert "has 1 class (object), but" in (error := capsys.readouterr().err) and "with --single-cls need it" in error
    assert evaluate(foreign, tmp_path, "--single-cls") == 0
    assert evaluate(all_classes, tmp_path, "--single-cls") == 2
    assert "--single-cls is for weights that were trained with it" in capsys.readouterr().err
    content = torch.load(all_classes, weights_only=True)
    checkpoint.weights.save({**content, "names": list("abcdef")}, foreign)
    assert evaluate(foreign, tmp_path, "--classes", "0", "1") == 2
    assert "trained on other data" in capsys.readouterr().err


def test_weights_of_as_many_classes_under_other_names(shapes: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name where the names are the same, by place and said where they are others, refused where it is not clear."""
    source, own = open_data(str(shapes)), tuple(names_of(shapes))
    image_set, scored = open_for(ModelInfo(own[::-1]), source, TestOptions(), "val")
    assert image_set.names == own and scored == tuple(range(len(own)))[::-1]
    other = ("other", *own[1:])
    assert open_for(ModelInfo(other), source, TestOptions(), "val")[1] is None
    assert f"the weights' classes have other names and are taken by their places: other -> {own[0]}" in caplog.text
    with pytest.raises(InputError, match="some names are the same, at other places"):
        open_for(ModelInfo((own[1], "other", *own[2:])), source, TestOptions(), "val")
