"""``test.py`` beyond one split: speed, study, table 10, test-time augmentation, ensembles, exported files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov7 import cli
from yolov7.data.images import cv2
from yolov7.data.loader import batch_shapes, evaluation_loader
from yolov7.data.synthetic import generate
from yolov7.engine import speed
from yolov7.evaluation.evaluate import END_TO_END, NETWORK, WHOLE
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=2, val=5)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> list[str]:
    """Two small models of random weights that find a lot."""
    from yolov7.data.catalog import open_data

    folder = tmp_path_factory.mktemp("weights")
    names = tuple(open_data(str(shapes)).names)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = Detector(read_spec(str(Path(__file__).parents[1] / "micro.yaml")), len(names))
        for conv in model.head.convs:
            conv.bias.data.view(3, -1)[:, 4:] += 4
        path = folder / f"{seed}.pt"
        weights.save(weights.describe(model, names, 64, str(shapes)) | {"model": model.state_dict(), "epoch": 0}, path)
        found.append(str(path))
    return found


def test(files: list[str], project: Path, *flags: str) -> int:
    return cli.main(["test", "--weights", *files, "--project", str(project), "--device", "cpu", "--workers", "0",
                     "--precision", "fp32", *flags])


test.__test__ = False  # type: ignore[attr-defined]


def written(project: Path, name: str) -> Any:
    return json.loads((project / "exp" / name).read_text())


def test_speed_of_every_file_alone_and_in_batches(files: list[str], tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert test(files, tmp_path, "--task", "speed", "--batch-size", "4") == 0
    rows = written(tmp_path, "speed.json")
    assert [(row["weights"], row["batch"]) for row in rows] == [(file, size) for file in files for size in (1, 4)]
    for row in rows:
        stages = row["milliseconds"]
        assert {*END_TO_END, "collect", WHOLE} == set(stages)
        assert stages[WHOLE]["mean"] == pytest.approx(sum(stages[stage]["mean"] for stage in END_TO_END))
        assert all(0 < stages[NETWORK][key] <= stages[WHOLE][key] for key in ("mean", "p50", "p90", "p99"))
        assert stages[NETWORK]["p50"] <= stages[NETWORK]["p90"] <= stages[NETWORK]["p99"]
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["speed.json"]
    assert capsys.readouterr().out.count("end to end") == 4


def test_study_of_sizes(files: list[str], tmp_path: Path) -> None:
    assert test(files, tmp_path, "--task", "study", "--sizes", "64", "96") == 0
    with open(tmp_path / "exp" / "study.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["weights"], row["size"]) for row in rows] == [(file, size) for file in files for size in ("64", "96")]
    assert all(float(row["network_ms"]) > 0 and 0 <= float(row["AP"]) <= float(row["AP50"]) <= 1 for row in rows)
    image = cv2.imread(str(tmp_path / "exp" / "study.png"))
    assert image.shape == (720, 1080, 3)
    assert test(files[:1], tmp_path, "--img-size", "96", "--name", "one") == 0
    stats = json.loads((tmp_path / "one" / "results.json").read_text())["stats"]
    assert float(rows[1]["AP"]) == pytest.approx(max(stats[0], 0))


def test_table_10_has_four_settings(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert test(files[:1], tmp_path, "--task", "table10") == 0
    rows = written(tmp_path, "table10.json")
    assert [(row["precision"], row["iou"]) for row in rows] == [("bf16", 0.65), ("bf16", 0.7), ("fp32", 0.65),
                                                                ("fp32", 0.7)]
    assert "precision   IoU      AP" in capsys.readouterr().out
    assert test(files[:1], tmp_path, "--iou-thres", "0.7", "--name", "one") == 0
    stats = json.loads((tmp_path / "one" / "results.json").read_text())["stats"]
    assert rows[3]["AP"] == pytest.approx(max(stats[0], 0))


def test_augmentation_and_ensembles_find_more(files: list[str], tmp_path: Path) -> None:
    counts = {}
    for name, chosen, flags in (("plain", files[:1], []), ("augmented", files[:1], ["--augment"]), ("both", files, [])):
        assert test(chosen, tmp_path, "--name", name, "--max-det", "3000", "--conf-thres", "0.3", *flags) == 0
        counts[name] = len(json.loads((tmp_path / name / "predictions.json").read_text()))
    assert counts["plain"] < min(counts["augmented"], counts["both"])


@pytest.mark.untraced
@pytest.mark.usefixtures("forked_comparisons")
def test_an_exported_file_scores_as_its_weights_do(files: list[str], shapes: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    assert cli.main(["export", "--weights", files[0], "--format", "onnx", "openvino", "torchscript", "--output",
                     str(tmp_path), "--img-size", "96", "96", "--batch-size", "2"]) == 0
    onnx = tmp_path / "1.onnx"
    scores = []
    for path in (onnx, tmp_path / "1.xml", tmp_path / "1.torchscript"):
        assert test([str(path)], tmp_path, "--name", path.suffix[1:]) == 0
        rows = json.loads((tmp_path / path.suffix[1:] / "predictions.json").read_text())
        scores.append(sorted((row["score"] for row in rows), reverse=True)[:50])
    assert scores[1:] == [pytest.approx(scores[0], abs=5e-3)] * 2  # which of many equal ones stays is chance
    assert test([str(onnx)], tmp_path, "--task", "speed", "--name", "speed") == 0
    found = json.loads((tmp_path / "onnx" / "predictions.json").read_text())
    assert len({row["image_id"] for row in found}) == 5 and len(found) > 50
    capsys.readouterr()
    for flags, message in (
        (["--img-size", "64"], "--img-size 64: the exported file takes 96 x 96 alone"),
        (["--augment"], "--augment needs inputs of several sizes"),
        (["--task", "study"], "--task study needs inputs of several sizes"),
        (["--cfg", "yolov7"], "--cfg is for weights"),
        (["--precision", "bf16"], "--precision bf16 is for weights"),
    ):
        assert test([str(onnx)], tmp_path, *flags) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "half.onnx").write_bytes(onnx.read_bytes()[:5000])
    assert test([str(tmp_path / "half.onnx")], tmp_path) == 2
    assert "half.onnx: ONNX Runtime cannot read it: " in capsys.readouterr().err


def test_every_shape_is_warmed_up_before_it_is_timed(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolov7.data.catalog import open_data, open_split

    loader = evaluation_loader(open_split(open_data(str(shapes)), "val"), 64, 2, 32, 0)
    expected = {tuple(batch.images.shape[i] for i in (0, 2, 3)) for batch in loader}
    assert batch_shapes(loader) == expected and len(expected) > 1
    seen: list[tuple[int, ...]] = []

    class Network:
        device = torch.device("cpu")

        def __call__(self, images: torch.Tensor, confidence: float) -> list[Any]:
            seen.append(tuple(images.shape[i] for i in (0, 2, 3)))
            return []

    speed.warm_up(Network(), loader)  # type: ignore[arg-type]
    assert sorted(seen) == sorted([*expected, *expected])


def test_tasks_are_for_one_process(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert test(files, tmp_path, "--task", "speed") == 2
    assert "--task speed is for one process; found 2" in capsys.readouterr().err
