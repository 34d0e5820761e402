"""Checkpoints of the reference implementation: read without running code, found by their layers, written back."""

from __future__ import annotations

import builtins
import collections
import contextlib
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_numbers import golden_state_dict, read_manifest
from their_modules import build_their_module, forget
from torch import nn

from yolov7.config import InputError
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.reference import layout
from yolov7.model.reference.reader import read_reference
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec

FORM = "yolov7-tiny.training"
def checkpoint(their: Callable[[str], Any], activation: type[nn.Module] = nn.LeakyReLU) -> dict[str, Any]:
    network = build_their_module(golden_state_dict(FORM, 1.0), their, activation)
    return {"model": network, "ema": None, "epoch": -1, "optimizer": None, "training_results": None,
            "best_fitness": np.array([0.5])}


def test_pickled_module(their: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(checkpoint(their), tmp_path / "yolov7-tiny.pt")
    forget(monkeypatch)
    found = read_reference(tmp_path / "yolov7-tiny.pt")
    expected = golden_state_dict(FORM, 1.0)
    assert list(found.state) == list(expected)  # keys and order
    for key, value in expected.items():
        stored = value.half() if value.is_floating_point() else value
        assert found.state[key].dtype == stored.dtype and torch.equal(found.state[key], stored), key
    assert found.activation == "leaky_relu" and found.names[3] == "thing 3"
    loaded = weights.load_model(tmp_path / "yolov7-tiny.pt")  # found by its layers and its activation
    assert loaded.model.spec.name == "yolov7-tiny" and loaded.names == found.names
    assert loaded.model.nodes["stem"].conv.weight.dtype == torch.float32


def test_activation_tells_tiny_from_tiny_silu(their: Callable[[str], Any], tmp_path: Path) -> None:
    torch.save(checkpoint(their, nn.SiLU), tmp_path / "w.pt")
    assert weights.load_model(tmp_path / "w.pt").model.spec.name == "yolov7-tiny-silu"


def test_averaged_weights_go_first_and_a_bare_module_is_read(their: Callable[[str], Any], tmp_path: Path) -> None:
    content = checkpoint(their)
    averaged = build_their_module({k: v + 1 for k, v in golden_state_dict(FORM, 1.0).items()}, their, nn.LeakyReLU)
    torch.save({**content, "ema": averaged}, tmp_path / "both.pt")
    torch.save(content["model"], tmp_path / "init.pt")
    key = "model.0.conv.weight"
    first = read_reference(tmp_path / "init.pt").state[key]
    assert torch.equal(read_reference(tmp_path / "both.pt").state[key], averaged.state_dict()[key])
    assert not torch.equal(first, averaged.state_dict()[key])


def test_fine_tuning_from_the_reference_implementation(their: Callable[[str], Any], tmp_path: Path) -> None:
    torch.save(checkpoint(their), tmp_path / "w.pt")
    model = Detector(read_spec("yolov7-tiny"), 3)
    report = weights.initialize_from(model, tmp_path / "w.pt")
    assert report.copied == 343 - 9
    assert list(report.fresh) == ["the file is for another class count"]
    assert "9 start fresh" in report.text() and "head.convs.2.bias" in report.text()


# --- what must not run -----------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.parts


def lookalike(name: str, proof: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A call of a function in a module that looks like one of the reference implementation's, importable at reading."""
    module = types.ModuleType(name)

    def touch(path: str) -> None:
        Path(path).touch()

    touch.__module__, touch.__qualname__ = name, "touch"
    module.touch = touch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return Call(touch, str(proof))


MALICIOUS: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "os.system": lambda proof, _: Call(os.system, f"touch {proof}"),
    "nested reduce": lambda proof, _: collections.OrderedDict(
        model=[{"layer": Call(builtins.getattr, Call(__import__, "os"), "system")}, Call(os.system, f"touch {proof}")]),
    "builtin eval": lambda proof, _: Call(builtins.eval, f"open({str(proof)!r}, 'w')"),
    "builtin exec": lambda proof, _: Call(builtins.exec, f"open({str(proof)!r}, 'w')"),
    "open": lambda proof, _: Call(open, str(proof), "w"),
    "lookalike of the reference implementation": lambda proof, patch: lookalike("models.common_", proof, patch),
    "lookalike of torch": lambda proof, patch: lookalike("torch.nn.modules.conv2", proof, patch),
    "lookalike of numpy": lambda proof, patch: lookalike("numpyro", proof, patch),
    "lookalike of collections": lambda proof, patch: lookalike("collections_", proof, patch),
}


@pytest.mark.untraced
@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_malicious_files_do_not_run(name: str, place: str, their: Callable[[str], Any], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    proof, path = tmp_path / "executed", tmp_path / "w.pt"
    payload = MALICIOUS[name](proof, monkeypatch)
    content = checkpoint(their)
    if place == "beside":
        content["training_results"] = payload
    else:
        content["model"]._modules["model"]._modules["0"].extra = payload
    torch.save(content, path)
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert proof.exists()  # the file does run where it is believed
    proof.unlink()
    try:
        weights.load_model(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: the file refers to ") and "\n" not in str(error)
    assert not proof.exists()


# --- what is refused -------------------------------------------------------------------------------------------------


def rewrite(path: Path, entry: str, data: bytes) -> None:
    """Replace one entry of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith(entry) else content)


def test_other_networks_and_damaged_files(their: Callable[[str], Any], tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    content = checkpoint(their)
    content["model"]._modules["model"].add_module("78", their("MaskHead"))
    torch.save(content, path)
    with pytest.raises(InputError, match=r"layers of the class models.common.MaskHead: a network of another project"):
        weights.load_model(path)
    content = checkpoint(their)
    content["model"]._modules["model"]._modules["0"].bn.eps = 1e-5
    torch.save(content, path)
    with pytest.raises(InputError, match="batch norm with epsilon 1e-05; accepted: 0.001"):
        weights.load_model(path)
    torch.save({"model": their("MP"), "epoch": 3}, path)
    with pytest.raises(InputError, match="weights of another model: no detection convolution of 3 anchors"):
        weights.load_model(path)
    torch.save({"model": None, "epoch": their("MP")}, path)
    with pytest.raises(InputError, match="holds no network of the reference implementation"):
        weights.load_model(path)
    torch.save(checkpoint(their), path)
    rewrite(path, "data/0", b"\0\0")
    with pytest.raises(InputError, match=r"storage 0 has 2 bytes of \d+|\d+ elements of HalfStorage in 2 bytes"):
        weights.load_model(path)
    rewrite(path, "data.pkl", b"\x80\x02}q\x00.garbage"[:4])
    with pytest.raises(InputError, match="is damaged: "):
        weights.load_model(path)
    rewrite(path, "byteorder", b"big")
    with pytest.raises(InputError, match="of another byte order"):
        weights.load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputError, match="is an archive without data.pkl"):
        weights.load_model(path)


@pytest.mark.parametrize(("size", "stride", "offset"), [((9,), (1,), 0), ((2, 2), (4, 2), 3), ((4,), (-1,), 3),
                                                        ((1000000,), (0,), 0), ((2,), (1,), -1)])
def test_tensors_stay_inside_their_storage(size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    from yolov7.model.reference.reader import _rebuild_tensor

    storage = torch.arange(8.0)
    assert torch.equal(_rebuild_tensor(storage, 1, (2, 2), (1, 2)), torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    assert _rebuild_tensor(storage, 0, (0, 3), (3, 1)).shape == (0, 3)
    with pytest.raises(pickle.UnpicklingError, match="outside its storage"):
        _rebuild_tensor(storage, offset, size, stride)


def test_a_network_inside_itself(their: Callable[[str], Any], tmp_path: Path) -> None:
    content = checkpoint(their)
    content["model"]._modules["model"]._modules["0"]._modules["again"] = content["model"]._modules["model"]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="a network nested deeper than 50 layers"):
        weights.load_model(tmp_path / "w.pt")


# --- identification and the way back ---------------------------------------------------------------------------------


@pytest.mark.untraced
@pytest.mark.parametrize("form", ["yolov7.training", "yolov7.deploy", "yolov7-w6.training", "yolov7-w6.deploy",
                                  "yolor-p6.baseline", "yolov4-csp.baseline", "yolov3-spp.baseline"])
def test_models_are_found_by_their_layers(form: str) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in read_manifest(form)["parameters"]}
    assert layout.identify(state, "", form).name == form.partition(".")[0]


def test_deploy_file_in_a_model_with_auxiliary_head() -> None:
    with torch.device("meta"):
        model = Detector(read_spec("yolov7-w6"))
    state = {key: torch.empty(shape, device="meta") for key, shape in read_manifest("yolov7-w6.deploy")["parameters"]}
    report = layout.import_state_dict(model, state, "yolov7-w6.pt")
    assert report.copied == 628 - 1  # all but the anchors in cells
    assert len(report.fresh["the file does not have them"]) == 8 + 8  # m2 and implicit knowledge


def test_what_the_reference_implementation_does_not_have() -> None:
    with torch.device("meta"):
        model = Detector(read_spec("yolov7-e6e-grouped"))
    with pytest.raises(InputError, match="c2: EELANGrouped is not in the reference implementation; accepted: EELAN"):
        layout.export_state_dict(model)


def test_repconv_inside_a_block_keeps_its_place() -> None:
    with torch.device("meta"):
        model = Detector(read_spec("elan3-rep135"))
    keys = list(layout.export_state_dict(model))
    assert "model.6.rbr_identity.weight" in keys and "model.7.conv.weight" in keys


def test_fused_models_load_as_such(tmp_path: Path) -> None:
    model = reparameterize(Detector(read_spec("yolov7-w6"), 2).eval())
    path = tmp_path / "w.pt"
    weights.save({**weights.describe(model, ("a", "b"), 1280), "model": model.state_dict()}, path)
    loaded = weights.load_model(path).model
    assert list(loaded.state_dict()) == list(model.state_dict()) and not loaded.head.auxiliary_convs
    assert not any(value.is_meta for value in loaded.state_dict().values())
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize(("layer", "name"), [("yolo.IRSegment", r"YOLOv7-seg \(with a refine module\)"),
                                             ("yolo.IBin", "YOLOv7-bin")])
def test_networks_of_other_branches_are_named(tmp_path: Path, layer: str, name: str) -> None:
    """With the ``getattr`` that files of the branch for segments have, of which nothing is looked up."""
    found = b"c__builtin__\ngetattr\nX\x01\x00\x00\x00aX\x01\x00\x00\x00b\x86R"
    module, _, kind = layer.rpartition(".")
    head = f"cmodels.{module}\n{kind}\n".encode() + b")\x81}X\x04\x00\x00\x00prot" + found + b"sb"
    network = b"cmodels.yolo\nModel\n)\x81}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x000" + head + b"ssb"
    pickled = b"\x80\x02}X\x05\x00\x00\x00model" + network + b"s."
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(InputError, match=f"is a {name} checkpoint, a network that is not yet supported"):
        weights.load_model(tmp_path / "w.pt")


# --- networks with masks and key points ------------------------------------------------------------------------------


def invented(form: str) -> dict[str, torch.Tensor]:
    """Weights with the keys and shapes of a form, quickly made."""
    state, manifest = {}, read_manifest(form)
    random = torch.Generator().manual_seed(0)
    for key, shape in manifest["parameters"]:
        values = torch.randn(shape, generator=random).half().float()
        state[key] = torch.tensor(7) if key.endswith("tracked") else values.abs() if key.endswith("var") else values
    anchors, strides = torch.tensor(manifest["anchors"], dtype=torch.float32), torch.tensor(manifest["strides"])
    for key, value in state.items():
        if key.endswith((".anchors", ".anchor_grid")):
            pixels = anchors if key.endswith("grid") else anchors / strides[:, None, None]
            state[key] = pixels.reshape(value.shape)
    return state


BRANCHES = {"yolov7-seg.training": ("SegmentationModel", "ISegment"),
            "yolov7-seg.plain-head": ("SegmentationModel", "Segment"),
            "yolov7-w6-pose.training": ("Model", "IKeypoint"), "yolov7-mask.training": ("Model", "MT")}


@pytest.mark.slow
@pytest.mark.parametrize("form", BRANCHES)
def test_files_of_the_branches_there_and_back(form: str, their: Callable[[str], Any], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """As their own code writes them: a head with another class's function, names by number, settings and a date."""
    state, (root, kind) = invented(form), BRANCHES[form]
    place = str(read_manifest(form)["head_index"])
    network = build_their_module(state, their, nn.SiLU, (place, kind), root)
    if root == "SegmentationModel":
        detect = type(their("IDetect"))

        def forward() -> None: ...

        forward.__module__, forward.__qualname__ = "models.yolo", "IDetect.forward"
        detect.forward = forward  # type: ignore[assignment]
        network._modules["model"]._modules[place].detect = forward
        network.names = dict(enumerate(network.names))
    elif kind == "IKeypoint":
        network.names = ["person"]
    path = tmp_path / "w.pt"
    torch.save({"model": network, "ema": None, "epoch": -1, "opt": {"cfg": "x"}, "date": "2022-08-01"}, path)
    del network
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("w/data.pkl")
    assert (b"c__builtin__\ngetattr\n" in pickled) == (root == "SegmentationModel")
    forget(monkeypatch)
    looked_up, real = [], getattr
    monkeypatch.setattr(builtins, "getattr", lambda *arguments: looked_up.append(arguments[1]) or real(*arguments))
    content = read_reference(path)
    monkeypatch.setattr(builtins, "getattr", real)
    assert "forward" not in looked_up
    assert list(content.state) == list(state)
    loaded = weights.load_model(path)
    assert loaded.model.spec.name == form.partition(".")[0]
    assert loaded.names == (("person",) if kind == "IKeypoint" else tuple(f"thing {i}" for i in range(80)))
    assert loaded.model.head.class_score == (kind == "IKeypoint")  # its scores stay as they were made
    back = layout.export_state_dict(loaded.model)
    assert list(back) == list(state)
    for key, value in state.items():
        assert torch.equal(back[key], value), key


def test_another_head_is_named() -> None:
    states = {form: {key: torch.empty(shape, device="meta") for key, shape in read_manifest(form)["parameters"]}
              for form in (*BRANCHES, "yolov7.training")}
    for name, form, found, expected in (
        ("yolov7", "yolov7-seg.training", "SegmentHead", "AnchorHead"),
        ("yolov7-w6", "yolov7-w6-pose.training", "PublishedPoseHead", "AnchorHead"),
        ("yolov7-seg", "yolov7.training", "AnchorHead", "SegmentHead"),
        ("yolov7-seg", "yolov7-mask.training", "MaskHead", "SegmentHead"),
        ("yolov7-w6-pose-aux", "yolov7-w6-pose.training", "PublishedPoseHead", "PoseHead")):
        with torch.device("meta"):
            model = Detector(read_spec(name))
        with pytest.raises(InputError, match=f"w.pt: weights of another model: of one with {found}, while {name} has "
                                             f"{expected}"):
            layout.import_state_dict(model, states[form], "w.pt")


def test_a_head_that_the_reference_implementation_does_not_have() -> None:
    with torch.device("meta"):
        model = Detector(read_spec("yolov7-tiny-pose"))
    with pytest.raises(InputError, match="yolov7-tiny-pose.head: PoseHead is not in the reference implementation; "
                                         "accepted: AnchorHead, SegmentHead, PublishedPoseHead, MaskHead"):
        layout.export_state_dict(model)
