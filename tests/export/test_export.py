"""Exported files give what PyTorch gives; what does not is a failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_numbers import golden_state_dict

from yolov7 import cli
from yolov7.data.images import cv2
from yolov7.export import run
from yolov7.model import weights
from yolov7.model.reparam import is_fused


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (160, 120)))
    return path


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "golden.pt"
    torch.save(golden_state_dict("yolov7-tiny.training", 1.0), path)
    return path


def export(state: Path, picture: Path, output: Path, *flags: str) -> int:
    return cli.main(["export", "--weights", str(state), "--cfg", "yolov7-tiny", "--source", str(picture),
                     "--img-size", "96", "128", "--output", str(output), *flags])


def test_export_parity_onnx(state: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert export(state, picture, tmp_path, "--format", "onnx", "--batch-size", "2") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"golden-deploy.pt", "golden.onnx"}
    text = capsys.readouterr().out
    assert text.count("differ by at most") == 4 and "96 x 128" in text
    loaded = weights.load_model(tmp_path / "golden-deploy.pt")
    assert is_fused(loaded.model) and len(loaded.names) == 80


def test_export_weights_alone(state: Path, picture: Path, tmp_path: Path) -> None:
    assert export(state, picture, tmp_path, "--format", "weights") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["golden-deploy.pt"]


def test_export_in_the_layout_of_the_original(state: Path, picture: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert export(state, picture, tmp_path, "--format", "original") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["golden-original.pt"]
    ours, theirs = torch.load(tmp_path / "golden-original.pt"), torch.load(state)
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert export(state, picture, tmp_path, "--format", "weights") == 0
    again = tmp_path / "again"
    assert export(tmp_path / "golden-deploy.pt", picture, again, "--format", "original") == 2
    assert "is re-parameterized and has no original layout" in capsys.readouterr().err
    assert not again.exists()


def test_a_file_that_differs_is_a_failure(state: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    deployed = run.deployed

    def spoiled(model: torch.nn.Module) -> torch.nn.Module:
        fused = deployed(model)
        fused.nodes["stem"].conv.bias.add_(0.1)
        return fused

    monkeypatch.setattr(run, "deployed", spoiled)
    assert export(state, picture, tmp_path, "--format", "weights") == 1
    assert "differs from PyTorch by more than 0.001 relative" in capsys.readouterr().out


def test_no_picture_to_compare_on(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["export", "--weights", str(state), "--cfg", "yolov7-tiny", "--output", str(tmp_path / "out")]
    assert cli.main(flags) == 2
    assert "--source: needed for the comparison with PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
