"""The table of objects: every column is chosen, joined, stored and moved with the others."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from image_records import NO_POLYGON, polygons_of

from yolov7.data.objects import COLUMNS, Objects, concatenate, no_objects, objects_from

TRIANGLE = np.array([(10, 10), (30, 10), (30, 40)], np.float32)
SQUARE = np.array([(50, 20), (60, 20), (60, 30), (50, 30)], np.float32)


@pytest.fixture
def table() -> Objects:
    """Five objects, of which the first, third and last have a polygon; two key points each."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (5, 2))
    keypoints = np.concatenate((rng.uniform(0, 50, (5, 2, 2)), np.full((5, 2, 1), 2)), axis=2).astype(np.float32)
    keypoints[1, 1] = 0  # not labelled
    return no_objects(2).like(
        np.concatenate((corners, corners + 10), axis=1).astype(np.float32), np.arange(5),
        polygons=polygons_of([TRIANGLE, NO_POLYGON, SQUARE, NO_POLYGON, TRIANGLE + 1]), keypoints=keypoints,
        crowd=np.array([False, True, False, False, False]), area=np.array([1, np.nan, 3, 4, 5]))


def rows_of(table: Objects) -> list[list[list[float]]]:
    """The objects one by one, every column of each as plain numbers."""
    columns = [list(getattr(table, name)) for name in COLUMNS]
    return [[np.asarray(value).ravel().tolist() for value in row] for row in zip(*columns, strict=True)]


def assert_same(found: Objects, expected: Objects) -> None:
    for name, value in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], value, err_msg=name)


@pytest.mark.parametrize("rows", [
    [True, False, True, True, False], [False] * 5, [True] * 5, [True, False, True, False, True], [4, 0, 0, 2], [],
    slice(1, 4), slice(0, 0), slice(2, None), slice(3, 1),
], ids=str)
def test_all_columns_are_chosen_alike(table: Objects, rows: list[int] | slice) -> None:
    index = rows if isinstance(rows, slice) else np.array(rows, None if rows else np.int64)
    expected = [rows_of(table)[i] for i in np.arange(5)[index]]
    assert repr(rows_of(table[index])) == repr(expected)  # NaN equals NaN
    assert table[index].keypoints.shape[1:] == (2, 3)


def test_a_range_of_rows_is_a_view(table: Objects) -> None:
    part = table[1:4]
    assert np.shares_memory(part.boxes, table.boxes)
    assert np.shares_memory(part.polygons.points, table.polygons.points)
    assert np.shares_memory(table[np.array([True, False, True, True, True])].polygons.points, table.polygons.points)


def test_parts_make_the_whole(table: Objects) -> None:
    assert_same(concatenate([table[:2], table[2:2], table[2:]]), table)
    assert len(concatenate([no_objects(), no_objects()])) == 0


def test_arrays_and_back(table: Objects) -> None:
    assert_same(objects_from(table.arrays()), table)
    assert_same(objects_from(no_objects(3).arrays()), no_objects(3))
    assert_same(pickle.loads(pickle.dumps(table[1:])), table[1:])  # as loader processes that are spawned do
    assert list(table.arrays()) == ["boxes", "labels", "polygons", "polygons_counts", "keypoints", "crowd", "area"]


@pytest.mark.parametrize(("name", "array", "message"), [
    ("boxes", np.zeros((5, 4)), r"boxes is float64 \(5, 4\)"),
    ("boxes", np.zeros((5, 3), np.float32), r"boxes is float32 \(5, 3\)"),
    ("crowd", np.zeros((5, 1), bool), r"crowd is bool \(5, 1\)"),
    ("labels", np.int64(3), r"labels is int64 \(\)"),
    ("area", np.zeros(4), "its objects do not fit together"),
    ("polygons_counts", np.zeros(5, np.int64), "polygons: its counts do not fit its points"),
    ("polygons_counts", np.array([11, -1, 0, 0, 0]), "polygons: its counts do not fit its points"),
])
def test_arrays_that_are_no_table(table: Objects, name: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objects_from(table.arrays() | {name: np.asarray(array)})


def test_what_is_not_given_is_not_known(table: Objects) -> None:
    one = table.like(np.array([(1, 2, 4, 6)], np.float32), np.array([3]))
    assert (one.keypoints.shape, len(one.polygons.points), one.crowd.tolist()) == ((1, 2, 3), 0, [False])
    assert not one.keypoints.any() and np.isnan(one.area).all()
    assert one.areas.tolist() == [12]
    assert_same(concatenate([table, one])[:5], table)
    assert {name: array.dtype for name, array in one.arrays().items()} == \
        {name: array.dtype for name, array in table.arrays().items()}


def test_areas_are_those_of_the_file_else_of_the_boxes(table: Objects) -> None:
    np.testing.assert_allclose(table.areas, [1, 100, 3, 4, 5], rtol=1e-5)


# --- motion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True])
def test_all_columns_move_together(table: Objects, each: bool) -> None:
    scale, offset = np.array((2.0, 3.0)), np.array((5.0, -1.0))
    if each:
        scale, offset = (np.repeat(value[None], 5, axis=0) for value in (scale, offset))
        scale[2], offset[2] = (1, 1), (0, 0)
    moved = table.placed(scale, offset)
    scale, offset = np.broadcast_to(scale, (5, 2)), np.broadcast_to(offset, (5, 2))
    for i in range(5):
        np.testing.assert_allclose(moved.boxes[i], table.boxes[i] * np.tile(scale[i], 2) + np.tile(offset[i], 2))
        np.testing.assert_allclose(moved.polygons.of(i), table.polygons.of(i) * scale[i] + offset[i])
        labelled = table.keypoints[i, :, 2:] > 0
        expected = (table.keypoints[i, :, :2] * scale[i] + offset[i]) * labelled
        np.testing.assert_allclose(moved.keypoints[i, :, :2], expected, rtol=1e-6)
    assert_same(moved[:0], table[:0])
    for name in ("labels", "crowd", "area"):
        assert getattr(moved, name) is getattr(table, name)


def test_a_mirror_keeps_corners_in_order(table: Objects) -> None:
    mirrored = table.placed(np.array((-1, 1)), np.array((100, 0)))
    assert (mirrored.boxes[:, :2] < mirrored.boxes[:, 2:]).all()
    np.testing.assert_allclose(mirrored.boxes[:, [2, 1, 0, 3]], table.boxes * (-1, 1, -1, 1) + (100, 0, 100, 0))
    assert mirrored.boxes.dtype == mirrored.polygons.points.dtype == mirrored.keypoints.dtype == np.float32


def test_what_lies_outside_is_cut_off(table: Objects) -> None:
    keypoints = np.array([[(5, 5, 2), (41, 5, 2)], [(0, 0, 0), (40, 30, 1)]], np.float32)
    both = table[np.array([0, 4])]
    both = both.like(np.array([(-5, 3, 70, 60), (1, 2, 3, 4)], np.float32), both.labels, polygons=both.polygons,
                     keypoints=keypoints)
    clipped = both.clipped(np.array((40, 30)))
    assert clipped.boxes.tolist() == [[0, 3, 40, 30], [1, 2, 3, 4]]
    assert clipped.polygons.points.tolist() == [[10, 10], [30, 10], [30, 30], [11, 11], [31, 11], [31, 30]]
    assert clipped.keypoints.tolist() == [[[5, 5, 2], [0, 0, 0]], [[0, 0, 0], [40, 30, 1]]]
    each = both.clipped(np.array([(40, 30), (2, 3)]))
    assert each.boxes.tolist() == [[0, 3, 40, 30], [1, 2, 2, 3]]
    assert each.polygons.of(1).tolist() == [[2, 3], [2, 3], [2, 3]]
    assert not each.keypoints[1].any()
