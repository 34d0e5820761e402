"""Weights in the layout of the MIT-licensed rewrite: the same network, whatever prefix they have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolov7.model import weights
from yolov7.model.blocks import pyramid_pool
from yolov7.model.detector import Detector
from yolov7.model.reference.layout import export_state_dict
from yolov7.model.reference.mit import from_mit, is_mit
from yolov7.model.spec import read_spec

PARTS = {"cv1.": "pre_conv.0.", "cv2.": "short_conv.", "cv3.": "pre_conv.1.", "cv4.": "pre_conv.2.",
         "cv5.": "post_conv.0.", "cv6.": "post_conv.1.", "cv7.": "merge_conv.", "rbr_dense.0.": "conv1.conv.",
         "rbr_dense.1.": "conv1.bn.", "rbr_1x1.0.": "conv2.conv.", "rbr_1x1.1.": "conv2.bn."}


def mit_state(model: Detector, prefix: str, tracked: bool = True) -> dict[str, Tensor]:
    """Our weights as the rewrite would store them, in an order of its own."""
    state = {}
    for key, value in reversed(export_state_dict(model).items()):
        if "anchor" in key or (not tracked and key.endswith("num_batches_tracked")):
            continue
        layer, rest = key.removeprefix("model.").split(".", 1)
        rest = re.sub(r"^m\.(\d)\.", r"heads.\1.head_conv.", rest)
        rest = re.sub(r"^i([am])\.(\d)\.", r"heads.\2.implicit_\1.", rest)
        part = next((name for name in PARTS if rest.startswith(name)), "")
        state[f"{prefix}{layer}.{PARTS[part] + rest[len(part):] if part else rest}"] = value
    return state


@pytest.fixture(scope="module")
def model() -> Detector:
    torch.manual_seed(0)
    return Detector(read_spec("yolov7"), 80).eval()


@pytest.mark.untraced
def test_the_same_outputs(model: Detector, tmp_path: Path) -> None:
    """From a file with the average beside the weights."""
    averaged = mit_state(model, "model.")
    state = {key: value * 0 for key, value in averaged.items()}
    torch.save(state | {f"ema.{key}": value for key, value in averaged.items()}, tmp_path / "mit.pt")
    loaded = weights.load_model(tmp_path / "mit.pt")
    assert loaded.model.spec.name == "yolov7"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(model(images).levels, loaded.model(images).levels, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prefix", ["", "model.", "model.model."])
def test_the_same_tensors_layer_by_layer(model: Detector, prefix: str) -> None:
    expected = {key: value for key, value in export_state_dict(model).items() if not key.endswith(".anchors")}
    state = mit_state(model, prefix, tracked=bool(prefix))
    assert is_mit(state)
    found = from_mit(state, "mit.pt")
    places = [int(key.split(".")[1]) for key in found]
    assert places == sorted(places) and set(found) == set(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_chained_pools_are_a_key_of_the_definition(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("name: m\nscale_of: yolov7\nnodes: {n5: {pools: chained}}\n")
    with torch.device("meta"):
        assert Detector(read_spec(str(tmp_path / "m.yaml")), 2).nodes["n5"].spans == (5, 9, 13)
    x = torch.rand(1, 1, 20, 20)
    chained = pyramid_pool(x, (5, 9, 13))
    pool = torch.nn.functional.max_pool2d
    assert torch.equal(chained[2], pool(pool(x, 5, 1, 2), 9, 1, 4))
    assert torch.equal(pyramid_pool(x)[2], pool(x, 9, 1, 4))
