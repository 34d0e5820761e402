"""A network as CUDA graphs finds what it finds without: recorded on a CPU (tests/recorder.py), or on a GPU itself."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import micro_tasks
import numpy as np
import pytest
import torch
from recorder import RecordedOnCpu
from torch import Tensor

import yolov7
from yolov7.config import InputError
from yolov7.config.options import NetworkOptions
from yolov7.inference import graphed
from yolov7.inference.loading import load_network
from yolov7.inference.network import TorchNetwork
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Predictions
from yolov7.model.spec import read_spec
from yolov7.model.weights import load_model

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if GPU else "cpu")
pytestmark = [pytest.mark.gpu] if GPU else []  # without one, a CPU records
HEADS = ["AnchorHead", "SegmentHead", "PoseHead", "MaskHead"]


class Recorder(RecordedOnCpu):
    """One for each test."""


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Recorder]]:
    Recorder.made = Recorder.replayed = Recorder.plain = 0
    Recorder.refuses = False
    if not GPU:
        monkeypatch.setattr(graphed, "GraphPool", Recorder)
    yield Recorder


def model_of(head: str, folder: Path) -> Detector:
    if head != "AnchorHead":
        return load_model(micro_tasks.write_weights(folder / "w.pt", head, bias=6.0)).model
    torch.manual_seed(5)
    model = Detector(read_spec(str(Path(__file__).parents[1] / "micro.yaml")), 3).eval()
    for conv in model.head.convs:
        conv.bias.data.view(3, -1)[:, 4:] += 6
    return model


def images(seed: int, batch: int = 2, height: int = 96, width: int = 64) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(batch, 3, height, width).to(DEVICE, memory_format=torch.channels_last)


def values(rows: Predictions) -> list[Tensor]:
    return [rows.boxes, rows.objectness, rows.classes, *rows.extra.values(), *rows.maps.values()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", HEADS)
def test_the_same_rows(tmp_path: Path, head: str, precision: str) -> None:
    model = model_of(head, tmp_path)
    plain, fast = (TorchNetwork(model, DEVICE, precision, fast=value) for value in (False, True))
    kept = []
    for seed in range(4):
        for shape in ((2, 96, 64), (1, 64, 64)):
            batch = images(seed, *shape)
            found, expected = fast(batch, 0.3), plain(batch, 0.3)
            assert sum(len(rows.boxes) for rows in expected) > 3
            kept.append((found, expected))
    for found, expected in kept:  # also of the first ones: later replays leave them alone
        for one, other in zip(found, expected, strict=True):
            assert one.extra.keys() == other.extra.keys() and one.maps.keys() == other.maps.keys()
            for a, b in zip(values(one), values(other), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)
    if not GPU:
        assert (Recorder.made, Recorder.plain, Recorder.replayed) == (2, 2, 6)


def test_threads_may_share_it(tmp_path: Path) -> None:
    model = model_of("AnchorHead", tmp_path)
    plain, fast = (TorchNetwork(model, DEVICE, fast=value) for value in (False, True))
    batches = [images(seed, height=96 if seed % 2 else 64) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for batch, found in zip(batches, pool.map(lambda batch: fast(batch, 0.3), batches), strict=True):
            for one, other in zip(found, plain(batch, 0.3), strict=True):
                torch.testing.assert_close(one.boxes, other.boxes)


@pytest.mark.skipif(GPU, reason="what cannot be recorded is acted")
def test_what_cannot_be_recorded_goes_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fast = TorchNetwork(model_of("AnchorHead", tmp_path), DEVICE, fast=True)
    Recorder.refuses = True
    for seed in range(4):
        assert fast(images(seed), 0.3)
    assert caplog.text.count("--fast: the network cannot be recorded as a CUDA graph (operation not permitted); it "
                             "goes on without") == 1
    assert Recorder.replayed == 0


def test_there_is_a_limit_of_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "MAX_SHAPES", 1)
    fast = TorchNetwork(model_of("AnchorHead", tmp_path), DEVICE, fast=True)
    for _ in range(3):
        for height in (64, 96):
            fast(images(0, height=height), 0.3)
    assert fast._graphs is not None and len(fast._graphs._recorded) == 1


def test_a_pickled_one_records_anew(tmp_path: Path) -> None:
    fast = TorchNetwork(model_of("AnchorHead", tmp_path), DEVICE, fast=True)
    expected = [fast(images(0), 0.3) for _ in range(3)][-1]
    copied = pickle.loads(pickle.dumps(fast))
    for _ in range(3):
        torch.testing.assert_close(copied(images(0), 0.3)[0].boxes, expected[0].boxes)


def test_a_predictor_prepares_images_on_the_device(tmp_path: Path) -> None:
    model = model_of("AnchorHead", tmp_path)
    predictors = [Predictor(TorchNetwork(model, DEVICE, fast=value), NMSOptions(0.1), 64) for value in (False, True)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (height, 90, 3), dtype=np.uint8) for height in (120, 70, 120)]
    for _ in range(3):
        plain, fast = (predictor(pictures) for predictor in predictors)
        for one, other in zip(plain, fast, strict=True):
            assert len(one) and torch.equal(one.labels, other.labels)
            torch.testing.assert_close(one.boxes, other.boxes)


def test_where_it_cannot_be_is_said(tmp_path: Path) -> None:
    path = micro_tasks.write_weights(tmp_path / "w.pt", "SegmentHead")
    with pytest.raises(InputError, match="--fast: is for CUDA devices, this run is on cpu; leave the flag out"):
        load_network([path], torch.device("cpu"), NetworkOptions(fast=True))
    with pytest.raises(InputError, match="--fast: --compile makes kernels of its own; accepted: one of them"):
        load_network([path], torch.device("cpu"), NetworkOptions(fast=True, compile=True))
    with pytest.raises(InputError, match="fast: is for CUDA devices"):
        yolov7.load(path, "cpu", fast=True)
