"""Outlines of masks and what COCO JSON makes of outlines: there and back, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from yolov7.data.coco_annotations import join_parts, read_polygon
from yolov7.data.images import cv2
from yolov7.data.objects import Placement, Ragged
from yolov7.data.outlines import compressed, hole_mask, outline_rings, run_lengths, segmentation_of
from yolov7.data.rasterize import fill_outline, index_map, rings_of


def random_mask(seed: int) -> np.ndarray:
    """Noise, blobs, lines: with holes, pinches and lines of one pixel."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 24, 2)
    kind = rng.integers(3)
    if kind == 0:
        return rng.random((height, width)) < rng.uniform(0.1, 0.95)
    if kind == 1:
        noise = cv2.GaussianBlur(rng.random((height * 2, width * 2)), (0, 0), 2)
        return noise > np.quantile(noise, rng.uniform(0.2, 0.8))
    mask = np.zeros((height + 4, width + 4), np.uint8)
    for _ in range(rng.integers(1, 6)):
        a, b = rng.integers(0, (width, height), (2, 2)).tolist()
        cv2.line(mask, a, b, 1, int(rng.integers(1, 3)))
    return mask.astype(bool)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10**6))
def test_an_outline_is_exactly_its_mask(seed: int) -> None:
    mask = random_mask(seed)
    size = mask.shape
    for counts in (run_lengths(mask), compressed(run_lengths(mask))):
        line = read_polygon({"size": list(size), "counts": counts}, size)
        np.testing.assert_array_equal(fill_outline(line, size), mask)
    turned = Placement(np.array((-1, 1)), np.array((size[1], 0))).points(line)
    np.testing.assert_array_equal(fill_outline(turned, size), mask[:, ::-1])
    if mask.any():
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose([*line.min(0), *line.max(0)], box, atol=1 / 200)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_written_is_read_back(seed: int) -> None:
    """By pycocotools as well: run lengths and bridged polygons."""
    mask = random_mask(seed)
    size: Any = mask.shape
    line = read_polygon({"size": list(size), "counts": run_lengths(mask)}, size)
    if not len(line):
        return
    segmentation, area = segmentation_of(line, size)
    back = read_polygon(segmentation, size)
    np.testing.assert_array_equal(fill_outline(back, size), mask)
    assert area == pytest.approx(mask.sum(), abs=1 + 0.02 * len(line))
    if isinstance(segmentation, dict):
        assert area == mask.sum()
        theirs = coco_masks.decode(segmentation)
    else:
        theirs = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(segmentation, *size)))
    np.testing.assert_array_equal(theirs, mask)


def test_holes_that_are_no_mask_keep_their_places() -> None:
    outer = np.array([(2.3, 2.1), (40.2, 3.7), (38.8, 30.9)], np.float32)
    inner = np.array([(25.3, 8.1), (34.2, 8.7), (33.8, 15.9)], np.float32)
    line = join_parts([outer, inner])
    assert sorted(hole_mask(rings_of(line))) == [False, True]
    segmentation, area = segmentation_of(line, (40, 50))
    np.testing.assert_allclose(read_polygon(segmentation, (40, 50)), line, atol=1e-6)
    assert area == pytest.approx(cv2.contourArea(outer) - cv2.contourArea(inner), rel=1e-6)
    theirs = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(segmentation, 40, 50)))
    assert theirs.sum() == pytest.approx(area, rel=0.1)  # the bridge adds nothing


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40))
def test_counts_as_pycocotools_writes_them(runs: list[int]) -> None:
    counts = [*runs, 1]
    theirs = coco_masks.frPyObjects({"size": [1, sum(counts)], "counts": counts}, 1, sum(counts))
    assert compressed(counts) == theirs["counts"].decode()


def test_parts_and_holes_reach_the_index_map() -> None:
    mask = np.zeros((64, 64), bool)
    mask[8:56, 8:40] = True
    mask[20:36, 16:32] = False
    mask[8:16, 48:56] = True
    line = read_polygon({"size": [64, 64], "counts": run_lengths(mask)}, (64, 64))
    assert sorted(hole_mask(outline_rings(mask))) == [False, False, True]
    cells = index_map(Ragged(line, np.array([len(line)])), (64, 64)).astype(bool)
    np.testing.assert_array_equal(cells, mask[1::4, 1::4])
