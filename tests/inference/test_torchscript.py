"""TorchScript is loaded only where it does no more than our own exports; nothing of what is refused has run."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from yolov7 import cli
from yolov7.config import InputError
from yolov7.exporting.graphs import make_graph
from yolov7.exporting.writers import Request, write_torchscript
from yolov7.inference.exported import KEY, ExportFacts, open_torchscript
from yolov7.inference.torchscript import checked_archive
from yolov7.model.detector import Detector
from yolov7.model.reparam import deployed
from yolov7.model.spec import read_spec

COMPAT = Path(__file__).parents[1] / "compat"
FAMILIES = ("yolov7-tiny", "yolov7", "yolov3-spp", "r50-csp", "yolov7-tiny-seg", "yolov7-tiny-pose")


@pytest.fixture(autouse=True)
def without_torchs_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", FAMILIES)
def test_our_exports_pass(name: str, tmp_path: Path) -> None:
    spec = read_spec(name)
    model = deployed(Detector(spec, 2).eval())
    facts = ExportFacts(name, ("a", "b"), 64, model.stride, "decoded", spec.head.anchors, model.head.strides,
                        preprocess=name == "yolov7")
    buffer = io.BytesIO()
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8) if facts.preprocess else torch.zeros(1, 3, 64, 64)
    torch.jit.save(torch.jit.trace(make_graph(model, facts), (images,), check_trace=False), buffer)
    (tmp_path / "x.torchscript").write_bytes(buffer.getvalue())
    assert torch.jit.load(checked_archive(tmp_path / "x.torchscript"))


class WritesWhenLoaded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return "x", self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        torch.save(torch.zeros(1), "loaded")
        self.training = state[1]


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "loaded")
        return x


class Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_file("victim", shared=True, size=4).fill_(1.0) + x


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() == x.sum()):
            x = x + 1
        return x


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            return x + 1
        return x


class Asserts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] > 1
        return x


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print(x)
        return x


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.set_(x)


@pytest.mark.parametrize("module", [WritesWhenLoaded, Saves, Overwrites, Loops, Branches, Asserts, Prints, InPlace])
def test_hostile_programs_are_not_loaded(module: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("victim").write_bytes(b"v" * 16)
    torch.jit.save(torch.jit.script(module()), "x.torchscript", _extra_files={KEY: "{}"})
    monkeypatch.setattr(torch.jit, "load", None)
    assert cli.main(["detect", "--weights", "x.torchscript", "--source", str(COMPAT / "picture.jpg")]) == 2
    message = capsys.readouterr().err
    assert "accepted: a file that export.py wrote" in message and message.count("\n") == 1
    assert Path("victim").read_bytes() == b"v" * 16 and not Path("loaded").exists()


def changed(path: Path, replace: tuple[str, str] = ("", ""), **parts: bytes) -> Path:
    """The old export with other code, and with parts of other names added."""
    with zipfile.ZipFile(COMPAT / "best.torchscript") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(*map(str.encode, replace)) if replace[0] and name.endswith(".py") else data)
        for name, data in parts.items():
            new.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize("replace", [
    ("torch.sigmoid(", "torch.save("), ("torch.sigmoid(", "ops.aten.from_file("), ("torch.sigmoid(", "__torch__.f("),
    ("torch.sigmoid(", "ops.prim.PythonOp("), ("torch.sigmoid(", "torch.ops.load("), ("torch.sigmoid(", "save("),
    ("torch.sigmoid(", "torch.forward("), ("def forward", "def __setstate__"), ("def forward", "def helper"),
    ("(Module):", "(NamedTuple):"), ("(Module):", "(Module, metaclass=x):"), ("def forward", "@x\n  def forward"),
    ("class ", "import os\nclass "), ("return ", "yield "), ("def forward", "def é"), ("class ", "(((")])
def test_other_code_than_ours(tmp_path: Path, replace: tuple[str, str]) -> None:
    path = changed(tmp_path / "x.torchscript", replace)
    with pytest.raises(InputError, match="x.torchscript.*accepted: a file that export.py wrote"):
        checked_archive(path)


def test_what_torch_need_not_see_is_left_out(tmp_path: Path) -> None:
    path = changed(tmp_path / "x.torchscript", **{"bytecode.pkl": b"x", "extra/other": b"x", "code/x.so": b"x"})
    with zipfile.ZipFile(checked_archive(path)) as made:
        assert not {"archive/bytecode.pkl", "archive/extra/other", "archive/code/x.so"} & set(made.namelist())
    with pytest.raises(InputError, match="torch.classes"):
        checked_archive(changed(tmp_path / "y.torchscript", **{"constants.pkl2": b""}, **{
            "code/y.py": b"x: __torch__.torch.classes.rnn.A = 1\n"}))
    (tmp_path / "z.torchscript").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="is damaged or cut off"):
        checked_archive(tmp_path / "z.torchscript")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    spec = read_spec(str(COMPAT / "compat.yaml"))
    model = deployed(Detector(spec, 2).eval())
    next(model.parameters()).data.fill_(float("nan"))
    facts = ExportFacts("x", ("a", "b"), 64, 32, "decoded", spec.head.anchors, model.head.strides)
    write_torchscript(Request(model, facts), tmp_path / "x.torchscript")
    with pytest.raises(InputError, match="x.torchscript: .* holds numbers that are not finite"):
        open_torchscript(tmp_path / "x.torchscript")
