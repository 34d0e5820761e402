"""Decoded images kept in memory or on the disk: the same samples, shared, stated, renewed when an image changes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from yolov7.config import InputError
from yolov7.config.recipe import AugmentConfig
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import EpochSampler, evaluation_loader, training_loader
from yolov7.runtime.memory import free_memory

Squares = Callable[..., ImageSet]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV7_CACHE_DIR", str(tmp_path / "cache"))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    from yolov7.data import image_cache as reader

    original = reader.load_image
    monkeypatch.setattr(reader, "load_image", lambda path: reads.append(str(path)) or original(path))
    return reads


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_samples_without_reading_again(
    squares: Squares, place: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set, augment = squares(polygons="mixed"), AugmentConfig(paste_in=0.5)
    plain = TrainingDataset(image_set, 96, augment)
    expected = [plain[0, place_, index] for place_, index in enumerate(range(6))]
    reads = count_reads(monkeypatch)
    cached = TrainingDataset(image_set, 96, augment, cache=place)
    assert len(reads) == 6
    for path in image_set.paths:  # whatever happens to the files: they are not read any more
        os.unlink(path)
    for position, sample in enumerate(expected):
        np.testing.assert_array_equal(cached[0, position, position].image, sample.image)
        np.testing.assert_array_equal(cached[0, position, position].objects.boxes, sample.objects.boxes)
    batches = list(training_loader(cached, EpochSampler(6, 2, 0), workers))
    assert len(batches) == 3
    assert cached.replaced == 0


def test_evaluation_is_cached_too(squares: Squares) -> None:
    image_set = squares()
    plain = list(evaluation_loader(image_set, 96, 2, 32, 0))
    for place in ("ram", "disk"):
        for batch, expected in zip(evaluation_loader(image_set, 96, 2, 32, 0, cache=place), plain, strict=True):
            assert (batch.images == expected.images).all()


def test_the_disk_cache_is_used_again_until_an_image_changes(
    squares: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set = squares()
    reads = count_reads(monkeypatch)
    ImageReader(image_set, 96, training=True, cache="disk")
    assert len(reads) == 6
    ImageReader(image_set, 96, training=True, cache="disk")
    assert len(reads) == 6
    ImageReader(image_set, 64, training=True, cache="disk")
    assert len(reads) == 12
    height, width = image_set.sizes[3].tolist()
    Image.new("RGB", (width, height), (1, 2, 3)).save(image_set.paths[3])
    os.utime(image_set.paths[3], ns=(time.time_ns(), time.time_ns() + 10**9))
    renewed = ImageReader(image_set, 96, training=True, cache="disk")
    assert len(reads) == 18
    assert (renewed.read(3) == (1, 2, 3)).all()
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(files) == 2  # one of each size: the outdated one is gone
    assert all(name.endswith(".pixels") for name in files)


def test_an_unreadable_image_is_left_out(squares: Squares) -> None:
    image_set = squares()
    good = Path(image_set.paths[1]).read_bytes()
    Path(image_set.paths[1]).write_bytes(good[: len(good) // 2])
    for place in ("ram", "disk"):
        reader = ImageReader(image_set, 96, training=True, cache=place)
        assert reader.read(0).shape[2] == 3
        with pytest.raises(InputError, match="squares_1.png: truncated PNG"):
            reader.read(1)


def test_the_memory_is_stated_and_refused(
    squares: Squares, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image_set = squares()
    with caplog.at_level(logging.INFO):
        ImageReader(image_set, 96, training=True, cache="ram")
    assert "--cache ram, train: the decoded images need 0.1 MiB, " in caplog.text
    monkeypatch.setattr("yolov7.data.image_cache.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match=r"--cache ram, train: .*0.0 MiB are free; --cache disk and a smaller"):
        ImageReader(image_set, 96, training=True, cache="ram")


def test_free_memory_is_plausible() -> None:
    assert 2**26 < free_memory(torch.device("cpu")) < 2**50
