"""Weight files that lie: damaged archives, files that would grow, and every key of ours with odd values."""

from __future__ import annotations

import copy
import math
import os
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov7 import cli
from yolov7.config import InputError
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

COMPAT = Path(__file__).parents[1] / "compat"
MICRO = Detector(read_spec(str(COMPAT.parent / "micro.yaml")), 3)
CONTENT = weights.describe(MICRO, ("a", "b", "c"), 64) | {"model": MICRO.state_dict(), "epoch": 0}
FIRST = "nodes.stem.conv.weight"


def stored(path: Path, **changes: Any) -> Path:
    """The small weights with other values; None removes a key."""
    content = {key: value for key, value in {**copy.deepcopy(CONTENT), **changes}.items() if value is not None}
    torch.save(content, path)
    return path


def with_tensor(key: str, value: Any) -> dict[str, Any]:
    return {**CONTENT["model"], key: value}


def refused(path: Path, match: str = ".") -> None:
    with pytest.raises(InputError, match=match) as error:
        weights.load_model(path)
    message = str(error.value)
    assert path.name in message and "\n" not in message and len(message) < 700, message[:700]
    with pytest.raises(InputError):
        weights.spec_of(path)
        weights.initialize_from(MICRO, path)


ODD: list[Any] = [None, True, -1, 64.5, math.nan, math.inf, 10**30, "", "x", "x" * 10_000, b"x", [], [None], ["a", "a"],
                  ["", "a"], ["\ud800", "a"], [["a"]], {}, {"x": 1}, {1: {}}, torch.zeros(3), torch.tensor(1.0), (1, 2)]


@pytest.mark.untraced
@pytest.mark.parametrize("key", sorted({*CONTENT, "ema", "merged", "package"}))
def test_every_key_with_odd_values(tmp_path: Path, key: str) -> None:
    for value in ODD:
        path = stored(tmp_path / "w.pt", **{key: value})
        try:
            weights.load_model(path)
        except InputError as error:
            message = str(error)
            assert "w.pt" in message and "\n" not in message and len(message) < 800, message[:800]


@pytest.mark.parametrize(("changes", "message"), [
    ({"form": None}, "the key 'form' is missing"), ({"names": None}, "the key 'names' is missing"),
    ({"definition": None}, "the key 'definition' is missing"), ({"model": None}, "the key 'model' is missing"),
    ({"image_size": None}, "the key 'image_size' is missing"), ({"form": "half"}, "form: found 'half'"),
    ({"image_size": 64.5}, r"image_size: found a number \(64.5\)"), ({"image_size": 0}, "image_size: found 0"),
    ({"names": ["a", "a", "b"]}, "names: 'a' stands twice"), ({"names": ["a", " "]}, "the name of class 1 is empty"),
    ({"version": "1"}, "format version '1'"),
    ({"model": []}, r"w.pt, model: found \[\]; accepted"),
    ({"model": with_tensor(FIRST, 3)}, f"'{FIRST}' holds 'int'"),
    ({"model": with_tensor(FIRST, torch.zeros(2, 3, 3, 3))}, r"weights of another model: .* is \(2, 3, 3, 3\)"),
    ({"model": with_tensor(FIRST, torch.zeros(()).expand(2, 3, 3, 3))}, "repeats its numbers"),
    ({"model": with_tensor(FIRST, CONTENT["model"][FIRST] * math.nan)}, f"'{FIRST}' holds numbers that are not finite"),
    ({"model": with_tensor(FIRST, CONTENT["model"][FIRST] / 0)}, "not finite"),
    ({"model": with_tensor(FIRST, torch.zeros(2, 3, 3, 3, device="meta"))}, "accepted: a tensor of numbers"),
    ({"model": with_tensor(FIRST, torch.zeros(2, 3, 3, 3).to_sparse())}, "accepted: a tensor of numbers"),
    ({"model": with_tensor(FIRST, torch.zeros(2, 3, 3, 3, dtype=torch.complex64))}, "is of type torch.complex64"),
    ({"model": with_tensor(FIRST, CONTENT["model"][FIRST].long())}, "is of type torch.int64; accepted: torch.float32"),
    ({"model": with_tensor("nodes.stem.bn.running_var", -CONTENT["model"]["nodes.stem.bn.running_var"])}, "negative"),
    ({"model": with_tensor("head.anchors", CONTENT["model"]["head.anchors"] * 0)}, "anchors.*above 0"),
    ({"definition": {**CONTENT["definition"], "name": "x" * 300}}, "definition, name: found"),
])
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(stored(tmp_path / "w.pt", **changes), message)


@pytest.mark.parametrize("key", ["definition", "names", "data"])
def test_values_that_repeat_each_other_take_no_time(key: str, tmp_path: Path) -> None:
    copies: list[Any] = []
    for _ in range(12):
        copies = [copies] * 10  # 10^12, written out
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = []
    for _ in range(80):
        deep = [deep]
    for value in (copies, endless, deep):
        started = time.process_time()
        refused(stored(tmp_path / "w.pt", **{key: {"name": value} if key == "definition" else value}), "levels|repeat")
        assert time.process_time() - started < 5


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in CONTENT["model"].items()}
    model = weights.load_model(stored(tmp_path / "w.pt", model=half)).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(model.state_dict()[FIRST], half[FIRST].float())


@pytest.mark.parametrize("command", ["detect", "test", "export"])
def test_commands_refuse_weights_that_are_not_finite(command: str, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(tmp_path / "w.pt", model=with_tensor(FIRST, CONTENT["model"][FIRST] * math.nan))
    source = ["--source", str(COMPAT / "picture.jpg")] if command != "test" else ["--data", "shapes"]
    assert cli.main([command, "--weights", str(path), *source]) == 2
    assert "holds numbers that are not finite" in capsys.readouterr().err


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    content = bytearray((COMPAT / "best.pt").read_bytes())
    with zipfile.ZipFile(COMPAT / "best.pt") as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = entry.header_offset + len(entry.filename) + 200
    content[place] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    refused(tmp_path / "w.pt", "w.pt: is damaged or cut off.*CRC")


def repacked(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> Path:
    with zipfile.ZipFile(COMPAT / "best.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            change(new, name, old.read(name))
    return path




def test_an_archive_that_is_compressed(tmp_path: Path) -> None:
    def deflate(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        archive.writestr(name, data + b"\0" * (1 << 20) * name.endswith("data.pkl"), zipfile.ZIP_DEFLATED)

    refused(repacked(tmp_path / "w.pt", deflate), "is compressed, to be [0-9]+ bytes")


def test_an_archive_with_one_name_twice(tmp_path: Path) -> None:
    def twice(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        archive.writestr(name, data)
        if name.endswith("data.pkl"):
            archive.writestr(name, data)

    with pytest.warns(UserWarning, match="Duplicate name"):
        path = repacked(tmp_path / "w.pt", twice)
    refused(path, "two parts of the archive have one name")


def test_parts_that_share_their_bytes(tmp_path: Path) -> None:
    path = repacked(tmp_path / "w.pt", lambda archive, name, data: archive.writestr(name, data))
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(100):
            entry = copy.copy(largest)
            entry.filename = f"archive/data/{1000 + number}"
            archive.filelist.append(entry)
        archive._didModify = True  # type: ignore[attr-defined]
    refused(path, "its parts are larger than the file|is damaged")


def reference_file(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    return path


PICKLES = {  # which torch's own reader refuses, so that ours reads them
    "memo": b"\x80\x02cmodels.yolo\nModel\nr" + struct.pack("<I", 2**28) + b".",
    "bytes": b"\x80\x05cmodels.yolo\nModel\n\x96" + struct.pack("<Q", 2**40) + b".",
    "text": b"\x80\x02cmodels.yolo\nModel\nX" + struct.pack("<I", 2**31) + b".",
    "long": b"\x80\x02cmodels.yolo\nModel\n\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "digits": b"\x80\x02cmodels.yolo\nModel\nI" + b"9" * 5000 + b"\n.",
    "name": b"\x80\x02c" + b"x" * 10_000 + b"\nModel\n."}


@pytest.mark.parametrize("name", PICKLES)
def test_small_pickles_stay_small(tmp_path: Path, name: str) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused(reference_file(tmp_path / "w.pt", PICKLES[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "long name", "nul", "text", "empty"])
def test_what_is_no_weight_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.pt"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("text", "empty"):
        path.write_text("no weights" * (kind == "text"))
    path = {"device": Path("/dev/zero"), "long name": Path("x" * 300), "nul": Path("a\0b")}.get(kind, path)
    with pytest.raises(InputError, match="no such file|is no regular file|is not a weight file"):
        weights.load_model(path)


@pytest.mark.parametrize("header", [[], {"version": 2}, {"version": 1, "form": "training"}, "text"])
def test_odd_values_beside_the_reference_layout(header: Any, tmp_path: Path) -> None:
    file = tmp_path / "original.pt"
    torch.save({"model": {"model.0.conv.weight": torch.zeros(1, 3, 1, 1)}, weights.HEADER: header}, file)
    refused(file, "original.pt")
