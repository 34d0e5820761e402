"""Rasterising: the reference implementation's numbers, a whole grid as the oracle, rings, clipping, speed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_numbers import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from image_records import polygons_of

from yolov7.data.coco_annotations import join_parts
from yolov7.data.images import cv2
from yolov7.data.objects import Ragged
from yolov7.data.rasterize import clip_outline, fill_outline, index_map, joined, rasterize, rings_of, separate_maps

CASES = json.loads((GOLDEN / "seg" / "post.json").read_text())["raster"]
Polygon = list[tuple[float, float]]


@pytest.mark.parametrize("name", CASES)
def test_golden_seg_raster(name: str) -> None:
    case, stored = CASES[name], np.load(GOLDEN / "seg" / f"raster_{name}.npz")
    polygons = Ragged(stored["points"], stored["lengths"].astype(np.int64))
    size, ratio = (case["height"], case["width"]), case["ratio"]
    np.testing.assert_array_equal(separate_maps(polygons, size, ratio), stored["separate"])
    rows = np.concatenate(([0], stored["order"] + 1))[stored["index_map"]]  # ranks -> rows
    np.testing.assert_array_equal(index_map(polygons, size, ratio), rows)


def whole_grid(line: np.ndarray, size: tuple[int, int], ratio: int) -> np.ndarray:
    """The rule as it is written: the full grid, then the resize itself."""
    pixels = np.zeros(size, np.uint8)
    cv2.fillPoly(pixels, [line.astype(np.int32)], 1)
    return cv2.resize(pixels, (size[1] // ratio, size[0] // ratio), interpolation=cv2.INTER_LINEAR)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), ratio=st.sampled_from([1, 2, 3, 4, 5, 8]), size=st.sampled_from(
    [(64, 96), (60, 45), (61, 47), (33, 30)]), reach=st.sampled_from([0.0, 0.3, 1.0, 3.0]))
def test_windows_give_what_the_whole_grid_gives(seed: int, ratio: int, size: tuple[int, int], reach: float) -> None:
    rng = np.random.default_rng(seed)
    sides = np.array(size[::-1])
    lines = [(rng.uniform(-reach, 1 + reach, (rng.integers(3, 9), 2)) * sides).astype(np.float32) for _ in range(6)]
    found = separate_maps(polygons_of(lines), size, ratio)
    for line, cells in zip(lines, found, strict=True):
        np.testing.assert_array_equal(cells, whole_grid(line, size, ratio))


def test_larger_objects_are_painted_first_and_rows_stay() -> None:
    square = np.array([(0, 0), (31, 0), (31, 31), (0, 31)], np.float32)
    lines = [square / 4, square, np.zeros((0, 2), np.float32), square + 100, square / 2, square / 2]
    found = index_map(polygons_of(lines), (64, 64))
    assert found.dtype == np.int16
    assert sorted(np.unique(found)) == [0, 1, 2, 6]  # of equal ones the later is in front
    assert found[0, 0] == 1 and found[3, 3] == 6 and found[7, 7] == 2
    assert rasterize(polygons_of(lines), (64, 64))[2] is None


def test_three_hundred_objects_keep_their_numbers() -> None:
    corners = np.stack(np.meshgrid(np.arange(20), np.arange(16)), -1).reshape(-1, 2)[:300] * 8
    square = np.array([(0, 0), (7, 0), (7, 7), (0, 7)])
    found = index_map(polygons_of([(square + corner).astype(np.float32) for corner in corners]), (128, 160))
    assert np.unique(found).tolist() == list(range(301))
    assert all(found[y // 4, x // 4] == row + 1 for row, (x, y) in enumerate(corners.tolist()))


def test_nothing_to_paint() -> None:
    none = polygons_of([])
    assert not index_map(none, (64, 64)).any() and separate_maps(none, (64, 64)).shape == (0, 16, 16)


def test_points_from_behind_the_horizon_take_no_time() -> None:
    line = np.array([(-3e8, -2e9), (2e9, -3e8), (10, 60), (10, 10)], np.float32)
    assert index_map(polygons_of([line]), (64, 64)).any()


# --- rings -----------------------------------------------------------------------------------------------------

SQUARE: Polygon = [(2, 2), (60, 2), (60, 60), (2, 60)]


def square(x: float, y: float, side: float, turned: bool = False) -> np.ndarray:
    ring = np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)], np.float32)
    return ring[::-1] if turned else ring


def even_odd(rings: list[np.ndarray], size: tuple[int, int] = (64, 64)) -> np.ndarray:
    pixels = np.zeros(size, np.uint8)
    cv2.fillPoly(pixels, [ring.astype(np.int32) for ring in rings], 1)
    return pixels.astype(bool)


@pytest.mark.parametrize("turned", [False, True])
def test_bridges_are_not_painted(turned: bool) -> None:
    parts = [square(2, 2, 10), square(30, 40, 9, turned), square(5, 5, 3, turned), square(50, 5, 9)]
    line = join_parts(parts)
    rings = rings_of(line)
    assert sorted(len(ring) for ring in rings) == [4] * 4
    np.testing.assert_array_equal(fill_outline(line, (64, 64)), even_odd(parts))
    assert not fill_outline(line, (64, 64))[6:8, 6:8].any()  # the hole
    painted = np.zeros((64, 64), np.uint8)
    cv2.fillPoly(painted, [line.astype(np.int32)], 1)
    assert painted.sum() > fill_outline(line, (64, 64)).sum()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_rings_of_any_join(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 64, (rng.integers(3, 7), 2)).astype(np.float32) + np.float32(0.25) * i
             for i in range(rng.integers(1, 6))]  # no two have a point in common
    parts = [part for part in parts if len(np.unique(part, axis=0)) == len(part)]
    for line in (join_parts(parts), joined(parts)) if parts else ():
        assert sum(map(len, rings_of(line))) == sum(map(len, parts))
        np.testing.assert_array_equal(fill_outline(line, (64, 64)), even_odd(parts))


def test_a_line_without_doubled_edges_is_its_only_ring() -> None:
    eight = np.array([(0, 0), (10, 10), (20, 0), (20, 20), (10, 10), (0, 20)], np.float32)
    closed = np.concatenate((square(2, 2, 5), square(2, 2, 5)[:1]))
    for line in (square(0, 0, 9), eight, closed):
        assert len(rings_of(line)) == 1 and rings_of(line)[0] is line
    assert rings_of(np.zeros((0, 2), np.float32)) == []
    assert rings_of(np.array([(1, 1), (5, 5), (9, 5), (5, 5)], np.float32)) == []  # there and back


# --- clipping --------------------------------------------------------------------------------------------------


def sampled(rings: list[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Whether places are inside by the even-odd rule, counted by crossings of a ray."""
    inside = np.zeros(len(places), bool)
    for ring in rings:
        for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crosses = (ay > places[:, 1]) != (by > places[:, 1])
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (places[:, 0] < ax + (places[:, 1] - ay) / (by - ay) * (bx - ax))
    return inside


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_a_clipped_outline_holds_the_same_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(-30, 90, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.5:
        parts = [part.round(-1) for part in parts]  # points on the border, and edges along it
    line = join_parts([part.astype(np.float32) for part in parts])
    clipped = rings_of(clip_outline(line, (0, 10), (60, 50)))
    for ring in clipped:
        assert (ring >= (0, 10)).all() and (ring <= (60, 50)).all()
    places = rng.uniform(-30, 90, (400, 2)) + 1e-4
    within = ((places > (0, 10)) & (places < (60, 50))).all(1)
    np.testing.assert_array_equal(sampled(clipped, places), sampled(rings_of(line), places) & within)


def test_an_outline_outside_is_nothing() -> None:
    assert clip_outline(square(-30, 5, 10), (0, 0), (60, 60)).shape == (0, 2)


def test_twenty_objects_are_fast() -> None:
    from time import perf_counter

    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.column_stack((np.cos(turn), np.sin(turn)))
    lines = polygons_of([(circle * rng.uniform(10, 120) + rng.uniform(0, 640, 2)).astype(np.float32)
                         for _ in range(20)])
    times = []
    for _ in range(20):
        start = perf_counter()
        index_map(lines, (640, 640))
        times.append(perf_counter() - start)
    assert min(times) < 0.01  # about 1 ms on a free machine
