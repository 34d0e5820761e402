"""Mosaics: where tiles lie, what is read of them, that objects lie where their pixels are; mirrored objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from image_records import NO_POLYGON, polygons_of
from rectangles import make_sample
from simple_augment import build_mosaic

from yolov7.config.recipe import AugmentConfig
from yolov7.data.compose import (
    Mosaic,
    draw_mirrored,
    draw_mosaic,
    tile_corners,
)
from yolov7.data.geometry import RandomPerspective, Warp, crop, warp_objects
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet
from yolov7.data.objects import Objects, Sample, concatenate, no_objects
from yolov7.data.render import Tile, paste_mirrored, render
from yolov7.structures import ImageMeta

Squares = Callable[..., ImageSet]
S = 64
COLOURS = np.array([(220, 30, 30), (30, 200, 40), (40, 60, 230)])


def tile(value: int, height: int, width: int) -> Sample:
    """A tile of one grey value, with a box all around it."""
    box = np.array([(0, 0, width, height)], np.float32)
    polygon = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    return make_sample(np.full((height, width, 3), value, np.uint8), box, np.array([value]), (polygon,))


def painted(canvas: np.ndarray, value: int) -> list[int]:
    """Box of the pixels of this value."""
    y, x = np.nonzero((canvas == value).all(-1))
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


def lay(tiles: Sequence[Sample], mosaic: Mosaic, drawn: Warp | None = None) -> np.ndarray:
    """The canvas of these tiles, rendered."""
    shapes = [sample.image.shape[:2] for sample in tiles]
    placed = [Tile(i, *rest) for i, rest in enumerate(zip(shapes, tile_corners(shapes, mosaic, S), strict=True))]
    return render(placed, 2 * S, drawn or crop(2 * S, 2 * S, 0), lambda i: tiles[i].image)


def mosaic_of(image_set: ImageSet, mosaic: Mosaic, size: int, drawn: Warp) -> Sample:
    """The images and objects of a set as a mosaic, warped."""
    reader = ImageReader(image_set, size, training=True)
    shapes = [reader.shape(i) for i in mosaic.indices]
    tiles = [Tile(*item) for item in zip(mosaic.indices, shapes, tile_corners(shapes, mosaic, size), strict=True)]
    image = render(tiles, 2 * size, drawn, reader.read)
    limit = np.array((2 * size, 2 * size))
    objects = concatenate([
        image_set.objects_of(item.index).placed(reader.ratio(item.index), np.array(item.corner)).clipped(limit)
        for item in tiles
    ])
    return Sample(image, warp_objects(objects, drawn), ImageMeta("x"))


# --- four tiles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "rectangles"),
    [
        ((32, 32), [(0, 0, 32, 32), (32, 0, 96, 32), (0, 32, 32, 80), (32, 32, 72, 96)]),
        ((96, 96), [(32, 48, 96, 96), (96, 32, 128, 96), (32, 96, 96, 128), (96, 96, 128, 128)]),
    ],
)
def test_four_tiles_meet_at_the_point(point: tuple[int, int], rectangles: list[tuple[int, ...]]) -> None:
    tiles = [tile(10, 48, 64), tile(20, 64, 64), tile(30, 48, 64), tile(40, 64, 40)]
    found = build_mosaic(tiles, Mosaic((0, 1, 2, 3), point), S)
    np.testing.assert_array_equal(lay(tiles, Mosaic((0, 1, 2, 3), point)), found.image)
    for i, rectangle in enumerate(rectangles):
        assert painted(found.image, tiles[i].image[0, 0, 0]) == list(rectangle)
        assert found.objects.boxes[i].tolist() == list(rectangle)
        assert [*found.objects.polygons.of(i).min(0), *found.objects.polygons.of(i).max(0)] == list(rectangle)
    covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in rectangles)
    assert (found.image == 114).all(-1).sum() == 128 * 128 - covered


def test_the_source_rectangle_ends_at_the_meeting_point() -> None:
    gradient = np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, 1)[..., None].repeat(3, -1)
    tiles = [replace(tile(0, 64, 64), image=gradient) for _ in range(4)]
    found = lay(tiles, Mosaic((0,) * 4, (40, 50)))
    assert found[:50, 0, 0].tolist() == list(range(14, 64))  # bottom of the upper tiles
    assert found[50:, 0, 0].tolist() == [*range(64), *[114] * 14]  # top of the lower tiles


# --- nine tiles ------------------------------------------------------------------------------------------------


def test_nine_tiles_touch() -> None:
    shapes = [(40, 64), (64, 50), (30, 64), (64, 64), (48, 64), (64, 32), (64, 44), (20, 64), (64, 64)]
    corners = tile_corners(shapes, Mosaic(tuple(range(9)), (0, 0)), S)
    boxes = [(x, y, x + w, y + h) for (x, y), (h, w) in zip(corners, shapes, strict=True)]
    assert boxes == [
        (64, 64, 128, 104),  # middle
        (64, 0, 114, 64),  # top: ends above the middle
        (114, 34, 178, 64),  # top right: beside the top
        (128, 64, 192, 128),  # right of the middle
        (128, 128, 192, 176),  # bottom right: below the right
        (96, 104, 128, 168),  # bottom: ends with the middle
        (52, 104, 96, 168),  # bottom left: beside the bottom
        (0, 84, 64, 104),  # left: ends with the middle
        (0, 20, 64, 84),  # top left: above the left
    ]
    shifted = tile_corners(shapes, Mosaic(tuple(range(9)), (10, 3)), S)
    assert shifted == [(x - 10, y - 3) for x, y in corners]


def test_nine_tiles_on_the_canvas() -> None:
    tiles = [tile(10 * (i + 1), 64, 64) for i in range(9)]
    found = build_mosaic(tiles, Mosaic(tuple(range(9)), (20, 30)), S)
    np.testing.assert_array_equal(lay(tiles, Mosaic(tuple(range(9)), (20, 30))), found.image)
    assert painted(found.image, 10) == found.objects.boxes[0].tolist() == [44, 34, 108, 98]
    assert painted(found.image, 90) == found.objects.boxes[8].tolist() == [0, 0, 44, 34]
    for i in range(9):
        assert painted(found.image, 10 * (i + 1)) == found.objects.boxes[i].tolist()


# --- objects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_boxes_lie_where_their_pixels_are(squares: Squares, seed: int) -> None:
    image_set = squares(long_side=128, polygons="mixed")
    rng = np.random.default_rng(seed)
    x, y = rng.integers(64, 192, 2).tolist()
    found = mosaic_of(image_set, Mosaic(tuple(rng.integers(6, size=4).tolist()), (x, y)), 128, crop(256, 256, 0))
    expected = np.zeros(found.image.shape[:2], int) - 1
    for (x1, y1, x2, y2), label in zip(found.objects.boxes.astype(int), found.objects.labels, strict=True):
        expected[y1:y2, x1:x2] = label
    for label, colour in enumerate(COLOURS):
        np.testing.assert_array_equal((found.image == colour).all(-1), expected == label)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_pixels_through_nine_tiles_and_the_warp(squares: Squares, seed: int) -> None:
    image_set = squares(long_side=128, polygons="mixed")
    rng = np.random.default_rng(seed)
    mosaic = Mosaic(tuple([2 * int(i) for i in rng.integers(3, size=9)]), tuple(rng.integers(128, size=2).tolist()))
    config = AugmentConfig(degrees=0, scale=0.4, translate=0.2, shear=0, perspective=0)
    drawn = RandomPerspective(config, border=-64).draw(256, 256, rng)
    found = mosaic_of(image_set, mosaic, 128, drawn)  # tiles of one shape: none hides another
    assert found.image.shape == (128, 128, 3)
    assert len(found.objects)
    uncovered = np.ones(found.image.shape[:2], bool)
    for (x1, y1, x2, y2), label in zip(found.objects.boxes, found.objects.labels, strict=True):
        inside = found.image[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
        assert (np.abs(inside.astype(int) - COLOURS[label]) <= 2).all()
        uncovered[max(int(y1) - 1, 0) : int(y2) + 2, max(int(x1) - 1, 0) : int(x2) + 2] = False
    coloured = np.zeros_like(uncovered)
    for colour in COLOURS:
        coloured |= (np.abs(found.image.astype(int) - colour) <= 2).all(-1)
    assert (coloured & uncovered).sum() <= 2 * found.image.shape[0] * 3  # slivers at the border are dropped


def test_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_mosaic(7, 50, S, rng) for _ in range(2000)]
    four = [m for m in drawn if len(m.indices) == 4]
    nine = [m for m in drawn if len(m.indices) == 9]
    assert len(four) + len(nine) == 2000
    assert len(four) / 2000 == pytest.approx(0.8, abs=0.03)
    assert all(m.indices[0] == 7 for m in drawn)
    assert {i for m in drawn for i in m.indices} == set(range(50))
    points = np.array([m.point for m in four])
    assert (points.min(), points.max()) == (S // 2, 3 * S // 2 - 1)
    points = np.array([m.point for m in nine])
    assert (points.min(), points.max()) == (0, S - 1)


# --- rendering -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_only_what_is_visible_is_read(turned: bool) -> None:
    tiles = [Tile(i, (S, S), corner) for i, corner in enumerate([(0, 0), (S, 0), (0, S), (S, S)])]
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.full((S, S, 3), index, np.uint8)

    matrix = np.array([[2.0, 0.001 if turned else 0, 0], [0, 2, -20], [0, 0, 1]])
    image = render(tiles, 2 * S, Warp(matrix, 2.0, (S, S)), read)
    assert reads == [0]
    assert not image.any()
    reads.clear()
    far = Warp(np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]]), 1.0, (S, S))
    assert (render(tiles, 2 * S, far, read) == 114).all()
    assert reads == []


@pytest.mark.parametrize("zoom", [0.1, 0.37, 1.0, 1.9])
def test_there_are_no_seams_between_tiles(zoom: float) -> None:
    whole = np.full((2 * S, 2 * S, 3), 200, np.uint8)
    tiles = [Tile(i, (S, S), corner) for i, corner in enumerate([(0, 0), (S, 0), (0, S), (S, S)])]
    for angle in (0.0, 0.3):
        c, s = zoom * np.cos(angle), zoom * np.sin(angle)
        drawn = Warp(np.array([[c, s, 7.3], [-s, c, 5.1], [0, 0, 1]]), zoom, (S, S))
        found = render(tiles, 2 * S, drawn, lambda _: whole[:S, :S])
        alone = render([Tile(0, (2 * S, 2 * S), (0, 0))], 2 * S, drawn, lambda _: whole)
        np.testing.assert_array_equal(found, alone)
        assert {*np.unique(found)} <= {114, 200}


# --- copy-paste ------------------------------------------------------------------------------------------------

POLYGON = np.array([(10, 10), (39, 10), (39, 39), (10, 39)], np.float32)


def objects(boxes: list[tuple[int, ...]], labels: list[int], has_polygon: list[bool]) -> Objects:
    polygons = polygons_of([POLYGON if has else NO_POLYGON for has in has_polygon])
    return no_objects().like(np.array(boxes, np.float32), np.array(labels), polygons=polygons)


def test_every_pixel_of_an_object_is_mirrored() -> None:
    image = np.full((128, 128, 3), 90, np.uint8)
    image[10:40, 10:40] = (0, 50, 200)  # red is 0: also this channel is pasted
    found, polygons = draw_mirrored(objects([(10, 10, 40, 40)], [3], [True]), 1.0, 128, np.random.default_rng(0))
    assert found.boxes.tolist() == [[10, 10, 40, 40], [88, 10, 118, 40]]
    assert found.labels.tolist() == [3, 3]
    assert found.polygons.of(1).tolist() == [[118, 10], [89, 10], [89, 39], [118, 39]]
    tiles, still = [Tile(0, (128, 128), (0, 0))], crop(128, 128, 0)
    pasted = render(tiles, 128, still, lambda _: image)
    np.testing.assert_array_equal(pasted, image)
    paste_mirrored(pasted, tiles, 128, still, lambda _: image, polygons)
    assert (pasted[10:40, 88:118] == (0, 50, 200)).all()
    assert (pasted != image).any(-1).sum() == 900


def test_a_mirrored_object_hides_no_other() -> None:
    boxes = [(10, 10, 40, 40), (90, 12, 110, 30)]
    crowded, polygons = draw_mirrored(objects(boxes, [3, 4], [True, False]), 1.0, 128, np.random.default_rng(0))
    assert crowded.labels.tolist() == [3, 4]
    assert polygons == []
    alone = objects(boxes[:1], [3], [True])
    assert draw_mirrored(alone, 0.4, 128, np.random.default_rng(0))[0] is alone  # 0.4 of one object is none
    boxed = objects(boxes[:1], [3], [False])
    assert draw_mirrored(boxed, 1.0, 128, np.random.default_rng(0))[0] is boxed
