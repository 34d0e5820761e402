"""Outlines of generated objects: every part with its holes, as one closed line each."""

from __future__ import annotations

import cv2
import numpy as np

from yolov7.data.generated import edges_of_mask, outline


def filled(lines: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels have their centres inside, by the even-odd rule: a ray that crosses edges."""
    inside = np.zeros(shape, bool)
    for line in lines:
        for (x1, y1), (x2, y2) in zip(line, np.roll(line, -1, axis=0), strict=True):
            for row in range(shape[0]):
                if (y1 > row + 0.5) != (y2 > row + 0.5):
                    inside[row] ^= np.arange(shape[1]) + 0.5 < x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
    return inside


def test_a_hole_is_joined_by_a_bridge_that_cancels() -> None:
    mask = np.zeros((12, 16), bool)
    mask[1:11, 2:15] = True
    mask[4:8, 5:11] = False
    (edges,) = edges_of_mask(mask)
    assert [len(edge) for edge in edges] == [4, 4]
    line = outline(edges)
    assert np.array_equal(filled([line], mask.shape), mask)
    assert cv2.contourArea(line) == mask.sum()
    assert (line.min(0).tolist(), line.max(0).tolist()) == ([2, 1], [15, 11])


def test_small_holes_are_filled() -> None:
    mask = np.ones((6, 6), bool)
    mask[2, 2:5] = False
    (edges,) = edges_of_mask(mask)
    assert len(edges) == 2 and len(outline(edges)) == 4


def test_parts_inside_of_holes_come_last() -> None:
    mask = np.zeros((14, 24), bool)
    mask[0:12, 0:12] = True
    mask[2:10, 2:10] = False
    mask[4:8, 4:8] = True  # an island
    mask[2:9, 15:22] = True
    parts = edges_of_mask(mask)
    assert [len(edges) for edges in parts].count(2) == 1
    assert len(parts) == 3 and parts[-1][0].min() == 4 and parts[-1][0].max() == 8
    lines = [outline(edges) for edges in parts]
    assert np.array_equal(filled(lines, mask.shape), mask)


def test_any_mask_comes_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = cv2.resize(rng.random((9, 11), dtype=np.float32), (44, 36), interpolation=cv2.INTER_CUBIC) > 0.45
        parts = edges_of_mask(mask)
        lines = [edge for edges in parts for edge in edges]
        assert np.array_equal(filled(lines, mask.shape), mask)
        joined = [outline(edges) for edges in parts]
        assert sum(cv2.contourArea(line) for line in joined) >= mask.sum()
        assert (filled(joined, mask.shape) != mask).sum() <= 3 * sum(len(edges) - 1 for edges in parts)


def test_no_pixels_have_no_edges() -> None:
    assert edges_of_mask(np.zeros((4, 5), bool)) == []
