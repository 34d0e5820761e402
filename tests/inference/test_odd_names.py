"""Class names that cannot be drawn or would steer a terminal: made safe where they are read, never drawn raw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov7.config.names import readable
from yolov7.inference.draw import draw_boxes
from yolov7.inference.exported import ExportFacts, facts_text, read_facts
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

ODD = {"\ud800": "\\ud800", "a\udfffb": "a\\udfffb", "\x1b[31mred": "\\x1b[31mred", "a\nb": "a\\nb".replace("n", "x0a"),
       "\x00": "\\x00", "\x9b2J": "\\x9b2J"}
SPEC = str(Path(__file__).parents[1] / "micro.yaml")


@pytest.mark.parametrize("name", ["person", "Größe", "猫", "\U0001f600", "می‌خواهم"])
def test_other_names_stay(name: str) -> None:
    assert readable(name) == name


@pytest.mark.parametrize("key", ["names", "merged"])
def test_names_of_weights_are_safe(key: str, tmp_path: Path) -> None:
    model = Detector(read_spec(SPEC), len(ODD))
    content = weights.describe(model, tuple(map(str, range(len(ODD)))), 64)
    torch.save(content | {"model": model.state_dict(), key: list(ODD)}, tmp_path / "odd.pt")
    assert getattr(weights.load_model(tmp_path / "odd.pt"), key) == tuple(ODD.values())


def test_names_of_exported_files_are_safe() -> None:
    facts = ExportFacts("some", tuple(ODD), 64, 32, "decoded", (((8.0, 8.0),),), (32,))
    assert read_facts(facts_text(replace(facts, merged=tuple(ODD))), Path("x")).names == tuple(ODD.values())
    assert read_facts(facts_text(replace(facts, merged=tuple(ODD))), Path("x")).merged == tuple(ODD.values())


@pytest.mark.parametrize("name", ODD)
def test_no_raw_name_reaches_the_drawing_library(name: str) -> None:
    """Where it ends the process."""
    image = np.zeros((64, 200, 3), np.uint8)
    raw, safe = (draw_boxes(image, np.array([[5, 30, 50, 60]]), np.array([0]), [text]) for text in (name, ODD[name]))
    assert np.array_equal(raw, safe) and raw.any()
