"""A small generated set and a run trained on it, made once for all tests of a process, which leave them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import train

from yolov7.data.synthetic import generate


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small shapes"  # a space in the name
    generate(folder, train=12, val=4)
    return folder


@pytest.fixture(scope="session")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the default model."""
    project = tmp_path_factory.mktemp("runs")
    assert train(shapes, project, "--name", "first") == 0
    return project / "first"
