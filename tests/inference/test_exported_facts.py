"""The description in an exported file is checked, and the graph is held to it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov7.config import InputError
from yolov7.inference.exported import ExportedNetwork, ExportFacts, facts_text, read_facts

FACTS = ExportFacts("m", ("a", "b"), 64, 32, "decoded", (((4.0, 4.0),), ((8.0, 8.0),)), (8, 16))
PATH = Path("m.onnx")


@pytest.mark.parametrize("changes", [
    {"stride": 0}, {"stride": -32}, {"stride": 10**9}, {"batch": -1}, {"batch": 0}, {"height": 0}, {"width": 10**9},
    {"names": []}, {"names": ["a", "a"]}, {"names": ["", "a"]}, {"names": "ab"}, {"anchors": []}, {"strides": []},
    {"anchors": [[[4, 4]], [[8, 8], [1, 1]]]}, {"anchors": [[[4, 4]], [[8, 8, 8]]]}, {"anchors": [[[4, 4]]]},
    {"anchors": [[[0, 4]], [[8, 8]]]}, {"anchors": [[[math.inf, 4]], [[8, 8]]]}, {"strides": [0, 16]},
    {"image_size": 0}, {"image_size": 64.5}, {"head": "x"}, {"head": "end2end"}, {"thresholds": {"confidence": 2}},
    {"channels": {"box": 4, "objectness": 1, "classes": 3}}, {"block": "Gone"}, {"version": 2}, {"version": "1"},
    {"format": 3}, {"unknown": 1}])
def test_odd_metadata(changes: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(facts_text(FACTS)), **changes})
    with pytest.raises(InputError, match="m.onnx") as error:
        read_facts(text, PATH)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "[" * 100_000, '{"format": ' + "9" * 5000 + "}", None])
def test_no_metadata(text: str | None) -> None:
    with pytest.raises(InputError, match="holds no description of the network"):
        read_facts(text, PATH)


@pytest.mark.parametrize(("outputs", "message"), [
    ([(1, 5, 4)], "has 1 outputs"), ([(1, 5, 4), (1, 5, 3)], r"has \(3,\) columns"), ([(1, 5, 4), (1, 5, 2)], "")])
def test_a_graph_that_is_not_as_described(outputs: list[tuple[int, ...]], message: str) -> None:
    assert read_facts(facts_text(FACTS), PATH) == FACTS
    network = ExportedNetwork(FACTS, lambda images: [np.zeros(shape, np.float32) for shape in outputs])
    if not message:
        assert len(network(torch.zeros(1, 3, 64, 64), 0.5)) == 1
        return
    with pytest.raises(InputError, match=message):
        network(torch.zeros(1, 3, 64, 64), 0.5)


def test_a_graph_of_numbers_that_are_not_finite() -> None:
    network = ExportedNetwork(FACTS, lambda images: [np.full((1, 5, side), np.nan, np.float32) for side in (4, 2)])
    with pytest.raises(InputError, match="not finite"):
        network(torch.zeros(1, 3, 64, 64), 0.5)
