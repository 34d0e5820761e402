"""Weight files: safe, atomic, exact; and state dicts of the reference implementation."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from golden_numbers import golden_state_dict, read_manifest

from yolov7.config import InputError
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.reference.layout import import_state_dict
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec

NAMES = ("a", "b", "c")


@pytest.fixture
def tiny() -> Detector:
    torch.manual_seed(0)
    return Detector(read_spec("yolov7-tiny"), len(NAMES))


def write(model: Detector, path: Path, names: tuple[str, ...] = NAMES) -> Path:
    weights.save({**weights.describe(model, names, 320, "shapes"), "model": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("fused", [False, True])
def test_round_trip(tiny: Detector, tmp_path: Path, fused: bool) -> None:
    model = reparameterize(tiny) if fused else tiny.eval()
    loaded = weights.load_model(write(model, tmp_path / "w.pt"))
    assert (loaded.names, loaded.image_size, loaded.data) == (NAMES, 320, "shapes")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(model(images).levels, loaded.model(images).levels, strict=True):
            assert torch.equal(ours, theirs)


def test_fused_weights_cannot_be_trained(tiny: Detector, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is re-parameterized and cannot be trained"):
        weights.initialize_from(tiny, write(reparameterize(tiny), tmp_path / "w.pt"))


def test_another_class_count_leaves_the_detection_convolutions_fresh(tiny: Detector, tmp_path: Path) -> None:
    path = write(tiny, tmp_path / "w.pt")
    model = Detector(read_spec("yolov7-tiny"), 5)
    fresh = model.head.convs[0].weight.clone()
    report = weights.initialize_from(model, path)
    assert report.copied == len(model.state_dict()) - 9
    assert "9 start fresh, as the file is for another class count: head.convs.0.weight, " in report.text()
    assert torch.equal(model.nodes["stem"].conv.weight, tiny.nodes["stem"].conv.weight)
    assert torch.equal(model.head.convs[0].weight, fresh)


def test_the_model_follows_from_the_weights(tiny: Detector, tmp_path: Path) -> None:
    assert weights.spec_of(write(tiny, tmp_path / "w.pt")).nodes == tiny.spec.nodes
    shapes = read_manifest("yolov7.deploy")["parameters"]
    torch.save({key: torch.zeros(shape) for key, shape in shapes}, tmp_path / "reference.pt")
    assert weights.spec_of(tmp_path / "reference.pt").name == "yolov7"


def test_weights_of_another_model(tiny: Detector, tmp_path: Path) -> None:
    path = write(tiny, tmp_path / "w.pt")
    with pytest.raises(InputError, match="weights of another model: nodes.stem0.conv.weight is nothing, expected"):
        weights.initialize_from(Detector(read_spec("yolov7"), 3), path)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is not a weight file of this project"),
    (b"not a zip", "is not a weight file of this project or the reference implementation"),
    (None, "no such file"),
])
def test_damaged_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "w.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        weights.load_model(path)
    assert "\n" not in str(error.value)


def test_half_a_file(tiny: Detector, tmp_path: Path) -> None:
    path = write(tiny, tmp_path / "w.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="is not a weight file of this project"):
        weights.load_model(path)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"model": Malicious(proof)}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious(proof)))
    for name in ("zip.pt", "raw.pt"):
        with pytest.raises(InputError, match="is not a weight file|refers to posix.system, which no checkpoint"):
            weights.load_model(tmp_path / name)
    assert not proof.exists()


def test_state_dict_of_the_reference_implementation(tmp_path: Path) -> None:
    state = golden_state_dict("yolov7-tiny.training", 1.0)
    torch.save(state, tmp_path / "reference.pt")
    loaded = weights.load_model(tmp_path / "reference.pt", "yolov7-tiny")
    assert torch.equal(loaded.model.nodes["stem"].conv.weight, state["model.0.conv.weight"])
    assert torch.equal(loaded.model.head.implicit_add[1], state["model.77.ia.1.implicit"])
    assert len(loaded.names) == 80
    message = r"fits several models \(yolov7-tiny-silu, yolov7-tiny\); name the model with --cfg"
    with pytest.raises(InputError, match=message):
        weights.load_model(tmp_path / "reference.pt")
    with pytest.raises(InputError, match="weights of another model: "):
        weights.load_model(tmp_path / "reference.pt", "yolov7")


def test_reference_weights_with_another_class_count() -> None:
    model = Detector(read_spec("yolov7-tiny"), 3)
    fresh = [conv.weight.clone() for conv in model.head.convs]
    state = golden_state_dict("yolov7-tiny.training", 1.0)
    report = import_state_dict(model, state, "reference.pt")
    assert report.copied == len(state) - 1 - 9  # the anchors in cells; weights, biases, multipliers of three levels
    assert all(torch.equal(a, b.weight) for a, b in zip(fresh, model.head.convs, strict=True))


def test_foreign_tensors() -> None:
    model = Detector(read_spec("yolov7-tiny"), 80)
    state = dict(golden_state_dict("yolov7-tiny.training", 1.0))
    with pytest.raises(InputError, match="'backbone.x' is not part of the reference implementation's"):
        import_state_dict(model, {"backbone.x": torch.zeros(1)}, "other.pt")
    state["model.3.conv.weight"] = torch.zeros(7, 64, 1, 1)
    with pytest.raises(InputError, match=r"Conv model.3 -> yolov7-tiny, Conv nodes.c2.main: .* conv.weight is \(7, 64"):
        import_state_dict(model, state, "broken.pt")


def test_every_tensor_of_the_file_is_plain(tiny: Detector, tmp_path: Path) -> None:
    data = write(tiny, tmp_path / "w.pt").read_bytes()
    content = torch.load(io.BytesIO(data), weights_only=True)
    assert content["format"] == "yolov7-weights" and content["form"] == "training"
