"""Masks in windows: a column like any other, run lengths as pycocotools has them, outlines that give the mask back."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from yolov7.masks import (
    Masks,
    masks_from,
    masks_of_rles,
    outlines,
    ring_area,
    rle_iou,
    runs_of_text,
)


def some_masks(seed: int, count: int = 5, size: tuple[int, int] = (23, 31)) -> Masks:
    """Masks with holes, parts, single pixels, pixels at every border; one is empty, one fills the image."""
    r = np.random.RandomState(seed)
    windows, pixels = [(0, 0, size[1], size[0]), (4, 4, 4, 4)], [np.ones(size, bool), np.zeros((0, 0), bool)]
    for index in range(count):
        x, y = np.sort(r.randint(0, size[1] + 1, 2)), np.sort(r.randint(0, size[0] + 1, 2))
        if index == 0:
            x, y = np.array((0, size[1])), np.array((0, size[0]))
        windows.append((int(x[0]), int(y[0]), int(x[1]), int(y[1])))
        pixels.append(r.random_sample((y[1] - y[0], x[1] - x[0])) < (0.3, 0.5, 0.9)[index % 3])
    return masks_from(windows, pixels, size)


@pytest.mark.parametrize("seed", range(20))
def test_runs_equal_pycocotools(seed: int) -> None:
    masks = some_masks(seed)
    expected = coco_mask.encode(np.asfortranarray(masks.dense().numpy().transpose(1, 2, 0).astype(np.uint8)))
    assert masks.rles == [{"size": list(masks.size), "counts": rle["counts"].decode()} for rle in expected]
    assert masks.rle(2) == masks.rles[2]
    assert masks.area.tolist() == coco_mask.area(expected).tolist()
    back = masks_of_rles(masks.rles, masks.size)
    assert torch.equal(back.dense(), masks.dense()) and len(back.bits) <= len(masks.bits)
    assert [runs_of_text(rle["counts"]) for rle in masks.rles][1] == [23 * 31]


@pytest.mark.parametrize("seed", range(5))
def test_iou_equals_that_of_the_pixels(seed: int) -> None:
    one, other = some_masks(seed, size=(40, 30)), some_masks(seed + 50, 3, (40, 30))
    first, second = (masks.dense().flatten(1).double() for masks in (one, other))
    shared = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1) - shared
    expected = torch.where(union > 0, shared / union.clamp(min=1), 0)
    np.testing.assert_allclose(one.iou(other), expected.numpy(), rtol=1e-12)
    assert one.iou(other[torch.zeros(len(other), dtype=torch.bool)]).shape == (len(one), 0)
    assert rle_iou([], other.rles).shape == (0, len(other))


@pytest.mark.parametrize("text", ["4", "P", "\x20", "ooooooo0", "0\x7f", "5o"])
def test_a_broken_text_is_refused(text: str) -> None:
    if text == "4":
        assert runs_of_text(text) == [4]
    else:
        with pytest.raises(ValueError, match="count"):
            runs_of_text(text)


def filled(parts: list[tuple[np.ndarray, list[np.ndarray]]], size: tuple[int, int]) -> np.ndarray:
    """Which centres of pixels lie inside the outer rings and in no hole, by the crossings to their left."""
    inside = np.zeros(size, bool)
    y = np.arange(size[0]) + 0.5
    for ring in (ring for outer, holes in parts for ring in (outer, *holes)):
        for (x1, y1), (x2, y2) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            assert x1 == x2 or y1 == y2  # along the edges of pixels
            if x1 == x2:
                inside[(y > min(y1, y2)) & (y < max(y1, y2)), x1:] ^= True
    return inside


@pytest.mark.parametrize("seed", range(30))
def test_outlines_give_the_mask_back(seed: int) -> None:
    masks = some_masks(seed)
    height, width = masks.size
    for index, whole in enumerate(masks.dense().numpy()):
        parts = masks.polygons(index)
        assert np.array_equal(filled(parts, masks.size), whole)
        area = sum(ring_area(outer) - sum(map(ring_area, holes)) for outer, holes in parts)
        assert area == whole.sum() == masks.area[index]
        assert all(len(ring) >= 4 and ring.dtype == np.int32 for outer, holes in parts for ring in (outer, *holes))
        if len(parts) == 1:  # as others fill them: the outer ring less the holes
            outer, *holes = (coco_mask.decode(coco_mask.frPyObjects([ring.ravel().tolist()], height, width))[..., 0]
                             for ring in (parts[0][0], *parts[0][1]))
            assert np.array_equal(outer.astype(bool) & ~np.any([np.zeros(masks.size), *holes], axis=0), whole)


def test_parts_and_holes() -> None:
    picture = ["#####..#",
               "#...#.#.",
               "#.#.#...",
               "#...#...",
               "#####.##"]
    pixels = np.array([[cell == "#" for cell in row] for row in picture])
    ring, island, *others = outlines(pixels, (10, 20))
    assert ring[0].tolist() == [[10, 20], [10, 25], [15, 25], [15, 20]]
    assert [sorted(map(tuple, hole.tolist())) for hole in ring[1]] == [[(11, 21), (11, 24), (14, 21), (14, 24)]]
    sizes = sorted(ring_area(outer) for outer, _ in (island, *others))
    assert sizes == [1, 2, 2]  # the island, two pixels that touch at a corner, two in a row
    assert outlines(np.zeros((3, 4), bool)) == [] and outlines(np.zeros((0, 0), bool)) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_any_small_mask_survives(height: int, width: int, seed: int) -> None:
    pixels = np.random.RandomState(seed).random_sample((height, width)) < 0.5
    masks = masks_from([(2, 1, 2 + width, 1 + height)], [pixels], (height + 1, width + 3))
    assert np.array_equal(filled(masks.polygons(0), masks.size), masks.dense()[0].numpy())
    assert torch.equal(masks_of_rles(masks.rles, masks.size).dense(), masks.dense())


def test_a_column_is_indexed_and_pickled_by_value() -> None:
    masks = some_masks(3)
    chosen = masks[torch.tensor([4, 2, 0])]
    assert torch.equal(chosen.dense(), masks.dense()[[4, 2, 0]])
    assert torch.equal(masks[1:3].dense(), masks.dense()[1:3])
    assert torch.equal(masks[masks.area > 5].dense(), masks.dense()[masks.area > 5])
    assert torch.equal(chosen.of(1), masks.of(2)) and len(chosen.rles) == 3
    content = pickle.dumps(masks)
    assert len(content) < len(masks.bits) / 8 + 700
    back = pickle.loads(content)
    assert torch.equal(back.bits, masks.bits) and torch.equal(back.windows, masks.windows) and back.size == masks.size
    nothing = pickle.loads(pickle.dumps(masks[:0]))
    assert len(nothing) == 0 and nothing.dense().shape == (0, *masks.size) and nothing.area.tolist() == []
    assert nothing.rles == []
