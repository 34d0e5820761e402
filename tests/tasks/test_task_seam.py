"""A task of another package, in this one file: a detector that also predicts each object's mean colour.

It is found through an entry point and taken through the public commands in processes of their own; nothing is patched.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from yolov7.config import atomic_write
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.data.loader import Field
from yolov7.data.objects import Sample
from yolov7.evaluation.evaluate import Evaluator, box_evaluators
from yolov7.inference.draw import draw_instances
from yolov7.loss.criterion import DETECTION_TERMS, assign_positives
from yolov7.loss.terms import Matched, Term
from yolov7.model.heads.base import Anchors, Head, register_head
from yolov7.structures import Instances
from yolov7.tasks import Task, Training, register_task

if TYPE_CHECKING:  # the commands import this file without the tests' own modules
    from forks import Forks

ROOT = Path(__file__).parents[2]

# --- the task ----------------------------------------------------------------------------------------------------


@register_head
class ColourHead(Head):
    """Three more channels: the mean colour of the object, RGB."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = ()) -> None:
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels, {"colour": 3})

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        return {"colour": logits["colour"].float().sigmoid()}


def mean_colours(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mean RGB in 0..1 of the pixels of each box: float32 ``[N, 3]``."""
    height, width = image.shape[:2]
    found = []
    for left, top, right, bottom in np.asarray(boxes).round().astype(int).tolist():
        x, y = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
        found.append(image[y : max(bottom, y + 1), x : max(right, x + 1)].mean((0, 1)) / 255)
    return np.array(found, np.float32).reshape(-1, 3)


def colours_of(sample: Sample) -> np.ndarray:
    return mean_colours(sample.image, sample.objects.boxes)


def colour_term(matched: Matched) -> Tensor:
    return matched.mean((matched.logits("colour").float().sigmoid() - matched.target("colour")).abs().mean(dim=1))


@dataclass
class ColourError:
    """Mean difference of predicted and true colour over the best detections of each image."""

    name: str = "colour"
    errors: list[float] = field(default_factory=list)

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        best = found[:5]
        truth = mean_colours(load_image(image_set.paths[index]), best.boxes.numpy())
        self.errors += np.abs(best.extra["colour"].numpy() - truth).mean(1).tolist()

    def merge(self, other: ColourError) -> None:
        self.errors += other.errors

    def result(self, image_set: ImageSet) -> ColourResult:
        return ColourResult(float(np.mean(self.errors)) if self.errors else 1.0)


@dataclass(frozen=True)
class ColourResult:
    error: float
    fitness: float | None = None

    def metrics(self) -> dict[str, float]:
        return {"error": self.error}

    def text(self, names: Sequence[str]) -> str:
        return f"colour error {self.error:.3f}"

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet) -> None:
        atomic_write(folder / "colour.json", json.dumps(self.metrics()))


def draw_colours(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
    canvas = np.ascontiguousarray(image).copy()
    for box, colour in zip(found.boxes.tolist(), found.extra.get("colour", torch.zeros(0, 3)).tolist(), strict=False):
        x, y = (round((box[axis] + box[axis + 2]) / 2) for axis in (0, 1))
        cv2.circle(canvas, (x, y), 4, [round(255 * value) for value in colour], cv2.FILLED)
    return draw_instances(canvas, found, names, with_scores)


def evaluators(image_set: ImageSet, complete: bool) -> list[Evaluator]:
    return [*box_evaluators(image_set, complete), ColourError()]


def training() -> Training:
    terms = (*DETECTION_TERMS, Term("colour", colour_term, 0.5))
    return Training(terms, assign_positives, evaluators, (Field("colour", colours_of),))


TASK = register_task(Task("colour", ColourHead, training, draw=draw_colours))

# --- the proof ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A folder to work in, and the environment of its commands."""

    folder: Path
    environment: dict[str, str]
    forks: Forks

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "train" / "exp"

    def command(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.forks.run([sys.executable, "-m", "yolov7.cli", *arguments], environment or self.environment,
                              self.folder)

    def passes(self, *arguments: str) -> str:
        done = self.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def install(folder: Path) -> None:
    """What ``pip install`` leaves of a package: its entry point."""
    facts = folder / "colour_task-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-task\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[yolov7.tasks]\ncolour = test_task_seam:TASK\n")


def write_set(folder: Path) -> None:
    """Eight images of grey noise with one coloured square each."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(8):
        image = rng.integers(90, 160, (96, 96, 3), np.uint8)
        x, y = rng.integers(8, 48, 2).tolist()
        image[y : y + 40, x : x + 40] = rng.integers(0, 255, 3)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        (folder / "labels" / f"{index}.txt").write_text(f"0 {(x + 20) / 96} {(y + 20) / 96} {40 / 96} {40 / 96}\n")
    (folder / "set.yaml").write_text("train: images\nval: images\nnames: [square]\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Place:
    """A trained, interrupted and resumed run of the task."""
    folder = tmp_path_factory.mktemp("colour")
    install(folder / "site")
    write_set(folder / "data")
    micro = yaml.safe_load((ROOT / "tests" / "micro.yaml").read_text(encoding="utf-8"))
    definition = {**micro, "name": "colour-micro", "head": {**micro["head"], "block": "ColourHead"}}
    (folder / "model.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, folder / "site")))
    place = Place(folder, os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, forks)
    flags = ("--data", "data/set.yaml", "--cfg", "model.yaml", "--img-size", "96", "--batch-size", "4",
             "--workers", "0", "--device", "cpu", "--precision", "fp32",
             "--set", "loss.gains.colour=0.25", "augment.mosaic=0.5")
    said = place.passes("train", *flags, "--epochs", "2")
    assert "colour" in said
    place.passes("train", "--resume", "--epochs", "3")
    return place


def test_training_names_the_term_and_the_metric(place: Place) -> None:
    with open(place.run / "results.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0])[1:5] == ["box", "objectness", "classification", "colour"]
    assert all(float(row["colour"]) > 0 and 0 < float(row["colour_error"]) < 1 for row in rows)
    settings = yaml.safe_load((place.run / "config.yaml").read_text(encoding="utf-8"))
    assert settings["recipe"]["loss"]["gains"] == {"colour": 0.25}
    assert (place.run / "train_batch1.jpg").is_file()


def test_evaluation_and_its_files(place: Place) -> None:
    said = place.passes("test", "--device", "cpu", "--precision", "fp32", "--workers", "0")
    assert "colour error" in said
    folder = place.folder / "runs" / "test" / "exp"
    numbers = json.loads((folder / "colour.json").read_text(encoding="utf-8"))
    assert 0 < numbers["error"] < 1
    assert (folder / "predictions.json").is_file() and (folder / "confusion_matrix.png").is_file()


def test_detection_writes_and_draws_the_column(place: Place) -> None:
    flags = ("--source", "data/images", "--device", "cpu", "--precision", "fp32", "--conf-thres", "0.0001")
    place.passes("detect", *flags, "--save-json", "--save-csv", "--max-det", "3")
    folder = place.folder / "runs" / "detect" / "exp"
    records = json.loads((folder / "detections.json").read_text(encoding="utf-8"))
    found = [detection for record in records for detection in record["detections"]]
    assert found and all(len(detection["colour"]) == 3 for detection in found)
    header = (folder / "detections.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("colour_0,colour_1,colour_2")
    image, best = load_image(folder / "0.png"), records[0]["detections"][0]
    x, y = (round((best["box"][axis] + best["box"][axis + 2]) / 2) for axis in (0, 1))
    expected = np.array(best["colour"]) * 255
    pixels = image[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].reshape(-1, 3).astype(float)
    assert np.abs(pixels - expected).max(1).min() < 3  # the dot in the predicted colour


@pytest.mark.parametrize(("head", "form", "file"), [("raw", "torchscript", "best.torchscript"),
                                                   ("end2end", "onnx", "best.onnx")])
def test_export_with_parity(place: Place, head: str, form: str, file: str) -> None:
    """Without decoding and with all; every format and form of a task's columns: ``export/test_tasks.py``."""
    pytest.importorskip("onnxruntime")
    output = f"exported-{head}"
    place.passes("export", "--format", form, "--head", head, "--dynamic-batch", "--output", output)
    report = json.loads((place.folder / output / "best-parity.json").read_text(encoding="utf-8"))
    assert set(report) == {form} and report[form]["passed"]
    place.passes("detect", "--weights", f"{output}/{file}", "--source", "data/images/0.png", "--save-json",
                 "--nosave", "--conf-thres", "0.0001", "--name", f"of-{head}")
    written = place.folder / "runs" / "detect" / f"of-{head}" / "detections.json"
    records = json.loads(written.read_text(encoding="utf-8"))
    assert all(len(detection["colour"]) == 3 for detection in records[0]["detections"])


def test_python_gives_the_column(place: Place) -> None:
    import yolov7

    found = yolov7.load(place.run / "weights" / "best.pt", device="cpu", precision="fp32")(
        place.folder / "data" / "images" / "0.png", conf=0.0001)
    assert found.extra["colour"].shape == (len(found), 3)
    assert found[:2].extra["colour"].shape == (2, 3)


def test_weights_of_a_task_that_is_not_installed_name_its_package(place: Place) -> None:
    alone = place.environment | {"PYTHONPATH": str(ROOT)}
    weights = str(place.run / "weights" / "best.pt")
    done = place.command("detect", "--weights", weights, "--source", "data/images/0.png", environment=alone)
    assert done.returncode == 2 and "colour-task" in done.stderr and "ColourHead" in done.stderr
    missing = place.folder / "resumed"
    shutil.copytree(place.run, missing)
    done = place.command("train", "--resume", str(missing), "--epochs", "4", environment=alone)
    assert done.returncode == 2 and "colour-task" in done.stderr


def test_unknown_gains_are_errors(place: Place) -> None:
    done = place.command("train", "--data", "data/set.yaml", "--cfg", "model.yaml", "--dry-run", "--device", "cpu",
                         "--set", "loss.gains.color=1")
    assert done.returncode == 2 and "colour" in done.stderr
