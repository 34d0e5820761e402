"""The anchor line of every run, and ``--autoanchor``: in the model, its definition, its checkpoint and its resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set

from yolov7 import cli
from yolov7.data.catalog import DataSource
from yolov7.data.image_set import ImageSet
from yolov7.data.synthetic import generate
from yolov7.engine.anchors import check_anchors, improve_anchors, settle_anchors
from yolov7.engine.run_config import RunConfig, TrainOptions, resolve
from yolov7.model.detector import Detector
from yolov7.model.scaling import Scale
from yolov7.model.spec import ModelSpec, parse_spec, read_spec, scaled_spec

MICRO = ["--cfg", str(Path(__file__).parents[1] / "micro.yaml")]
FLAGS = ["--img-size", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--epochs", "1"]


def slim(name: str) -> ModelSpec:
    return scaled_spec(read_spec(name), Scale(width=0.1, hidden_width=0.1))[0]


def objects(*sizes: tuple[float, float]) -> ImageSet:
    """One image of 640 px with objects of these sizes."""
    items = [ObjectRecord((0.0, 0.0, w, h), 0, NO_POLYGON) for w, h in sizes]
    return build_image_set([ImageRecord("a.png", 0, (640, 640), items)], ("thing",), (1,), [], annotation_file=None,
                           split="train")


def config_of(spec: ModelSpec) -> RunConfig:
    return resolve(TrainOptions(img_size=(640,)), spec, DataSource("test", ("thing",)), 64)[0]


def slivers() -> ImageSet:
    """Objects 20 times as wide as high: no anchor of any model fits them."""
    return objects(*((20.0 * h, h) for h in np.linspace(4, 30, 40)))


@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7-w6"])  # 3 levels; 4 with an auxiliary head
def test_fitted_anchors_are_in_the_model_and_in_its_definition(name: str) -> None:
    spec = slim(name)
    model = Detector(spec, 1)
    improve_anchors(model, slivers(), config_of(spec))
    anchors = model.head.anchors
    assert anchors.shape == np.shape(spec.head.anchors) and not np.allclose(anchors, spec.head.anchors)
    assert (anchors.flatten(0, 1).prod(dim=1).diff() >= 0).all()
    again = Detector(parse_spec(model.spec.definition, "checkpoint"), 1)
    assert torch.equal(again.head.anchors, anchors)


def test_anchors_that_fit_every_object_stay(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spec = slim("yolov7-tiny")
    model = Detector(spec, 1)
    improve_anchors(model, objects(*((s, s + 1) for s in np.linspace(10, 300, 50))), config_of(spec))
    assert model.spec is spec and np.allclose(model.head.anchors, spec.head.anchors)
    assert "the old anchors stay, as the new ones reach no higher recall" in caplog.text
    assert "old anchors 10x13 16x30 33x23 | 30x61" in caplog.text and "best possible recall 1.0000" in caplog.text


def test_too_few_sizes_leave_the_anchors_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    spec = slim("yolov7-tiny")
    model = Detector(spec, 1)
    improve_anchors(model, objects((400, 4), (300, 4)), config_of(spec))
    assert model.spec is spec
    assert "--autoanchor: anchors: found 2 different object sizes" in caplog.text
    assert "the old anchors stay" in caplog.text


def test_low_recall_and_tiny_objects_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spec = slim("yolov7-tiny")
    model = Detector(spec, 1)
    check_anchors(model, objects((40, 40), (50, 60)), config_of(spec))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "anchors: best possible recall 1.0000, " in caplog.text and "over 2 objects at 640 px" in caplog.text
    caplog.clear()
    check_anchors(model, objects((40, 40), (2.9, 60)), config_of(spec))
    low, tiny = caplog.records
    assert low.levelname == tiny.levelname == "WARNING"
    assert "best possible recall 0.5000" in low.message and "--autoanchor" in low.message
    assert tiny.message.startswith("1 of 2 objects have a side under 3 px at 640 px")


def test_a_named_model_keeps_its_anchors_and_weights_bring_theirs(caplog: pytest.LogCaptureFixture) -> None:
    spec = slim("yolov7-tiny")
    for named, expected in ((True, spec.head.anchors), (False, np.full((3, 3, 2), 7.0))):
        model = Detector(spec, 1)
        model.head.anchors.fill_(7)  # as copied from weights
        settle_anchors(model, named)
        assert np.allclose(model.head.anchors, expected) and np.allclose(model.spec.head.anchors, expected)
        assert np.allclose(model.spec.definition["head"]["anchors"], expected)
    assert [text.partition(",")[0] for text in caplog.messages] == [
        "anchors: those of --cfg", "anchors: those of --weights"]


def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recall line; anchors in the checkpoint; the same after a resume; and in a run from these weights."""
    data = tmp_path / "data"
    generate(data, train=12, val=4)
    flags = ["--data", str(data), "--project", str(tmp_path), *FLAGS, "--set", "loss.anchor_t=1.5"]  # hard to fit
    assert cli.main(["train", *flags, *MICRO, "--name", "plain"]) == 0
    assert capsys.readouterr().out.count("anchors: best possible recall") == 1
    assert cli.main(["train", *flags, *MICRO, "--name", "fitted", "--autoanchor"]) == 0
    text = capsys.readouterr().out
    assert "old anchors" in text and "--autoanchor: the new anchors are taken" in text
    last = tmp_path / "fitted" / "weights" / "last.pt"
    plain, fitted = (torch.load(tmp_path / name / "weights" / "last.pt") for name in ("plain", "fitted"))
    anchors = fitted["model"]["head.anchors"]
    assert not torch.equal(anchors, plain["model"]["head.anchors"])
    assert torch.equal(anchors, torch.tensor(fitted["definition"]["head"]["anchors"]))
    assert cli.main(["train", "--resume", str(last), "--epochs", "2", "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "old anchors" not in text and text.count("anchors: best possible recall") == 1
    resumed = torch.load(last)
    assert resumed["epoch"] == 1 and resumed["definition"] == fitted["definition"]
    assert torch.equal(resumed["model"]["head.anchors"], anchors)
    assert cli.main(["train", *flags, "--name", "tuned", "--weights", str(last)]) == 0
    assert torch.equal(torch.load(tmp_path / "tuned" / "weights" / "best.pt")["model"]["head.anchors"], anchors)


def test_data_anchors_shows_both_and_writes_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path / "data", train=12, val=4)
    flags = ["--data", str(tmp_path / "data"), "--cfg", "yolov7-w6", "--img-size", "100", "--generations", "20"]
    assert cli.main(["data", "anchors", *flags, "--output", str(tmp_path / "my.yaml")]) == 0
    text = capsys.readouterr().out
    assert "objects at 128 px, ratio of sides under 4" in text  # as a training would round it
    rows = [line.split()[:2] for line in text.splitlines() if line.startswith(("yolov7-w6   ", "fitted"))]
    assert rows == [[name, stride] for name in ("yolov7-w6", "fitted") for stride in ("8", "16", "32", "64", "all")]
    written, shipped = read_spec(str(tmp_path / "my.yaml")), read_spec("yolov7-w6")
    assert written.nodes == shipped.nodes and written.recipe == "p6"
    assert np.shape(written.head.anchors) == (4, 3, 2) and written.head.anchors != shipped.head.anchors
    assert " ".join(f"{w:g}x{h:g}" for w, h in written.head.anchors[0]) in text


def test_data_anchors_on_bccd(bccd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "anchors", "--data", str(bccd), "--cfg", "yolov7", "--generations", "20"]) == 0
    text = capsys.readouterr().out
    assert "yolov7 on bccd, train: 2804 objects at 640 px" in text
    assert "the fitted anchors reach no higher best possible recall than those of yolov7" in text


def test_data_anchors_with_nowhere_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "anchors", "--data", "gone", "--output", str(tmp_path / "gone" / "my.yaml")]) == 2
    assert "accepted: a YAML file in a folder that exists" in capsys.readouterr().err
