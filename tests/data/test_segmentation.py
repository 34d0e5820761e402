"""Lines of objects -> rings -> COCO's segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from yolov7.data.coco_annotations import join_parts
from yolov7.data.segmentation import coco_segmentation, rings_of_line


def polygon(seed: int, x: float, y: float, side: float) -> np.ndarray:
    """A star of whole numbers around a point."""
    r = np.random.RandomState(seed)
    angles = np.sort(r.uniform(0, 2 * np.pi, r.randint(4, 12)))
    radii = r.uniform(0.5, 1, len(angles)) * side
    points = np.stack((x + radii * np.cos(angles), y + radii * np.sin(angles)), axis=1).round().astype(np.float32)
    return points[(points != np.roll(points, 1, axis=0)).any(1)]


def start_at_least(ring: np.ndarray) -> list[list[float]]:
    """A ring from its smallest point on, in whichever direction."""
    rows = ring.tolist()
    turned = [rows[i:] + rows[:i] for i in range(len(rows))]
    rows.reverse()
    return min([*turned, *(rows[i:] + rows[:i] for i in range(len(rows)))])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_bridges_cancel(count: int, seed: int) -> None:
    parts = [polygon(seed * 10 + i, 60 + 100 * (i % 3), 60 + 100 * (i // 3), 45) for i in range(count)]
    found = rings_of_line(join_parts(parts))
    assert sorted(map(start_at_least, found)) == sorted(map(start_at_least, parts))
    segmentation = coco_segmentation(join_parts(parts), (240, 340))
    assert isinstance(segmentation, list) and len(segmentation) == count
    expected, made = (coco_mask.merge(coco_mask.frPyObjects(each, 240, 340)) for each in
                      ([part.ravel().astype(float).tolist() for part in parts], segmentation))
    assert coco_mask.iou([expected], [made], [0])[0][0] == 1


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


def test_a_hole_with_an_island() -> None:
    line = join_parts([box(10, 10, 60, 50), box(20, 20, 50, 40), box(30, 25, 40, 35), box(70, 10, 80, 20)])
    segmentation = coco_segmentation(line, (60, 90))
    assert isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
    expected = np.zeros((60, 90), bool)
    expected[10:50, 10:60] = expected[10:20, 70:80] = True
    expected[20:40, 20:50] = False
    expected[25:35, 30:40] = True
    assert np.array_equal(np.asarray(coco_mask.decode([segmentation]))[..., 0].astype(bool), expected)


@pytest.mark.parametrize("points", [[], [[1, 2]], [[1, 2], [3, 4]], [[1, 2], [3, 4], [1, 2]], [[5, 5]] * 4])
def test_a_line_without_area(points: list[list[float]]) -> None:
    line = np.array(points, np.float32).reshape(-1, 2)
    assert rings_of_line(line) == [] and coco_segmentation(line, (9, 9)) is None


def test_a_closed_ring_and_rings_that_touch() -> None:
    closed = np.concatenate((box(0, 0, 4, 4), box(0, 0, 4, 4)[:1]))
    assert [ring.tolist() for ring in rings_of_line(closed)] == [box(0, 0, 4, 4).tolist()]
    touching = join_parts([box(0, 0, 4, 4), box(4, 4, 9, 9)])
    segmentation = coco_segmentation(touching, (12, 12))
    area = coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, 12, 12)))
    assert area == 16 + 25
