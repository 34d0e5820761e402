"""A small generated set, and flags of trainings that take no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yolov7.data.synthetic import generate

MICRO = str(Path(__file__).parents[1] / "micro.yaml")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small shapes"  # a space in the name
    generate(folder, train=12, val=4)
    return folder


@pytest.fixture
def flags(shapes: Path) -> dict[str, Any]:
    """Of a training, by their names."""
    return {"cfg": MICRO, "data": str(shapes), "img_size": [64], "batch_size": 4, "nominal_batch": 4, "workers": 0,
            "precision": "fp32", "log": ["none"]}
