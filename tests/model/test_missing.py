"""Weights that are not there: the message says where such a file comes from, and what there is instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yolov7 import cli
from yolov7.config import shipped_files
from yolov7.model.missing import LICENCE, PUBLISHED, RELEASE, no_weights

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touched(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file(name: str) -> None:
    message = no_weights(Path("somewhere") / name)
    assert message.startswith(f"--weights 'somewhere/{name}': no such file; ")
    assert RELEASE in message and LICENCE in message and "did you mean" not in message
    assert f"yolov7.train(cfg='{PUBLISHED[name]}')" in message
    assert "\n" not in message


def test_the_published_files_are_those_of_the_readme() -> None:
    assert RELEASE in README
    assert set(re.findall(r"`(yolov7[\w-]*\.pt)`", README)) >= set(PUBLISHED)
    assert set(PUBLISHED.values()) <= set(shipped_files("cfg"))


@pytest.mark.parametrize(("name", "message"), [
    ("yolov7_tiny.pt", "; did you mean 'yolov7-tiny.pt'?; the reference implementation publishes yolov7-tiny.pt"),
    ("YOLOv7.pth", "; did you mean 'yolov7.pt'?; the reference implementation publishes yolov7.pt under GPL-3"),
    ("yolov7-tinny.pt", "; did you mean 'yolov7-tiny.pt'? (GPL-3, of https://github.com/WongKinYiu/"),
    ("yolov7-tiny-silu.pt", ", and nobody publishes weights of that model; weights of your own, under any licence: "
     "yolov7.train(cfg='yolov7-tiny-silu')"),
])
def test_names_like_it(name: str, message: str) -> None:
    assert no_weights(Path(name)).startswith(f"--weights {name!r}: no such file{message}")


def test_files_of_a_run() -> None:
    assert no_weights(Path("best.pt")).endswith("no such file; tried: weights/best.pt, runs/train/*/weights/best.pt")
    for name in ("exp", "exp2"):
        touched(f"runs/train/{name}/weights/best.pt")
    assert no_weights(Path("best.pt")).endswith("; did you mean 'runs/train/exp2/weights/best.pt'?")
    assert no_weights(Path("last.pt")).endswith("; tried: weights/last.pt, runs/train/*/weights/last.pt")
    assert no_weights(Path("exp")).endswith("tried: exp/weights/best.pt, runs/train/exp/weights/best.pt; did you mean "
                                            "'runs/train/exp/weights/best.pt'?")
    assert no_weights(Path("runs/train/exp")) == (
        "--weights 'runs/train/exp': is no regular file; tried: runs/train/exp/weights/best.pt; did you mean "
        "'runs/train/exp/weights/best.pt'?")
    assert no_weights(Path("runs/train/exp/best.pt")).endswith("did you mean 'runs/train/exp/weights/best.pt'?")
    touched("models/cells.pt")
    assert no_weights(Path("models/cell.pt")) == "--weights 'models/cell.pt': no such file; did you mean 'cells.pt'?"


@pytest.mark.parametrize("name", ["gone.pt", "gone.onnx", "none/gone.pt", "x" * 5000, "a\0b.pt", "x" * 999,
                                  ".."])
def test_other_names(name: str) -> None:
    message = no_weights(Path(name))
    assert len(message) < 4000 and "did you mean" not in message


@pytest.mark.parametrize("command", ["train", "test", "detect", "export"])
def test_every_command_says_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"detect": ["--source", "."]}.get(command, [])
    assert cli.main([command, "--weights", "yolov7.pt", "--device", "cpu", *flags] if command != "export"
                    else [command, "--weights", "yolov7.pt"]) == 2
    error = capsys.readouterr().err
    assert RELEASE in error and " -m yolov7 train --cfg yolov7\n" in error
