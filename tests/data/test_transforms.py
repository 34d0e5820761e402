"""Augmentation of one image: letterbox, flips, colours, mix-up, cutout."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from rectangles import RED, box_of_red, rectangle_sample
from simple_augment import mixup as simple_mixup

from yolov7.data.images import cv2
from yolov7.data.pixel_changes import COLOUR_CHANGES
from yolov7.data.transforms import (
    cutout,
    flip,
    hsv_jitter,
    intersection_over_area,
    letterbox_sample,
    mirrored_order,
    mixup,
    recoloured,
    sometimes,
)


def test_letterbox_moves_boxes_and_polygons() -> None:
    moved = letterbox_sample(rectangle_sample((30, 20, 90, 60)), (200, 240), scale_up=True)
    np.testing.assert_allclose(moved.objects.boxes, [[60, 40, 180, 120]])
    np.testing.assert_allclose(moved.objects.polygons.of(0)[2], (180, 120))
    moved = letterbox_sample(rectangle_sample((30, 20, 90, 60)), (200, 240), scale_up=False)
    assert moved.meta.pad == (60, 50)
    np.testing.assert_allclose(moved.objects.boxes, [[90, 70, 150, 110]])


@pytest.mark.parametrize(("axis", "expected"), [("horizontal", [30, 20, 90, 50]), ("vertical", [30, 50, 90, 80])])
def test_flip_is_exact(axis: str, expected: list[float]) -> None:
    sample = rectangle_sample((30, 20, 90, 50))
    flipped = flip(sample, axis)  # type: ignore[arg-type]
    assert flipped.objects.boxes.tolist() == [expected]
    assert box_of_red(flipped.image).tolist() == expected
    polygon = flipped.objects.polygons.of(0)
    assert [*polygon.min(0), *polygon.max(0)] == expected
    np.testing.assert_array_equal(flip(flipped, axis).image, sample.image)  # type: ignore[arg-type]
    never, always = (sometimes(share, lambda sample, _: flip(sample, axis)) for share in (0, 1))  # type: ignore[arg-type]
    assert never(sample, np.random.default_rng(0)) is sample
    assert always(sample, np.random.default_rng(0)).objects.boxes.tolist() == [expected]


# --- colour ----------------------------------------------------------------------------------------------------


def test_hsv_is_the_same_for_both_orders_of_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    sample = replace(rectangle_sample((1, 2, 3, 4)), image=image)
    found = hsv_jitter(sample, np.random.default_rng(1), (0.015, 0.7, 0.4)).image
    gains = 1 + np.random.default_rng(1).uniform(-1, 1, 3) * (0.015, 0.7, 0.4)
    hsv = cv2.cvtColor(np.ascontiguousarray(image[..., ::-1]), cv2.COLOR_BGR2HSV).astype(float)
    scaled = hsv * gains
    changed = np.concatenate((scaled[..., :1] % 180, scaled[..., 1:].clip(0, 255)), axis=-1)
    expected = cv2.cvtColor(changed.astype(np.uint8), cv2.COLOR_HSV2BGR)[..., ::-1]
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, image)


# --- several images ------------------------------------------------------------------------------------------


def test_mixup() -> None:
    first, second = rectangle_sample((10, 10, 50, 50)), rectangle_sample((60, 20, 90, 80), with_polygon=False)
    share = np.random.default_rng(4).beta(8, 8)
    mixed = mixup(first, second, np.random.default_rng(4))
    assert mixed.objects.boxes.tolist() == [[10, 10, 50, 50], [60, 20, 90, 80]]
    assert [len(points) for points in mixed.objects.polygons] == [4, 0]
    assert mixed.image[20, 20].tolist() == [int(share * value) for value in RED]
    assert mixed.image[40, 70].tolist() == [int((1 - share) * value) for value in RED]


def test_intersection_over_area() -> None:
    boxes = np.array([(0, 0, 10, 10), (5, 5, 25, 25), (50, 50, 60, 60), (3, 3, 3, 3)], np.float32)
    np.testing.assert_allclose(intersection_over_area(np.array((0, 0, 10, 5)), boxes), [0.5, 0, 0, 0])
    np.testing.assert_allclose(intersection_over_area(np.array((0, 0, 15, 15)), boxes)[:2], [1, 0.25])


def test_mixup_equals_the_simple_one() -> None:
    rng, blank = np.random.default_rng(0), rectangle_sample((1, 2, 30, 40))
    first, second = (replace(blank, image=rng.integers(0, 256, (100, 120, 3), np.uint8)) for _ in range(2))
    second.image[:50] = first.image[:50]
    for seed in range(10):
        fast, simple = (blend(first, second, np.random.default_rng(seed)) for blend in (mixup, simple_mixup))
        difference = np.abs(fast.image.astype(int) - simple.image)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.05  # float32 rounds some values of two equal pixels down by one
        np.testing.assert_array_equal(fast.objects.boxes, simple.objects.boxes)


def test_mirrored_keypoints_change_sides() -> None:
    order = mirrored_order(("nose", "left_eye", "right_eye", "left_knee"))
    assert order == (0, 2, 1, 3)  # the left knee has no partner
    keypoints = np.array([[(10, 20, 2), (30, 20, 1), (0, 0, 0), (50, 60, 2)]], np.float32)
    sample = rectangle_sample((5, 5, 60, 60))  # 120 px wide
    sample = replace(sample, objects=replace(sample.objects, keypoints=keypoints))
    flipped = flip(sample, "horizontal", order)
    assert flipped.objects.keypoints.tolist() == [[[110, 20, 2], [0, 0, 0], [90, 20, 1], [70, 60, 2]]]
    assert flip(sample, "vertical").objects.keypoints[0, 0].tolist() == [10, 80, 2]


def test_cutout_hides_objects_and_removes_them() -> None:
    sample = rectangle_sample((50, 40, 56, 46), (100, 100))
    hidden = [sometimes(1.0, cutout)(sample, np.random.default_rng(seed)) for seed in range(20)]
    assert {len(found.objects) for found in hidden} == {0, 1}
    for found in hidden:
        assert len(found.objects) or (np.abs(found.image[40:46, 50:56].astype(int) - RED).max(-1) > 0).mean() > 0.5
        assert ((found.image == sample.image) | ((found.image >= 64) & (found.image <= 191))).all()
    assert sometimes(0.0, cutout)(sample, np.random.default_rng(0)) is sample


@pytest.mark.parametrize("name", COLOUR_CHANGES)
def test_colour_changes(name: str) -> None:
    rows, columns = np.mgrid[:100, :120]
    image = np.stack((rows * 2, columns * 2, 255 - rows), axis=-1).astype(np.uint8)
    image[50, 60] = 255 - image[50, 60]
    sample = replace(rectangle_sample((10, 10, 40, 40)), image=image)
    before = image.copy()
    change = partial(recoloured, draw=COLOUR_CHANGES[name])
    changed = sometimes(1.0, change)(sample, np.random.default_rng(1))
    assert (changed.image.shape, changed.image.dtype) == (image.shape, np.uint8)
    assert 0 < np.abs(changed.image.astype(int) - image).mean() < (130 if name == "gray" else 60)
    np.testing.assert_array_equal(sample.image, before)
    assert changed.objects.boxes is sample.objects.boxes
    assert sometimes(0.0, change)(sample, np.random.default_rng(1)) is sample
