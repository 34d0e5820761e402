"""Random perspective: labels follow pixels, boxes are those of what is visible, thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from image_records import NO_POLYGON, polygons_of
from rectangles import RED, box_of_red, make_sample, rectangle_sample
from simple_augment import polygon_box

from yolov7.config.recipe import AugmentConfig
from yolov7.data.geometry import RandomPerspective, Warp, polygon_boxes, warp_objects
from yolov7.data.images import cv2
from yolov7.data.objects import Sample
from yolov7.data.render import Tile, render

STILL = AugmentConfig(degrees=0, translate=0, scale=0, shear=0, perspective=0)


def matrix(*rows: tuple[float, float, float], zoom: float = 1.0, size: tuple[int, int] = (100, 120)) -> Warp:
    return Warp(np.array([*rows, (0, 0, 1)], float), zoom, size)


def warp(sample: Sample, drawn: Warp) -> Sample:
    """The sample as the only tile of a canvas."""
    height, width = sample.image.shape[:2]
    image = render([Tile(0, (height, width), (0, 0))], max(height, width), drawn, lambda _: sample.image)
    return replace(sample, image=image, objects=warp_objects(sample.objects, drawn))


def draw_and_warp(config: AugmentConfig, sample: Sample, seed: int) -> Sample:
    height, width = sample.image.shape[:2]
    return warp(sample, RandomPerspective(config).draw(height, width, np.random.default_rng(seed)))


@pytest.mark.parametrize("with_polygon", [True, False])
def test_identity_changes_nothing(with_polygon: bool) -> None:
    sample = rectangle_sample((30, 20, 70, 60), with_polygon=with_polygon)
    moved = warp(sample, matrix((1, 0, 0), (0, 1, 0)))
    np.testing.assert_array_equal(moved.image, sample.image)
    np.testing.assert_allclose(moved.objects.boxes, sample.objects.boxes, atol=1e-4)
    assert moved.objects.labels.tolist() == [1]
    np.testing.assert_array_equal(moved.objects.polygons.of(0), sample.objects.polygons.of(0))


@pytest.mark.parametrize("with_polygon", [True, False])
def test_a_quarter_turn(with_polygon: bool) -> None:
    sample = rectangle_sample((30, 20, 70, 50), (100, 100), with_polygon)
    moved = warp(sample, matrix((0, 1, 0), (-1, 0, 100), size=(100, 100)))  # counter-clockwise: x' = y, y' = 100 - x
    np.testing.assert_allclose(moved.objects.boxes, [[20, 30, 50, 70]], atol=1e-3)
    assert np.abs(box_of_red(moved.image) - moved.objects.boxes[0]).max() <= 1


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
    moved = draw_and_warp(config, sample, seed)
    assert np.abs(box_of_red(moved.image) - moved.objects.boxes[0]).max() <= 1.5
    mask = np.zeros(moved.image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [moved.objects.polygons.of(0).round().astype(np.int32)], 1)
    red = np.abs(moved.image.astype(int) - RED).max(-1) < 60
    assert (mask.astype(bool) & red).sum() / (mask.astype(bool) | red).sum() > 0.85


@pytest.mark.parametrize("shift", [-50, 45])
def test_a_box_is_that_of_the_visible_part(shift: int) -> None:
    for with_polygon in (True, False):
        moved = warp(rectangle_sample((30, 20, 90, 60), with_polygon=with_polygon), matrix((1, 0, shift), (0, 1, 0)))
        expected = [max(30 + shift, 0), 20, min(90 + shift, 120), 60]
        np.testing.assert_allclose(moved.objects.boxes[0], expected, atol=0.5)


@pytest.mark.parametrize(
    ("with_polygon", "visible", "kept"),
    [(False, 0.11, True), (False, 0.09, False), (True, 0.09, True), (True, 0.012, True), (True, 0.008, False)],
)
def test_the_least_visible_part_depends_on_what_is_known(with_polygon: bool, visible: float, kept: bool) -> None:
    sample = rectangle_sample((0, 0, 1000, 100), (1000, 1000), with_polygon)
    moved = warp(sample, matrix((1, 0, -1000 * (1 - visible)), (0, 1, 0), size=(1000, 1000)))
    assert (len(moved.objects) == 1) is kept
    assert len(moved.objects.polygons) == len(moved.objects.boxes) == len(moved.objects)


@pytest.mark.parametrize(
    ("size", "kept"), [((2.1, 2.1), True), ((1.9, 30), False), ((30, 1.9), False), ((59, 3), True), ((61, 3), False)]
)
def test_slivers_are_dropped(size: tuple[float, float], kept: bool) -> None:
    sample = rectangle_sample((0, 0, 1, 1))
    boxes = np.array([(10, 10, 10 + size[0], 10 + size[1])], np.float32)
    sample = replace(sample, objects=replace(sample.objects, boxes=boxes, polygons=polygons_of([NO_POLYGON])))
    assert len(warp(sample, matrix((1, 0, 0), (0, 1, 0))).objects) == kept


def test_objects_with_and_without_polygons_are_not_mixed_up() -> None:
    boxes = np.array([(10, 10, 30, 30), (40, 40, 80, 80), (85, 10, 115, 40)], np.float32)
    diamond = np.array([(60, 40), (80, 60), (60, 80), (40, 60)], np.float32)
    image, polygons = np.zeros((100, 120, 3), np.uint8), (NO_POLYGON, diamond, NO_POLYGON)
    sample = make_sample(image, boxes, np.array([5, 6, 7]), polygons)
    turn = np.sqrt(0.5)
    moved = warp(sample, matrix((turn, turn, 0), (-turn, turn, 60)))
    middle = moved.objects.boxes[moved.objects.labels == 6][0]
    np.testing.assert_allclose(middle[2:] - middle[:2], 40 * turn, atol=0.2)  # turned by 45 degrees, it is a square
    others = moved.objects.boxes[moved.objects.labels != 6]
    assert len(others) == 2
    assert [len(points) for points in moved.objects.polygons] == [0, 4, 0]


def test_points_behind_the_horizon_make_no_warning() -> None:
    sample = rectangle_sample((30, 20, 90, 60))
    drawn = Warp(np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]], float), 1.0, (100, 120))
    with np.errstate(all="raise"):
        moved = warp(sample, drawn)
    assert np.isfinite(moved.objects.boxes).all()


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_clipped_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-80, 180, (count, 2)) for count in rng.integers(1, 12, 30)]
    polygons += [np.array([(-5.0, 20), (-5, 80), (-1, 50)])]  # outside
    polygons += [np.array([(0.0, 10), (0, 90), (0, 50)])]  # on the border
    polygons += [np.array([(-50.0, -50), (300, -50), (300, 300), (-50, 300)])]  # all around: its line is not inside
    found = polygon_boxes(np.concatenate(polygons), np.array([len(points) for points in polygons]), (100, 120))
    expected = np.array([polygon_box(points, (100, 120)) for points in polygons])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[-3].tolist() == [0, 0, 0, 0]
    assert found[-2].tolist() == [0, 10, 0, 90]
    assert found[-1].tolist() == [0, 0, 0, 0]


def test_a_polygon_without_visible_vertices_is_seen() -> None:
    diamond = np.array([(60.0, -40), (160, 50), (60, 140), (-40, 50)])  # only its edges cross the image's corners
    np.testing.assert_allclose(polygon_boxes(diamond, np.array([4]), (100, 120)), [[0, 0, 120, 100]])


def test_keypoints_follow_and_hide_outside() -> None:
    keypoints = np.array([[(40, 30, 2), (60, 50, 1), (0, 0, 0)]], np.float32)
    sample = rectangle_sample((30, 20, 90, 60))
    sample = replace(sample, objects=replace(sample.objects, keypoints=keypoints))
    moved = warp(sample, matrix((1, 0, -50), (0, 1, 5)))
    assert moved.objects.keypoints.tolist() == [[[0, 0, 0], [10, 55, 1], [0, 0, 0]]]
