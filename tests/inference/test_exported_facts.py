"""The description in an exported file is checked, and the graph is held to it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
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
    {"format": 3}, {"unknown": 1}, {"masks": "low"}, {"masks": "large"}, {"maps": ["prototypes"]},
    {"block": "SegmentHead"}, {"block": "MaskHead", "maps": ["bases"]}])
def test_odd_metadata(changes: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(facts_text(FACTS)), **changes})
    with pytest.raises(InputError, match="m.onnx") as error:
        read_facts(text, PATH)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


POSE = replace(FACTS, block="PoseHead", channels={"box": 4, "objectness": 1, "classes": 2, "keypoints": 9},
               columns=("keypoints",), arguments={"keypoints": ("a", "b", "c"), "limbs": ((0, 1), (1, 2)),
                                                  "sigmas": (0.1, 0.2, 0.3)})


def test_arguments_of_the_head_are_read_as_they_were() -> None:
    found = read_facts(facts_text(POSE), PATH)
    assert found == POSE and ExportedNetwork(found, lambda images: []).info.arguments == POSE.arguments
    assert "arguments" not in json.loads(facts_text(FACTS)) and "masks" not in json.loads(facts_text(FACTS))
    masks = replace(FACTS, block="SegmentHead", channels={"box": 4, "objectness": 1, "classes": 2, "coefficients": 8},
                    columns=("coefficients",), maps=("prototypes",), arguments={"masks": 8, "prototype_width": 16})
    assert read_facts(facts_text(masks), PATH) == masks


DEEP: Any = "a"
for _ in range(50):
    DEEP = [DEEP]


@pytest.mark.parametrize("arguments", [
    {"keypoints": ["a", "b"]}, {"keypoints": ["a", "a", "b"]}, {"keypoints": "abc"}, {"keypoints": [1, 2, 3]},
    {"keypoints": ["a", "b", "c" * 1000]}, {"keypoints": ["a", "b", "c\n"]}, {"keypoints": ["a", "b", DEEP]},
    {"limbs": [[0, 3]]}, {"limbs": [[-1, 0]]}, {"limbs": [[0, 1, 2]]}, {"limbs": [0, 1]}, {"limbs": [[0.5, 1]]},
    {"limbs": [[0, 1]] * 5000}, {"sigmas": [0.1, 0.2]}, {"sigmas": [0.1, 0.2, 0]}, {"sigmas": [0.1, 0.2, -1]},
    {"sigmas": [0.1, 0.2, math.nan]}, {"sigmas": [0.1, 0.2, 10**400]}, {"sigmas": {"a": 1}}, {"other": 3},
    {"": 1}, {"keypoints": DEEP}, {"limbs": None}, [], "text", 3])
def test_odd_arguments_of_the_head(arguments: Any) -> None:
    mapping = json.loads(facts_text(POSE))
    mapping["arguments"] = {**mapping["arguments"], **arguments} if isinstance(arguments, dict) else arguments
    with pytest.raises(InputError, match="m.onnx, metadata, arguments") as error:
        read_facts(json.dumps(mapping), PATH)
    assert len(str(error.value)) < 800 and "\n" not in str(error.value)


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
