"""Model definitions with odd values in every place, and networks beyond all measure: one sentence, and at once."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from yolov7.config import InputError
from yolov7.model.detector import Detector
from yolov7.model.spec import parse_spec, read_spec

SMALL: dict[str, Any] = {
    "name": "small", "recipe": "tiny", "image_size": 64, "activation": "silu",
    "nodes": {
        "stem": {"block": "Conv", "out": 8, "kernel": 3, "stride": 2, "groups": 1, "activation": "leaky_relu"},
        "c1": {"block": "ELAN", "from": "stem", "out": 16, "hidden": 8, "chain": 8, "depth": 2, "rep_positions": [1]},
        "c2": {"block": "MPDown", "out": 16},
        "up": {"block": "UpCat", "from": ["c2", "c1"], "out": 8},
    },
    "head": {"block": "AnchorHead", "from": ["up", "c2"], "auxiliary": ["up", "c2"], "implicit": True,
             "anchors": [[[4, 4]], [[8, 8]]]},
    "paper": {"parameters": 1.0, "size": 640},
}
ODD = [None, True, 0, -1, 1.5, 10**7, 10**400, 16**5000, math.nan, math.inf, "", "x", "x" * 10_000, "\x1b[31m", b"x",
       [], [[]], ["x"], [None], [["x"]], [[["x"]]], ["c1"] * 9, {}, {"x": 1}, {1: {}}, torch.zeros(3)]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value."""
    yield from [above] if above else []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*above, key))


def changed(place: tuple[Any, ...], value: Any) -> Any:
    definition = copy.deepcopy(SMALL)
    target: Any = definition
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return definition


@pytest.mark.parametrize("place", [*places(SMALL), ("nodes", "new"), ("new",)],
                         ids=lambda place: ".".join(map(str, place)))
def test_an_odd_value_anywhere(place: tuple[Any, ...], tmp_path: Path) -> None:
    for value in ODD:
        try:
            with torch.device("meta"):
                Detector(parse_spec(changed(place, value), "m.yaml"), 2)
        except InputError as error:
            assert len(str(error)) < 700 and "\n" not in str(error), str(error)[:700]


@pytest.mark.parametrize("value", [None, 3, "x", ["x"], {"Conv": 3}, {"x": {}}, {"Conv": {"block": ["Conv"]}},
                                   {"depth": 10**7}, {"width": "x"}, {"depth": math.nan}])
@pytest.mark.parametrize("key", ["scale_of", "scale", "blocks", "nodes", "head"])
def test_an_odd_value_in_a_derived_model(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    for definition in ({"name": "m", "scale_of": "yolov7-tiny"}, SMALL, changed(("nodes", "c1", "block"), ["ELAN"])):
        path.write_text(yaml.safe_dump({**definition, key: value}))
        try:
            read_spec(str(path))
        except InputError as error:
            assert len(str(error)) < 700 and "\n" not in str(error)


@pytest.mark.parametrize("name", ["forward", "keys", "training", "values", "register_buffer", "_modules",
                                  "T_destination",
                                  "image", "a.b", "", "1a", "x" * 101, 3])
def test_names_that_no_node_can_have(name: Any) -> None:
    with pytest.raises(InputError, match=r"m.yaml: node name .*accepted: "):
        parse_spec(changed(("nodes", name), {"block": "MaxDown"}), "m.yaml")


@pytest.mark.parametrize("side", [0, -1, math.inf, math.nan, 1e9])
def test_sides_of_anchors(side: float) -> None:
    with pytest.raises(InputError, match="m.yaml, small.head, anchors"):
        parse_spec(changed(("head", "anchors", 1), [[8, side]]), "m.yaml")
    with pytest.raises(InputError, match="small.head, anchors"):
        parse_spec(SMALL, "m.yaml").with_anchors((((4, 4),), ((8, side),)))


def chain(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"name": "vast", "nodes": {f"n{i}": node for i, node in enumerate(nodes)},
            "head": {"block": "AnchorHead", "from": [f"n{len(nodes) - 1}"], "anchors": [[[4, 4]]]}}


WIDE = {"block": "Conv", "out": 16_384, "kernel": 31}
VAST = {
    "depth": (chain({"block": "ELAN", "out": 8, "hidden": 8, "depth": 10**7}), "n0, depth: found 10000000; .*most 100"),
    "width": (chain({"block": "Conv", "out": 10**9}), "n0, out: found 1000000000; .*most 16384"),
    "weights": (chain(WIDE, WIDE), "vast: has at least .* parameters in .*; accepted: at most 500,000,000"),
    "layers": (chain(*[{"block": "ELANH", "out": 1, "hidden": 1, "depth": 100}] * 99), "accepted: .* and 2,000"),
    "nodes": (chain(*[{"block": "Conv", "out": 1}] * 501), "nodes: found 501 nodes; accepted: at most 500"),
    "stride": (chain(*[{"block": "Conv", "out": 1, "stride": 8}] * 20), "vast.n2: stride 512; accepted: at most 256"),
    "channels": (chain({"block": "Conv", "out": 9000}, {"block": "Cat", "from": ["n0", "n0"]}), "channels 18000"),
    "classes": (chain({"block": "Conv", "out": 16_384}), "vast: has at least .* parameters")}


@pytest.mark.parametrize("name", VAST)
def test_a_vast_network_is_refused_before_it_takes_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    definition, message = VAST[name]
    if name == "layers":
        monkeypatch.setattr("yolov7.model.detector.MAX_MODULES", 2000)
    started = time.perf_counter()
    with pytest.raises(InputError, match=message):
        Detector(parse_spec(definition, "m.yaml"), 100_000)
    assert time.perf_counter() - started < 10
