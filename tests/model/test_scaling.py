"""Compound scaling: the law of the paper, exactly; and models that are another one changed."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from yolov7.config import InputError
from yolov7.model.detector import Detector
from yolov7.model.scaling import Scale, apply_scale, resolve
from yolov7.model.spec import ModelSpec, read_spec, scaled_spec
from yolov7.model.summary import model_cost

BASE: dict[str, Any] = {
    "name": "base",
    "nodes": {
        "stem": {"block": "Conv", "out": 16, "kernel": 3, "stride": 2},
        "c1": {"block": "ELAN", "out": 16, "hidden": 8, "depth": 4},
        "c2": {"block": "MPDown", "out": 32},
        "p1": {"block": "Conv", "from": "c1", "out": 24},
    },
    "head": {"block": "AnchorHead", "from": ["p1", "c2"], "anchors": [[[4, 4]], [[8, 8]]]},
    "paper": {"AP": 1.0},
}


def arguments(spec: ModelSpec, *keys: str) -> dict[str, Any]:
    return {node.name: tuple(node.arguments.get(key) for key in keys) for node in spec.nodes}


def parameters(spec: ModelSpec) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Detector(spec).parameters())


@pytest.mark.parametrize(("base", "depth", "name"), [
    ("yolov7x-light", 1.5, "yolov7x"), ("yolov7-w6", 1.5, "yolov7-e6"), ("yolov7-w6", 2.0, "yolov7-d6"),
])
def test_one_number_makes_the_larger_models(base: str, depth: float, name: str) -> None:
    """Widths and depths of X, E6 and D6 follow from their base by the depth factor alone."""
    scaled, roundings = scaled_spec(read_spec(base), Scale(depth=depth))
    assert not roundings
    larger = read_spec(name)
    keys = ("out", "hidden", "chain", "depth")
    ours, theirs = arguments(scaled, *keys), arguments(larger, *keys)
    auxiliary = {"a3", "a4", "a5", "a6"}  # W6's are wider than the law: the larger models scale those of the lead head
    assert {k: v for k, v in ours.items() if k not in auxiliary} == {k: v for k, v in theirs.items()
                                                                     if k not in auxiliary}


def test_the_concatenation_grows_as_the_transition() -> None:
    """h (2 + n / 2) with n = 4 d is 2 h (1 + d): why the width factor is (1 + d) / 2."""
    for depth in (1.0, 1.5, 2.0, 3.0):
        spec, _ = scaled_spec(read_spec("yolov7-w6"), Scale(depth=depth))
        with torch.device("meta"):
            model = Detector(spec)
        width = model.nodes["c3"].out.conv.in_channels
        assert width == 2 * 128 * (1 + depth) and spec.nodes[5].arguments["out"] == 256 * (1 + depth) / 2


@pytest.mark.parametrize(("name", "millions", "gflops"), [
    ("yolov7x-light", 47.05, 125.45), ("yolov7x-light-width", 73.36, 195.29), ("yolov7x-light-depth", 69.29, 187.36),
    ("yolov7x", 71.31, 189.90), ("elan3", 58.2, 156.4),
])
def test_table_3(name: str, millions: float, gflops: float) -> None:
    cost = model_cost(read_spec(name))
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert cost.gflops == pytest.approx(gflops, abs=0.06)


def test_rounding_is_up_to_multiples_and_said() -> None:
    scaled, roundings = apply_scale(BASE, Scale(depth=1.4, width=1.1, hidden_width=0.9), "base")
    nodes = scaled["nodes"]
    assert [nodes[name]["out"] for name in ("stem", "c1", "c2", "p1")] == [24, 24, 48, 32]  # halves of c2 are 24
    assert (nodes["c1"]["hidden"], nodes["c1"]["depth"]) == (8, 6)
    assert nodes["stem"]["kernel"] == 3
    assert str(roundings[0]) == "base.stem: out 17.6 is rounded to 24"
    assert {rounding.key for rounding in roundings} == {"out", "hidden", "depth"}
    assert BASE["nodes"]["stem"]["out"] == 16  # left as it is
    assert apply_scale(BASE, Scale(), "base") == (BASE, [])


def test_rounded_widths_are_said_when_a_model_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: m\nscale_of: yolov7-tiny\nscale: {depth: 1, width: 1.1}\n")
    with caplog.at_level(logging.WARNING):
        spec = read_spec(str(path))
    assert "m.stem: out 35.2 is rounded to 40" in caplog.messages
    assert spec.recipe == "tiny" and spec.definition["nodes"]["stem"]["out"] == 40
    assert "scale" not in spec.definition  # what travels in weight files is written out


def derived(**changes: Any) -> dict[str, Any]:
    return {"name": "derived", "scale_of": "base", **changes}


def read_base(name: str) -> dict[str, Any]:
    return copy.deepcopy(BASE)


def test_derived_model() -> None:
    definition, _ = resolve(derived(
        activation="leaky_relu", nodes={"p1": None, "stem": {"out": 8}},
        blocks={"ELAN": {"block": "ELANH", "depth": 2}}, head={"from": ["c1", "c2"], "implicit": False},
    ), "derived.yaml", read_base)
    assert list(definition["nodes"]) == ["stem", "c1", "c2"]
    assert definition["nodes"]["stem"] == {"block": "Conv", "out": 8, "kernel": 3, "stride": 2}
    assert definition["nodes"]["c1"] == {"block": "ELANH", "out": 16, "hidden": 8, "depth": 2}
    assert definition["head"]["anchors"] == BASE["head"]["anchors"] and definition["head"]["implicit"] is False
    assert (definition["name"], definition["activation"]) == ("derived", "leaky_relu")
    assert "paper" not in definition  # the base's figures are not the derived model's


@pytest.mark.parametrize(("definition", "message"), [
    (derived(nodes={"p2": {"out": 8}}), "derived.yaml, nodes: unknown node 'p2'; accepted: stem, c1, c2, p1"),
    (derived(nodes={"p1": 8}), r"derived.yaml, nodes, p1: found a whole number \(8\); accepted: keys with values"),
    (derived(nodes=8), r"derived.yaml, nodes: found a whole number \(8\); accepted: keys with values"),
    (derived(blocks={"ELAM": {}}), "derived.yaml, blocks: unknown block 'ELAM'; accepted: Conv, ELAN, MPDown"),
    (derived(blocks={"ELAN": 1}), r"derived.yaml, blocks.ELAN: found a whole number \(1\); accepted: keys with values"),
    (derived(scale={"dept": 2}), "derived.yaml, scale: unknown key 'dept'.*did you mean 'depth'"),
    (derived(scale={"depth": "1 + 1"}), r"derived.yaml, scale, depth: found a text \('1 \+ 1'\); accepted: a number"),
    (derived(scale={"depth": 0}), "derived.yaml, scale, depth: found 0.0; accepted: 0.01 to 16"),
])
def test_bad_derivations(definition: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(definition, "derived.yaml", read_base)


@pytest.mark.parametrize(("base", "message"), [
    ("yolov7-e6", "scale_of: yolov7-e6 has a 'scale_of' of its own; accepted: a model that is written out"),
    ("yolov7-w7", "scale_of 'yolov7-w7': no such file.*did you mean 'yolov7-w6'"),
])
def test_scale_of_something_else(tmp_path: Path, base: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"name": "m", "scale_of": base}))
    with pytest.raises(InputError, match=message):
        read_spec(str(path))


def test_scale_in_a_model_that_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({**BASE, "scale": {"depth": 2}}, sort_keys=False))
    spec = read_spec(str(path))
    assert arguments(spec, "depth", "out")["c1"] == (8, 24)
    path.write_text(yaml.safe_dump({**BASE, "head": 3}, sort_keys=False))
    (tmp_path / "n.yaml").write_text(yaml.safe_dump({"name": "n", "scale_of": str(path)}))
    with pytest.raises(InputError, match=r"m.yaml, base.head: found 3; accepted: keys"):
        read_spec(str(tmp_path / "n.yaml"))
