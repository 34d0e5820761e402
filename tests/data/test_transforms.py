"""Augmentation of one picture: labels follow pixels, thresholds, colours, pasting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from yolov7.data.image_set import ImageSet, no_outline
from yolov7.data.images import cv2
from yolov7.data.transforms import (
    CutOut,
    Flip,
    HSVJitter,
    RandomPerspective,
    Warp,
    cover,
    cut_out,
    flip,
    letterbox_sample,
    mixup,
    paste_in,
    warp,
)
from yolov7.options import AugmentConfig
from yolov7.structures import ImageMeta, Sample

Squares = Callable[..., ImageSet]
RED = np.array((220, 30, 30))
STILL = AugmentConfig(degrees=0, translate=0, scale=0, shear=0, perspective=0)


def rectangle_sample(
    box: tuple[int, int, int, int], size: tuple[int, int] = (100, 120), outlined: bool = True
) -> Sample:
    """One red rectangle on black."""
    image = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = RED
    outline = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float32) if outlined else no_outline()
    return Sample(image, np.array([box], np.float32), np.array([1]), (outline,), ImageMeta("x"))


def box_of_red(image: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(np.abs(image.astype(int) - RED).max(-1) < 60)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def matrix(*rows: tuple[float, float, float], zoom: float = 1.0, size: tuple[int, int] = (100, 120)) -> Warp:
    return Warp(np.array([*rows, (0, 0, 1)], float), zoom, size)


# --- geometry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outlined", [True, False])
def test_identity_changes_nothing(outlined: bool) -> None:
    sample = rectangle_sample((30, 20, 70, 60), outlined=outlined)
    moved = warp(sample, matrix((1, 0, 0), (0, 1, 0)))
    assert moved.image is sample.image
    np.testing.assert_allclose(moved.boxes, sample.boxes, atol=1e-4)
    assert moved.labels.tolist() == [1]
    np.testing.assert_array_equal(moved.segments[0], sample.segments[0])


@pytest.mark.parametrize("outlined", [True, False])
def test_a_quarter_turn(outlined: bool) -> None:
    sample = rectangle_sample((30, 20, 70, 50), (100, 100), outlined)
    moved = warp(sample, matrix((0, 1, 0), (-1, 0, 100), size=(100, 100)))  # counter-clockwise: x' = y, y' = 100 - x
    np.testing.assert_allclose(moved.boxes, [[20, 30, 50, 70]], atol=1e-3)
    assert np.abs(box_of_red(moved.image) - moved.boxes[0]).max() <= 1


def test_positive_angles_turn_counter_clockwise() -> None:
    perspective = RandomPerspective(replace(STILL, degrees=30))
    drawn = [perspective.draw(100, 100, np.random.default_rng(seed)) for seed in range(20)]
    angles = [np.degrees(np.arctan2(d.matrix[0, 1], d.matrix[0, 0])) for d in drawn]
    assert min(angles) < -10 < 10 < max(angles)
    for d in drawn:
        np.testing.assert_allclose(d.matrix @ (50, 50, 1), (50, 50, 1), atol=1e-9)  # about the centre
        assert np.hypot(*d.matrix[0, :2]) == pytest.approx(d.zoom)


def test_the_order_and_the_ranges_of_the_draws() -> None:
    config = AugmentConfig(degrees=10, translate=0.2, scale=0.9, shear=5, perspective=0.001)
    drawn = RandomPerspective(config, border=-20).draw(200, 240, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    p1, p2 = rng.uniform(-0.001, 0.001), rng.uniform(-0.001, 0.001)
    angle, zoom = np.radians(rng.uniform(-10, 10)), rng.uniform(0.1, 2.0)
    shear_x, shear_y = np.tan(np.radians([rng.uniform(-5, 5), rng.uniform(-5, 5)]))
    tx, ty = rng.uniform(0.3, 0.7) * 200, rng.uniform(0.3, 0.7) * 160
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    expected = (
        np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
        @ np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
        @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, 1, 0], [p1, p2, 1]])
        @ np.array([[1, 0, -120], [0, 1, -100], [0, 0, 1]])
    )
    np.testing.assert_allclose(drawn.matrix, expected, rtol=1e-12)
    assert drawn.zoom == zoom
    assert drawn.size == (160, 200)


@pytest.mark.parametrize("seed", range(12))
def test_labels_follow_pixels(seed: int) -> None:
    config = AugmentConfig(degrees=25, translate=0.1, scale=0.2, shear=8, perspective=0.001)
    sample = rectangle_sample((50, 40, 90, 70), (120, 140))
    moved = RandomPerspective(config)(sample, np.random.default_rng(seed))
    assert np.abs(box_of_red(moved.image) - moved.boxes[0]).max() <= 1.5
    mask = np.zeros(moved.image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [moved.segments[0].round().astype(np.int32)], 1)
    red = np.abs(moved.image.astype(int) - RED).max(-1) < 60
    assert (mask.astype(bool) & red).sum() / (mask.astype(bool) | red).sum() > 0.85


@pytest.mark.parametrize("shift", [-50, 45])
def test_a_box_is_that_of_the_visible_part(shift: int) -> None:
    sample = rectangle_sample((30, 20, 90, 60))
    for outlined in (True, False):
        moved = warp(
            sample if outlined else replace(sample, segments=(no_outline(),)), matrix((1, 0, shift), (0, 1, 0))
        )
        expected = [max(30 + shift, 0), 20, min(90 + shift, 120), 60]
        np.testing.assert_allclose(moved.boxes[0], expected, atol=0.5)


@pytest.mark.parametrize(
    ("outlined", "visible", "kept"),
    [(False, 0.11, True), (False, 0.09, False), (True, 0.09, True), (True, 0.012, True), (True, 0.008, False)],
)
def test_the_least_visible_part_depends_on_what_is_known(outlined: bool, visible: float, kept: bool) -> None:
    sample = rectangle_sample((0, 0, 1000, 100), (1000, 1000), outlined)
    moved = warp(sample, matrix((1, 0, -1000 * (1 - visible)), (0, 1, 0), size=(1000, 1000)))
    assert (len(moved.labels) == 1) is kept
    assert len(moved.segments) == len(moved.boxes) == len(moved.labels)


@pytest.mark.parametrize(
    ("size", "kept"), [((2.1, 2.1), True), ((1.9, 30), False), ((30, 1.9), False), ((59, 3), True), ((61, 3), False)]
)
def test_slivers_are_dropped(size: tuple[float, float], kept: bool) -> None:
    sample = rectangle_sample((0, 0, 1, 1))
    boxes = np.array([(10, 10, 10 + size[0], 10 + size[1])], np.float32)
    sample = replace(sample, boxes=boxes, segments=(no_outline(),))
    assert len(warp(sample, matrix((1, 0, 0), (0, 1, 0))).labels) == kept


def test_objects_with_and_without_outlines_are_not_mixed_up() -> None:
    boxes = np.array([(10, 10, 30, 30), (40, 40, 80, 80), (85, 10, 115, 40)], np.float32)
    diamond = np.array([(60, 40), (80, 60), (60, 80), (40, 60)], np.float32)
    image, outlines = np.zeros((100, 120, 3), np.uint8), (no_outline(), diamond, no_outline())
    sample = Sample(image, boxes, np.array([5, 6, 7]), outlines, ImageMeta("x"))
    turn = np.sqrt(0.5)
    moved = warp(sample, matrix((turn, turn, 0), (-turn, turn, 60)))
    middle = moved.boxes[moved.labels == 6][0]
    np.testing.assert_allclose(middle[2:] - middle[:2], 40 * turn, atol=0.2)  # turned by 45 degrees, it is a square
    others = moved.boxes[moved.labels != 6]
    assert len(others) == 2
    assert [len(points) for points in moved.segments] == [0, 4, 0]


def test_points_behind_the_horizon_make_no_warning() -> None:
    sample = rectangle_sample((30, 20, 90, 60))
    drawn = Warp(np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]], float), 1.0, (100, 120))
    with np.errstate(all="raise"):
        moved = warp(sample, drawn)
    assert np.isfinite(moved.boxes).all()


def test_letterbox_moves_boxes_and_outlines() -> None:
    moved = letterbox_sample(rectangle_sample((30, 20, 90, 60)), (200, 240), scale_up=True)
    np.testing.assert_allclose(moved.boxes, [[60, 40, 180, 120]])
    np.testing.assert_allclose(moved.segments[0][2], (180, 120))
    moved = letterbox_sample(rectangle_sample((30, 20, 90, 60)), (200, 240), scale_up=False)
    assert moved.meta.pad == (60, 50)
    np.testing.assert_allclose(moved.boxes, [[90, 70, 150, 110]])


@pytest.mark.parametrize(("axis", "expected"), [("horizontal", [30, 20, 90, 50]), ("vertical", [30, 50, 90, 80])])
def test_flip_is_exact(axis: str, expected: list[float]) -> None:
    sample = rectangle_sample((30, 20, 90, 50))
    flipped = flip(sample, axis)  # type: ignore[arg-type]
    assert flipped.boxes.tolist() == [expected]
    assert box_of_red(flipped.image).tolist() == expected
    outline = flipped.segments[0]
    assert [*outline.min(0), *outline.max(0)] == expected
    np.testing.assert_array_equal(flip(flipped, axis).image, sample.image)  # type: ignore[arg-type]
    assert Flip(0, axis)(sample, np.random.default_rng(0)) is sample  # type: ignore[arg-type]
    assert Flip(1, axis)(sample, np.random.default_rng(0)).boxes.tolist() == [expected]  # type: ignore[arg-type]


# --- colour ----------------------------------------------------------------------------------------------------


def test_hsv_is_the_same_for_both_orders_of_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    sample = replace(rectangle_sample((1, 2, 3, 4)), image=image)
    found = HSVJitter(0.015, 0.7, 0.4)(sample, np.random.default_rng(1)).image
    gains = 1 + np.random.default_rng(1).uniform(-1, 1, 3) * (0.015, 0.7, 0.4)
    hsv = cv2.cvtColor(np.ascontiguousarray(image[..., ::-1]), cv2.COLOR_BGR2HSV).astype(float)
    scaled = hsv * gains
    changed = np.concatenate((scaled[..., :1] % 180, scaled[..., 1:].clip(0, 255)), axis=-1)
    expected = cv2.cvtColor(changed.astype(np.uint8), cv2.COLOR_HSV2BGR)[..., ::-1]
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, image)


def test_no_jitter_leaves_the_picture_alone() -> None:
    sample = rectangle_sample((1, 2, 3, 4))
    assert HSVJitter(0, 0, 0)(sample, np.random.default_rng(0)) is sample


# --- several pictures ------------------------------------------------------------------------------------------


def test_mixup() -> None:
    first, second = rectangle_sample((10, 10, 50, 50)), rectangle_sample((60, 20, 90, 80), outlined=False)
    share = np.random.default_rng(4).beta(8, 8)
    mixed = mixup(first, second, np.random.default_rng(4))
    assert mixed.boxes.tolist() == [[10, 10, 50, 50], [60, 20, 90, 80]]
    assert [len(points) for points in mixed.segments] == [4, 0]
    assert mixed.image[20, 20].tolist() == [int(share * value) for value in RED]
    assert mixed.image[40, 70].tolist() == [int((1 - share) * value) for value in RED]


def test_cover() -> None:
    boxes = np.array([(0, 0, 10, 10), (5, 5, 25, 25), (50, 50, 60, 60), (3, 3, 3, 3)], np.float32)
    np.testing.assert_allclose(cover(np.array((0, 0, 10, 5)), boxes), [0.5, 0, 0, 0])
    np.testing.assert_allclose(cover(np.array((0, 0, 15, 15)), boxes)[:2], [1, 0.25])


def test_half_of_the_outlined_objects_are_cut_out_by_their_outline() -> None:
    triangle = np.array([(10, 10), (50, 10), (10, 50)], np.float32)
    image = np.full((100, 120, 3), 7, np.uint8)
    sample = Sample(
        image, np.array([(10, 10, 50, 50)] * 4 + [(60, 60, 90, 90)], np.float32), np.arange(5),
        (triangle,) * 4 + (no_outline(),), ImageMeta("x"),
    )  # fmt: skip
    cut_outs = cut_out(sample, np.random.default_rng(0))
    assert len(cut_outs) == 2
    assert len({item.label for item in cut_outs}) == 2
    assert 4 not in {item.label for item in cut_outs}
    item = cut_outs[0]
    assert item.patch.shape == (40, 40, 3)
    assert item.mask[2, 2]
    assert not item.mask[38, 38]
    assert item.mask.mean() == pytest.approx(0.5, abs=0.05)
    assert not np.shares_memory(item.patch, image)
    assert cut_out(replace(sample, segments=(no_outline(),) * 5), np.random.default_rng(0)) == []


def test_a_black_object_stays_black() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:25, 5:35] = True
    outline = np.array([(5, 5), (35, 5), (35, 25), (5, 25)], np.float32)
    patch = np.zeros((30, 40, 3), np.uint8)
    patch[:, :, 1] = 50
    sample = replace(rectangle_sample((0, 0, 4, 4), (400, 400)), image=np.full((400, 400, 3), 200, np.uint8))
    before = sample.image.copy()
    pasted = paste_in(sample, [CutOut(patch, mask, outline, 9)], np.random.default_rng(0))
    np.testing.assert_array_equal(sample.image, before)  # the input is not written to
    assert len(pasted.labels) > 3
    assert set(pasted.labels[1:].tolist()) == {9}
    painted = (pasted.image != 200).any(-1)
    values = pasted.image[painted]
    assert np.unique(values, axis=0).tolist() == [[0, 50, 0]]
    assert len(pasted.segments) == len(pasted.labels)
    for box, points in zip(pasted.boxes[1:], pasted.segments[1:], strict=True):
        assert (points.min(0) >= box[:2]).all()
        assert (points.max(0) <= box[2:]).all()
        assert min(box[2:] - box[:2]) > 10
        x1, y1, x2, y2 = box.astype(int)
        assert painted[y1:y2, x1:x2].mean() > 0.3


@pytest.mark.parametrize("seed", range(5))
def test_pasting_covers_no_object_by_much(seed: int) -> None:
    mask = np.ones((50, 50), bool)
    item = CutOut(np.full((50, 50, 3), 9, np.uint8), mask, np.zeros((3, 2), np.float32), 0)
    sample = rectangle_sample((20, 20, 380, 380), (400, 400))
    pasted = paste_in(sample, [item], np.random.default_rng(seed))
    for i, box in enumerate(pasted.boxes[1:], 1):
        assert (cover(box, pasted.boxes[:i]) < 0.3).all()


def test_tiny_pictures_and_nothing_to_paste() -> None:
    tiny = rectangle_sample((1, 1, 4, 4), (10, 12))
    item = CutOut(np.zeros((50, 50, 3), np.uint8), np.ones((50, 50), bool), np.zeros((3, 2), np.float32), 0)
    assert len(paste_in(tiny, [item], np.random.default_rng(0)).labels) == 1
    assert paste_in(tiny, [], np.random.default_rng(0)) is tiny
