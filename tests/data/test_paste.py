"""Paste-in: cut-outs of other images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rectangles import rectangle_sample

from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.paste import CutOut, CutOutPool, paste_in
from yolov7.data.transforms import intersection_over_area

Squares = Callable[..., ImageSet]


def pool_of(image_set: ImageSet, seed: int = 0) -> CutOutPool:
    return CutOutPool(image_set, ImageReader(image_set, 128, training=True), seed)


def test_objects_are_cut_out_by_their_polygon(squares: Squares) -> None:
    image_set = squares(6, polygons="mixed")
    pool = pool_of(image_set)
    assert pool.images.tolist() == [0, 2, 4]  # that have polygons
    cut_outs = pool.of_epoch(0)
    assert len(cut_outs) == 3  # half of two objects of each
    for place in range(3):
        item = cut_outs[place]
        assert item is not None
        colour = ((220, 30, 30), (30, 200, 40), (40, 60, 230))[item.label]
        assert (item.patch[item.mask] == colour).all()
        assert item.mask.mean() > 0.9
        assert item.patch.base is None  # a view would keep the whole image


def test_cut_outs_depend_on_seed_and_epoch_alone(squares: Squares) -> None:
    image_set = squares(12, polygons="all")
    first, second = pool_of(image_set), pool_of(image_set)
    second.of_epoch(7)
    assert first.of_epoch(3).keys == second.of_epoch(3).keys
    assert first.of_epoch(3) is first.of_epoch(3)
    assert first.of_epoch(4).keys != first.of_epoch(3).keys != pool_of(image_set, 1).of_epoch(3).keys


def test_an_epoch_reads_a_bounded_number_of_images(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov7.data.paste.POOL_IMAGES", 3)
    pool = pool_of(squares(12, polygons="all"))
    reads: list[int] = []
    original = pool.reader.read
    monkeypatch.setattr(pool.reader, "read", lambda index: reads.append(index) or original(index))
    for seed in range(30):
        paste_in(rectangle_sample((0, 0, 4, 4), (400, 400)), pool.of_epoch(0), np.random.default_rng(seed))
    assert len(reads) == len(set(reads)) == 3


def test_an_image_that_is_gone_is_not_pasted(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    image_set = squares(2, polygons="all")
    for path in image_set.paths:
        Path(path).unlink()
    pool = pool_of(image_set)
    assert [pool.of_epoch(0)[place] for place in range(len(pool.of_epoch(0)))] == [None, None]
    sample = rectangle_sample((0, 0, 4, 4), (400, 400))
    assert len(paste_in(sample, pool.of_epoch(0), np.random.default_rng(0)).objects) == 1


def test_a_black_object_stays_black() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:25, 5:35] = True
    polygon = np.array([(5, 5), (35, 5), (35, 25), (5, 25)], np.float32)
    patch = np.zeros((30, 40, 3), np.uint8)
    patch[:, :, 1] = 50
    sample = replace(rectangle_sample((0, 0, 4, 4), (400, 400)), image=np.full((400, 400, 3), 200, np.uint8))
    before = sample.image.copy()
    pasted = paste_in(sample, [CutOut(patch, mask, polygon, 9)], np.random.default_rng(0))
    np.testing.assert_array_equal(sample.image, before)  # the input is not written to
    assert len(pasted.objects) > 3
    assert set(pasted.objects.labels[1:].tolist()) == {9}
    painted = (pasted.image != 200).any(-1)
    values = pasted.image[painted]
    assert np.unique(values, axis=0).tolist() == [[0, 50, 0]]
    assert len(pasted.objects.polygons) == len(pasted.objects)
    for box, points in zip(pasted.objects.boxes[1:], pasted.objects.polygons[1:], strict=True):
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
    for i, box in enumerate(pasted.objects.boxes[1:], 1):
        assert (intersection_over_area(box, pasted.objects.boxes[:i]) < 0.3).all()


def test_tiny_images_and_nothing_to_paste() -> None:
    tiny = rectangle_sample((1, 1, 4, 4), (10, 12))
    item = CutOut(np.zeros((50, 50, 3), np.uint8), np.ones((50, 50), bool), np.zeros((3, 2), np.float32), 0)
    assert len(paste_in(tiny, [item], np.random.default_rng(0)).objects) == 1
    assert paste_in(tiny, [], np.random.default_rng(0)) is tiny
