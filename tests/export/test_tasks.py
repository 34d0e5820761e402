"""Exported files of a task of another package: its columns and maps in every format and form."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov7 import cli
from yolov7.config import InputError
from yolov7.config.options import NetworkOptions
from yolov7.data.images import cv2, load_image
from yolov7.exporting import parity
from yolov7.exporting.subprocess_runner import rows_of
from yolov7.inference.exported import OPENERS, ExportFacts, facts_text, read_facts
from yolov7.inference.loading import load_network
from yolov7.inference.network import TorchNetwork
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.heads.base import HEADS
from yolov7.model.spec import parse_spec, read_spec
from yolov7.runtime import plugins

pytestmark = pytest.mark.usefixtures("forked_comparisons")

NAMES = ("cat", "dog", "person")
PACKAGE = '''
from torch import nn
from yolov7.model.heads.base import Head, register_head

@register_head
class AngleHead(Head):
    """Also predicts an angle and two points of each object, and one map; two are called as tensors inside NMS are."""

    map_names = ("image",)

    def __init__(self, in_channels, strides, num_classes, anchors, implicit=True, auxiliary_channels=()):
        super().__init__(in_channels, strides, num_classes, anchors, implicit, auxiliary_channels,
                         {"zeta": 1, "place": 4})
        self.image = nn.Conv2d(in_channels[0], 2, 1)

    @staticmethod
    def decode_columns(logits, cells, anchors, stride):
        points = logits["place"].float().unflatten(-1, (2, 2)) * stride + cells[..., None, :] * stride
        return {"angle": logits["zeta"].float().tanh()[..., 0], "place": points}

    def make_maps(self, features):
        return {"image": self.image(features[0])}
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Installed, as far as Python can tell; in this process and in those that it starts."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "angle_task.py").write_text(PACKAGE)
    info = folder / "angle_task-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: angle-task\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[yolov7.tasks]\nangle = angle_task\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        plugins.load_plugins.cache_clear()
        yield folder
    HEADS.pop("AngleHead", None)
    plugins.load_plugins.cache_clear()


@pytest.fixture(scope="module")
def small(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that finds a lot, with scores all over their range."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    definition = read_spec(str(Path(__file__).parents[1] / "micro.yaml")).definition
    spec = parse_spec({**definition, "head": {**definition["head"], "block": "AngleHead"}}, "small")
    torch.manual_seed(5)
    model = Detector(spec, len(NAMES))
    for weight in model.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="leaky_relu")
    weights.save(weights.describe(model, NAMES, 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 255, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(noise, (160, 120)))
    return folder


def export(state: Path, images: Path, output: Path, *flags: str) -> int:
    return cli.main(["export", "--weights", str(state), "--source", str(images), "--output", str(output), *flags])


def comparison(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "small-parity.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    ("--format", "weights", "torchscript", "openvino"),
    ("--format", "torchscript", "onnx", "--head", "raw", "--dynamic-batch", "--with-preprocess"),
    ("--format", "onnx", "openvino", "--head", "end2end", "--max-det", "20"),
    pytest.param(("--format", "onnx", "--fp16", "--dynamic"), marks=pytest.mark.skipif(
        not os.environ.get("YOLOV7_TEST_TASKS"), reason="takes long: YOLOV7_TEST_TASKS=1")),
], ids=lambda flags: " ".join(flags).replace("--", ""))
def test_parity_of_columns_and_maps(flags: tuple[str, ...], small: Path, images: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    code = export(small, images, tmp_path, "--img-size", "96", "128", *flags)
    found = comparison(tmp_path)
    assert code == 0, found
    limit = 2e-2 if "--fp16" in flags else 1e-3
    for name, result in found.items():
        assert all(row["unlike"] == 0 and row["detections"] >= 50 for row in result["inputs"])
        assert all((0 if name == "weights" else 1e-12) < row["values"] < limit for row in result["inputs"]), name
    head, *_ = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch x H x W")]
    assert head.split() == ["batch", "x", "H", "x", "W", "boxes,", "px", "scores", "values", "detections", "above",
                            "unlike"]


@pytest.mark.slow
def test_files_give_what_pytorch_gives(small: Path, images: Path, tmp_path: Path) -> None:
    """Detections with their columns and maps, from every form of graph; of an end-to-end one, too."""
    pytest.importorskip("onnxruntime")
    loaded = weights.load_model(small)
    own = Predictor(TorchNetwork(loaded.model, torch.device("cpu"), info=loaded.info), NMSOptions(0.3, 0.45, 40), 96)
    image = load_image(images / "0.png")
    (expected,) = own([image])
    assert len(expected) == 40 and list(expected.extra) == ["angle", "place"]
    for head, form in (("decoded", "torchscript"), ("raw", "torchscript"), ("end2end", "onnx")):
        kept = ("--conf-thres", "0.3", "--max-det", "40") if head == "end2end" else ()
        assert export(small, images, tmp_path / head, "--format", form, "--head", head, "--dynamic", *kept) == 0
        network = load_network([tmp_path / head / f"small.{form}"], torch.device("cpu"), NetworkOptions())
        assert network.info.head == "AngleHead" and network.task_outputs == ("angle", "place", "image")
        (found,) = Predictor(network, own.options, 96)([image])
        for a, b in ((found.boxes, expected.boxes), (found.scores, expected.scores), (found.labels, expected.labels),
                     *((found.extra[name], column) for name, column in expected.extra.items())):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        maps = [net(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)), 0.3)[0].maps["image"]
                for net in (network, own.network)]
        torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="--augment is for networks that predict boxes .*; AngleHead also predicts"):
        load_network([tmp_path / "raw" / "small.torchscript"], torch.device("cpu"), NetworkOptions(augment=True))


@pytest.mark.untraced
def test_columns_that_differ_are_a_failure(small: Path, images: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    decode = HEADS["AngleHead"].decode_columns
    monkeypatch.setattr(HEADS["AngleHead"], "decode_columns", staticmethod(
        lambda *arguments: {name: column * 1.01 for name, column in decode(*arguments).items()}))
    assert export(small, images, tmp_path, "--format", "onnx", "--img-size", "64") == 0  # both sides
    facts = parity.reference(weights.load_model(small).model, {"1x64x64": np.zeros((1, 3, 64, 64), np.float32)})
    monkeypatch.undo()
    again = parity.reference(weights.load_model(small).model, {"1x64x64": np.zeros((1, 3, 64, 64), np.float32)})
    (row,) = parity.compare(facts, again, parity.FULL)
    assert not row.passed and row.boxes == row.scores == 0 and row.values == pytest.approx(0.01 / 1.01, rel=0.05)
    assert row.unlike > 0
    for rows in again["1x64x64"]:
        rows["map/image"] = facts["1x64x64"][0]["map/image"] + 0.5
        rows |= {key: value for key, value in facts["1x64x64"][0].items() if key.startswith("column/")}
    (row,) = parity.compare(facts, again, parity.FULL)
    assert not row.passed and row.unlike == 0 and row.values == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("flags", "message"), [
    (("--format", "tensorrt", "--head", "end2end"), "--format tensorrt: its NMS does not tell which rows it keeps: "
     "angle, place of AngleHead would be lost; accepted: onnx, openvino"),
    (("--format", "original"), "--format original: the reference implementation has no layout for angle, place, image "
     "of AngleHead; accepted: weights, torchscript"),
])
def test_formats_that_cannot_hold_a_task(flags: tuple[str, ...], message: str, small: Path, images: Path,
                                         tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert export(small, images, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_metadata_of_a_task_and_of_a_detector(package: Path) -> None:
    detector = ExportFacts("m", NAMES, 96, 32, "raw", (((1.0, 2.0),),) * 3, (8, 16, 32))
    assert not {"block", "channels", "columns", "maps", "task_package"} & set(json.loads(facts_text(detector)))
    assert read_facts(facts_text(detector), Path("a.onnx")) == detector
    channels = {"box": 4, "objectness": 1, "classes": 3, "zeta": 1, "place": 4}
    task = replace(detector, block="AngleHead", channels=channels, columns=("angle", "place"), maps=("image",),
                   task_package="angle-task")
    found = read_facts(facts_text(task), Path("a.onnx"))
    assert found == task and list(found.channels) == list(channels)  # their order says where each stands
    missing = replace(task, block="OtherHead")
    with pytest.raises(InputError, match="a.onnx: the head 'OtherHead' comes with the package 'angle-task'"):
        read_facts(facts_text(missing), Path("a.onnx"))


def test_files_name_the_package_of_their_head(small: Path, images: Path, tmp_path: Path) -> None:
    assert export(small, images, tmp_path, "--format", "torchscript", "--img-size", "64") == 0
    network = OPENERS[".torchscript"](tmp_path / "small.torchscript", "fp32")
    assert (network.facts.block, network.facts.task_package) == ("AngleHead", "angle-task")
    rows = rows_of(network(torch.rand(1, 3, 64, 64), -1.0)[0])
    assert {key: value.shape[1:] for key, value in rows.items()} == {
        "boxes": (4,), "scores": (3,), "column/angle": (), "column/place": (2, 2), "map/image": (8, 8)}
