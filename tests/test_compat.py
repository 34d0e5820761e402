"""What an earlier version has written is taken as it was then: weights, exported files, runs, caches (tests/compat)."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compat.make import describe

import yolov7
from yolov7 import cli
from yolov7.data.catalog import open_data, open_split

COMPAT = Path(__file__).with_name("compat")
EXPECTED = json.loads((COMPAT / "expected.json").read_text(encoding="utf-8"))
NEEDS = {".onnx": "onnxruntime", ".xml": "openvino"}


# --- weights and exported files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED["detections"])
def test_a_file_finds_what_it_found(name: str) -> None:
    if package := NEEDS.get(Path(name).suffix):
        pytest.importorskip(package)
    cfg = str(COMPAT / "compat.yaml") if "original" in name else None  # its layout does not say which model it is
    model = yolov7.load(COMPAT / name, device="cpu", precision="fp32", cfg=cfg)
    found = model(COMPAT / "picture.jpg", conf=EXPECTED["confidence"], size=160)
    expected = EXPECTED["detections"][name]
    assert len(expected["labels"]) >= 10
    assert found.labels.tolist() == expected["labels"]
    pixels, score = (1e-3, 1e-5) if name == "best.pt" else (1e-2, 1e-4)
    np.testing.assert_allclose(found.boxes, expected["boxes"], rtol=0, atol=pixels)
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=0, atol=score)


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built-in data set, whose last making an earlier version did not finish."""
    folder = tmp_path_factory.mktemp("compat")
    (folder / "datasets" / "shapes").mkdir(parents=True)
    (folder / "datasets" / "shapes" / "generated.json").write_text(json.dumps(EXPECTED["shapes"]), encoding="utf-8")
    shutil.copytree(COMPAT / "run", folder / "run")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the run was made: how sums are shared among threads decides their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def tolerance_of(column: str) -> dict[str, float]:
    """On another processor the last bits differ, and what is assigned to an object may follow from one of them."""
    if describe() == EXPECTED["made with"]:
        return {"rel": 1e-4}
    return {"rel": 0, "abs": 0.01} if column.startswith("AP") else {"rel": 2e-3}


@pytest.mark.untraced
def test_a_run_goes_on_to_what_it_would_have_become(
    place: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(place)
    assert cli.main(["train", "--resume", "run", "--workers", "0"]) == 0
    found, expected = rows_of(place / "run" / "results.csv"), EXPECTED["run"]["results"]
    for row, wanted in zip(found, expected, strict=True):
        assert [column for column in row if column in wanted] == list(wanted)
        for column, value in wanted.items():
            assert float(row[column]) == pytest.approx(float(value), **tolerance_of(column)), column
    assert not found[0]["val_box"] and not found[0]["F1"]  # what the earlier version did not measure
    assert float(found[-1]["val_box"]) > 0 and 0 < float(found[-1]["F1"]) < 1
    weights = torch.load(place / "run" / "weights" / "best.pt", weights_only=True)["model"]
    assert list(weights) == list(EXPECTED["run"]["weights"])
    for name, tensor in weights.items():
        wanted = EXPECTED["run"]["weights"][name]
        if hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() != wanted["sha256"]:  # the last bits
            assert float(tensor.double().norm()) == pytest.approx(wanted["norm"], rel=1e-3), name


# --- caches ----------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small data set, with the times of change that its old caches know, and a cache folder of this test alone."""
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "caches"))
    folder = tmp_path / "labels"
    shutil.copytree(COMPAT / "labels", folder)
    for path in folder.rglob("*.*"):
        os.utime(path, (EXPECTED["when"], EXPECTED["when"]))
    return folder


def values_of(thing: Any) -> Any:
    """What a data class holds, however deep, for a comparison to the bit: arrays as type, shape and bytes."""
    if dataclasses.is_dataclass(thing):
        return {field.name: values_of(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
    if isinstance(thing, np.ndarray):
        return str(thing.dtype), thing.shape, thing.tobytes()
    return [values_of(item) for item in thing] if isinstance(thing, (list, tuple)) else thing


def content_of(data: Path) -> Any:
    """All that is known of the pictures of a data set."""
    return values_of(open_split(open_data(str(data)), "train"))


def cache_of(labels: Path) -> Path:
    """Where today's code keeps what it has read."""
    (file,) = (path for path in (labels.parent / "caches").rglob("*") if path.is_file())
    return file


def rules_of(file: Path) -> object:
    """By which rules a cache was made; nothing for a file of another kind than the old ones."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            described = json.loads(arrays["header"].tobytes())["described"]
            return described["format"], described["version"], described["rules"]
    except Exception:  # whatever numpy says to a file of another kind
        return None


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_an_old_cache_is_never_misread(labels: Path, kind: str) -> None:
    plain = content_of(labels / f"{kind}.yaml")
    cache, old = cache_of(labels), labels / f"labels_{kind}.npz"
    todays = rules_of(cache)
    assert rules_of(old) == ("yolov7 labels", 1, 1)
    shutil.copyfile(old, cache)
    assert content_of(labels / f"{kind}.yaml") == plain
    assert rules_of(cache) == todays


@pytest.mark.parametrize("kind", ["txt", "json"])
@pytest.mark.parametrize("key", ["version", "rules"])
def test_a_cache_by_other_rules_is_made_anew(labels: Path, kind: str, key: str) -> None:
    plain = content_of(labels / f"{kind}.yaml")
    cache = cache_of(labels)
    todays = rules_of(cache)
    with np.load(labels / f"labels_{kind}.npz") as old:
        arrays = dict(old)
    header = json.loads(arrays["header"].tobytes())
    header["described"][key] = 0
    arrays |= {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "boxes": arrays["boxes"] + 1}
    with open(cache, "wb") as stream:
        np.savez(stream, **arrays)
    assert content_of(labels / f"{kind}.yaml") == plain
    assert rules_of(cache) == todays
