"""An installed wheel works outside the checkout: configs and recipes travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from yolov7.data.synthetic import generate

ROOT = Path(__file__).parents[1]


def run(arguments: list[str | Path], folder: Path, **environment: str) -> str:
    done = subprocess.run(list(map(str, arguments)), cwd=folder, env=os.environ | environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], folder)
    return next(folder.glob("*.whl"))


def test_wheel_holds_configs_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for shipped in [*(ROOT / "cfg").rglob("*.yaml"), *(ROOT / "data").glob("*.yaml")]:
        assert f"yolov7/shipped/{shipped.relative_to(ROOT)}" in names
    assert not [name for name in names if name.startswith(("tests", "cfg", "data/"))]
    assert any(name.endswith("LICENSE") for name in names)


def test_installed_wheel_trains_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], tmp_path)
    where = run([sys.executable, "-c", "import yolov7; print(yolov7.__file__)"], tmp_path, PYTHONPATH=str(site))
    assert where.startswith(str(site))
    generate(tmp_path / "few", train=4, val=2)
    flags = ["--data", "few", "--epochs", "1", "--img-size", "64", "--batch-size", "2", "--workers", "0"]
    command = [sys.executable, site / "bin" / "yolov7", "train", "--device", "cpu", *flags]
    text = run(command, tmp_path, PYTHONPATH=str(site))
    assert "best epoch 1" in text
    assert "  site/bin/yolov7 test --weights runs/train/exp/weights/best.pt\n" in text  # as it was called
    listed = run([sys.executable, "-m", "yolov7", "data", "--help"], tmp_path, PYTHONPATH=str(site))
    assert " -m yolov7 COMMAND [flags]\n" in listed and "data convert" in listed
    assert (tmp_path / "runs" / "train" / "exp" / "weights" / "best.pt").is_file()
