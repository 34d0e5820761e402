"""Samples for evaluation and for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.config.recipe import AugmentConfig
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import EvaluationDataset, TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.objects import Sample

Write = Callable[..., Path]
Squares = Callable[..., ImageSet]
QUIET = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, mosaic=0, mixup=0, paste_in=0)


def assert_equal(first: Sample, second: Sample) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.objects.boxes, second.objects.boxes)
    np.testing.assert_array_equal(first.objects.labels, second.objects.labels)
    assert len(first.objects.polygons) == len(second.objects.polygons) == len(first.objects)
    for a, b in zip(first.objects.polygons, second.objects.polygons, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.meta == second.meta


def test_a_training_sample_depends_on_its_key_alone(squares: Squares) -> None:
    augment = AugmentConfig(paste_in=0.5, copy_paste=0.5, mixup=0.5)
    first, second = (TrainingDataset(squares(polygons="mixed"), 96, augment, seed=7) for _ in range(2))
    keys = [(0, 0, 3), (0, 1, 5), (1, 0, 3), (4, 2, 0)]
    samples = [first[key] for key in keys]
    for key, sample in zip(reversed(keys), reversed(samples), strict=True):
        assert_equal(second[key], sample)
    other = TrainingDataset(squares(polygons="mixed"), 96, augment, seed=8)
    assert not np.array_equal(other[keys[0]].image, samples[0].image)
    assert not np.array_equal(samples[2].image, samples[0].image)


def test_samples_are_within_bounds(squares: Squares) -> None:
    augment = AugmentConfig(paste_in=0.5, copy_paste=0.5, mixup=0.5, mosaic=0.7, flipud=0.5, degrees=20, shear=5)
    dataset = TrainingDataset(squares(polygons="mixed"), 96, augment)
    for position in range(30):
        sample = dataset[0, position, position % len(dataset)]
        assert sample.image.shape == (96, 96, 3)
        assert sample.image.dtype == np.uint8
        assert (sample.objects.boxes.dtype, sample.objects.labels.dtype) == (np.float32, np.int64)
        assert len(sample.objects.boxes) == len(sample.objects) == len(sample.objects.polygons)
        assert ((sample.objects.boxes >= 0) & (sample.objects.boxes <= 96)).all()
        assert (sample.objects.boxes[:, 2:] - sample.objects.boxes[:, :2] > 2).all()


def test_an_image_without_objects_is_a_sample(yolo_folder: Write) -> None:
    image_set = open_split(open_data(str(yolo_folder("0 0.5 0.5 0.2 0.4\n", None))), "train")
    assert EvaluationDataset(image_set, 64)[1].objects.boxes.shape == (0, 4)
    for augment in (QUIET, AugmentConfig()):
        assert TrainingDataset(image_set, 64, augment)[0, 0, 1].objects.boxes.shape[1] == 4


def test_evaluation_sample(yolo_folder: Write) -> None:
    image_set = open_split(open_data(str(yolo_folder("0 0.5 0.5 0.2 0.4\n"))), "train")  # 100 x 50 px
    dataset = EvaluationDataset(image_set, 200, batch_shapes=np.array([[129, 224]]))
    sample = dataset[0]
    assert sample.image.shape == (129, 224, 3)
    assert sample.meta.size == (50, 100)
    assert sample.meta.gain == (2, 2)
    assert sample.meta.pad == (12, 14.5)  # fractional, though the pixels start in row 14
    np.testing.assert_allclose(sample.objects.boxes, [[92, 44.5, 132, 84.5]])
    square = EvaluationDataset(image_set, 200)[0]
    assert square.image.shape == (200, 200, 3)
    assert square.meta.pad == (0, 50)


def test_evaluation_gain_is_that_of_the_height(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (500, 333)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (tmp_path / "set.yaml").write_text("val: .\nnames: [a]\n")
    sample = EvaluationDataset(open_split(open_data(str(tmp_path / "set.yaml")), "val"), 640)[0]
    assert sample.meta.gain == (426 / 333, 426 / 333)
    np.testing.assert_allclose(sample.objects.boxes, [[0, 107, 640, 533]])


def test_without_mosaic_the_image_is_letterboxed(squares: Squares) -> None:
    augment = replace(QUIET, translate=0, scale=0, fliplr=0)
    image_set = squares(polygons="all")
    sample = TrainingDataset(image_set, 256, augment)[0, 0, 0]
    assert (sample.image[0] == 114).all()
    boxes, labels = image_set.objects_of(0).boxes, image_set.objects_of(0).labels
    zoom = (sample.objects.boxes[:, 2] - sample.objects.boxes[:, 0]) / (boxes[:, 2] - boxes[:, 0]) / 2
    assert ((zoom >= 1) & (zoom <= 1.1)).all()
    assert sample.objects.labels.tolist() == labels.tolist()


def test_an_unreadable_image_is_replaced_and_counted(
    squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    image_set = squares()
    dataset, again = (TrainingDataset(image_set, 96, replace(QUIET, mosaic=0)) for _ in range(2))
    Path(image_set.paths[2]).write_bytes(b"damaged since the start")
    sample = dataset[0, 4, 2]
    assert sample.meta.image_id != 2
    assert dataset.replaced == 1
    assert "squares_2.png: not an image that can be read" in caplog.text
    assert "another sample takes its place (1 so far)" in caplog.text
    dataset[0, 5, 2]
    assert dataset.replaced == 2
    assert caplog.text.count("squares_2.png") == 1  # said once
    assert_equal(again[0, 4, 2], sample)
    mosaic = TrainingDataset(image_set, 96, AugmentConfig())
    assert mosaic[0, 0, 1].image.shape == (96, 96, 3)


def test_images_that_are_all_gone_end_the_run(squares: Squares) -> None:
    image_set = squares(2)
    dataset = TrainingDataset(image_set, 96, QUIET)
    for path in image_set.paths:
        Path(path).unlink()
    with pytest.raises(InputError, match=r"20 samples in a row cannot be read; the last: .*No such file"):
        dataset[0, 0, 0]
    with pytest.raises(InputError, match=r"squares_0.png: cannot be read: No such file"):
        EvaluationDataset(image_set, 96)[0]


def test_nothing_to_paste_is_said_once_and_costs_nothing(
    squares: Squares, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = TrainingDataset(squares(), 96, AugmentConfig(paste_in=1, copy_paste=1))
    assert [m for m in caplog.messages if "is inactive" in m] == [
        "augment.paste_in is 1, but no object has a segmentation polygon, so paste-in is inactive (as with --set "
        "augment.paste_in=0)",
        "augment.copy_paste is 1, but no object has a segmentation polygon, so copy-paste is inactive (as with --set "
        "augment.copy_paste=0)",
    ]
    monkeypatch.setattr("yolov7.data.pipeline.paste_in", lambda *_: pytest.fail("for nothing"))
    for position in range(5):
        dataset[0, position, 0]
