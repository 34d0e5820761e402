"""Images to evaluate on that cannot be read: the run goes on, and test, too; both say what was left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_run import train

from yolov7 import cli


def test_damaged_images_are_left_out_in_training_and_test(shapes: Path, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """A header and an end that are right, and pixels that are not."""
    data = shutil.copytree(shapes, tmp_path / "data")
    first, second, *_ = sorted((data / "images" / "val").iterdir())
    content = first.read_bytes()
    place = content.index(b"\xff\xda") + 5  # which channels follow: one that there is not
    first.write_bytes(content[:place] + b"\x63" + content[place + 1 :])
    micro = str(Path(__file__).parents[1] / "micro.yaml")
    assert train(data, tmp_path, "--cfg", micro, "--epochs", "1") == 0
    output = capsys.readouterr().out
    assert "val: 1 of 4 images cannot be read and are left out" in output
    folder = tmp_path / "exp"
    assert first.name in (folder / "faults_val.txt").read_text()
    flags = ["--weights", str(folder / "weights" / "best.pt"), "--device", "cpu", "--workers", "0"]
    assert cli.main(["test", *flags, "--project", str(tmp_path / "test")]) == 0
    assert "3 images; written to" in capsys.readouterr().out
    found = json.loads((tmp_path / "test" / "exp" / "results.json").read_text())
    assert (found["images"], found["left_out"]) == (3, 1)
