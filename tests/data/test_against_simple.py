"""The fast augmentation against the simple one: for the same random numbers, the same boxes and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simple_augment import SimpleDataset

from yolov7.config.recipe import AugmentConfig, read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet

P5 = read_recipe("p5").augment
CASES = {
    "p5": P5,
    "tiny": read_recipe("tiny").augment,
    "single": replace(P5, mosaic=0.0),
    "copy-paste": replace(P5, copy_paste=0.5),
    "turned": replace(P5, degrees=20.0, shear=5.0),
    "perspective": replace(P5, degrees=10.0, perspective=0.0005),
    "everything": AugmentConfig(mosaic=0.7, mixup=0.5, copy_paste=0.5, paste_in=0.5, degrees=10.0, flipud=0.5),
}


def assert_alike(image_set: ImageSet, size: int, augment: AugmentConfig, count: int, grey_levels: float) -> None:
    fast, simple = TrainingDataset(image_set, size, augment, seed=3), SimpleDataset(image_set, size, augment, seed=3)
    objects = 0
    for position in range(count):
        key = (position % 3, position, position % len(image_set))
        found, expected = fast[key], simple[key]
        assert found.objects.labels.tolist() == expected.objects.labels.tolist()
        np.testing.assert_allclose(found.objects.boxes, expected.objects.boxes, atol=1e-3)
        for one, other in zip(found.objects.polygons, expected.objects.polygons, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-2)
        assert found.image.shape == expected.image.shape
        assert np.abs(found.image.astype(int) - expected.image).mean() < grey_levels
        objects += len(found.objects)
    assert objects > count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("polygons", ["none", "mixed"])
def test_made_up_images(squares: Callable[..., ImageSet], case: str, polygons: str) -> None:
    assert_alike(squares(8, polygons=polygons), 160, CASES[case], 24, 2.0)


@pytest.mark.untraced
@pytest.mark.parametrize("case", CASES)
def test_real_images(coco_mini: Path, case: str) -> None:
    assert_alike(open_split(open_data(str(coco_mini)), "train"), 320, CASES[case], 30, 0.5)
