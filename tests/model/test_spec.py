"""Model YAML: what is refused, and how it is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov7.config import InputError, shipped_files
from yolov7.config.recipe import read_recipe
from yolov7.model.blocks import BLOCKS
from yolov7.model.detector import Detector
from yolov7.model.reparam import is_fused, reparameterize
from yolov7.model.scaling import Scale
from yolov7.model.spec import ModelSpec, parse_spec, read_spec, scaled_spec

CONFIGS = shipped_files("cfg")
SMALL: dict[str, Any] = {
    "name": "small",
    "nodes": {
        "stem": {"block": "Conv", "out": 8, "kernel": 3, "stride": 2},
        "c1": {"block": "ELAN", "out": 16, "hidden": 8, "depth": 2},
        "c2": {"block": "MPDown", "out": 16},
        "up": {"block": "UpCat", "from": ["c2", "c1"], "out": 8},
    },
    "head": {"block": "AnchorHead", "from": ["up", "c2"], "anchors": [[[4, 4]], [[8, 8]]]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    definition = copy.deepcopy(SMALL)
    *parents, last = path.split("/")
    target = definition
    for key in parents:
        target = target[key]
    target[last] = value
    return definition


@pytest.mark.parametrize(("definition", "message"), [
    (changed("nodes/c1/block", "ELAM"), "small.yaml, small.c1: unknown block 'ELAM'; accepted: .*did you mean 'ELAN'"),
    (changed("nodes/c1/hiden", 8), "small.c1: ELAN has no argument 'hiden'.*did you mean 'hidden'"),
    (changed("nodes/c1", {"block": "ELAN", "out": 16}), "small.c1: ELAN needs the argument 'hidden'"),
    (changed("nodes/c1/out", "64 * 2"), r"small.c1, out: found a text \('64 \* 2'\); accepted: a whole number"),
    (changed("nodes/c1/out", 0), "small.c1, out: found 0; accepted: at least 1"),
    (changed("nodes/c1/depth", 3), "small.c1: ELAN: depth 3 is not a multiple of 2"),
    (changed("nodes/c1/from", "up"), "small.c1, from: 'up' stands further below"),
    (changed("nodes/c1/from", "c1"), "small.c1, from: 'c1' stands further below"),
    (changed("nodes/up/from", ["c2", "c8"]), "small.up, from: unknown node 'c8'; accepted: image, stem, c1, c2"),
    (changed("nodes/up/from", "c2"), "small.up: UpCat takes 2 inputs, found 1"),
    (changed("nodes/up/from", ["c1", "c2"]), r"small.up: UpCat got inputs c1, c2 of strides \(2, 4\)"),
    (changed("nodes/c2/out", 15), "small.c2: MPDown: out 15 is not even"),
    (changed("nodes/a.b", {"block": "MaxDown"}), "node name 'a.b'; accepted: letters, digits and _"),
    (changed("nodes/stem", "Conv"), "small.stem: found 'Conv'; accepted: {block: ..., ...}"),
    (changed("activation", "relu"), "activation: unknown activation 'relu'; accepted: silu, leaky_relu"),
    (changed("depth", 2), "small.yaml: unknown key 'depth'"),
    (changed("head/anchors", [[[4, 4]]]), r"small.head, anchors: found \[1\] anchors for 2 inputs"),
    (changed("head/anchors", [[[4, 4]], [[8, 8, 1]]]), "small.head, anchors: .*of \\[width, height\\] pairs"),
    (changed("head/from", ["c2", "up"]), r"small.head, from: strides \(4, 2\); accepted: finest level first"),
    (changed("head/block", "Detect"), "small.head: unknown block 'Detect'; accepted: "),
    (changed("head/from", ["up", "gone"]), "small.head, from: unknown node 'gone'"),
    ({key: value for key, value in SMALL.items() if key != "nodes"}, "small.yaml: the key 'nodes' is missing"),
    (changed("nodes", {}), "small.yaml, nodes: found {}; accepted: node names"),
    (changed("nodes/lost", {"block": "MaxDown"}), "small.lost: is read by no other node and not by the head"),
    (changed("head/auxiliary", ["c1"]), "small.head, auxiliary: found 1 nodes; accepted: none, or one for each of"),
    (changed("head/auxiliary", ["c1", "stem"]), r"small.head, auxiliary: strides \(2, 2\); accepted: .*\(2, 4\)"),
    (changed("nodes/up/from", ["c2", "c1.second"]), "small.up, from: unknown node 'c1.second'"),
    (changed("nodes/c1/rep_positions", [1, 3]), r"small.c1: ELAN: rep_positions \(1, 3\); accepted: 1 to 2"),
    (changed("nodes/c1", {"block": "CSPA", "out": 16, "inner": "drak"}), "c1, inner: found 'drak'.*mean 'dark'"),
    (changed("nodes/c1", {"block": "CSPA", "out": 16, "inner": "res", "rep": "repconv"}), "c1: CSPA: rep repconv with"),
    (changed("nodes/c1", {"block": "CSPA", "out": 16, "inner": "resx"}), "c1: CSPA: width 8 is not a multiple of 32"),
    (changed("paper", {"ap": 1}), "small.yaml, paper: unknown key 'ap'"),
])
def test_bad_definitions(definition: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detector(parse_spec(definition, "small.yaml"), 2)


def test_duplicate_node(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: m\nnodes:\n  a: {block: MaxDown}\n  a: {block: MaxDown}\nhead: {}\n")
    with pytest.raises(InputError, match="m.yaml, line 4: the key 'a' stands twice"):
        read_spec(str(path))


def small(spec: ModelSpec) -> ModelSpec:
    """The same graph, narrow; grouped convolutions need at least their groups."""
    factor = 0.5 if "resx" in str(spec.definition) else 0.25
    return scaled_spec(spec, Scale(depth=1, width=factor, hidden_width=factor))[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config(name: str) -> None:
    spec = read_spec(name)
    assert spec.name == name
    if spec.head.block == "AnchorHead":
        assert spec.recipe == ("p6" if len(spec.head.inputs) == 4 else "tiny" if "tiny" in name else "p5")
    depth = len(spec.head.inputs)
    assert spec.image_size == (640 if depth == 3 else 960 if "pose" in name else 1280)
    read_recipe(spec.recipe)
    assert CONFIGS[name].read_text().count("\n") < 80
    model = Detector(small(spec), 2)
    height, width = model.stride, 2 * model.stride
    output = model(torch.rand(2, 3, height, width))
    auxiliary = [level for head in output.auxiliary for level in head.levels]
    assert len(auxiliary) == len(spec.head.auxiliary)
    levels = [*output.levels, *auxiliary]
    for level, stride in zip(levels, model.head.strides * (1 + len(output.auxiliary)), strict=True):
        assert level.shape == (2, 3, height // stride, width // stride, model.head.channels.size)
    assert tuple(output.maps) == model.head.map_names
    sum(value.square().mean() for value in (*levels, *output.maps.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    frozen = [key for key, p in model.named_parameters() if not p.requires_grad]  # kept for the layout of its files
    assert all(key.startswith("head.implicit_multiply.") for key in frozen)
    assert len(frozen) == (depth if spec.head.block == "SegmentHead" else 0)


def test_every_block_is_used_by_a_config() -> None:
    used = {node["block"] for name in CONFIGS for node in read_spec(name).definition["nodes"].values()}
    assert used == set(BLOCKS)


def test_forward_is_the_same_in_training_and_evaluation_form() -> None:
    model = Detector(parse_spec(SMALL, "small"), 2)
    images = torch.rand(1, 3, 32, 64)
    first, second = model.train()(images), model.eval()(images)
    assert [level.shape for level in first.levels] == [level.shape for level in second.levels]


def test_bias_prior_counts_on_few_objects() -> None:
    torch.manual_seed(0)
    model = Detector(read_spec("yolov7"), 80)
    for conv, objectness in zip(model.head.convs, (-6.6846, -5.2983, -3.9120), strict=True):
        bias = conv.bias.detach().view(3, 85)
        assert bias[:, 4].mean().item() == pytest.approx(objectness, abs=0.1)
        assert bias[:, 5:].mean().item() == pytest.approx(-4.8804, abs=0.1)


def test_reparameterized_twice() -> None:
    model = Detector(parse_spec(SMALL, "small"), 2)
    fused = reparameterize(model)
    assert is_fused(fused) and not is_fused(model)
    assert not any(p.requires_grad for p in fused.parameters())
    with pytest.raises(ValueError, match="small is re-parameterized already"):
        reparameterize(fused)
