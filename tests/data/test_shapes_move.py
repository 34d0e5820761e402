"""Masks and key points through the augmentation: the reference implementation's numbers, and painted oracles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_numbers import GOLDEN
from image_records import ImageRecord, ObjectRecord, build_image_set
from PIL import Image

from yolov7.config.recipe import AugmentConfig
from yolov7.data.catalog import open_data, open_split
from yolov7.data.compose import draw_mirrored, draw_mosaic
from yolov7.data.dataset import EvaluationDataset, TrainingDataset
from yolov7.data.geometry import RandomPerspective, Warp, warp_objects
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.objects import Ragged, Sample, no_objects
from yolov7.data.paste import CutOut, paste_in
from yolov7.data.rasterize import separate_maps
from yolov7.data.transforms import cutout, flip, hide_keypoints, mixup
from yolov7.keypoints import COCO_PERSON
from yolov7.structures import ImageMeta

SEG = json.loads((GOLDEN / "seg" / "post.json").read_text())["perspective"]
POSE = json.loads((GOLDEN / "pose" / "post.json").read_text())


class Drawn:
    """A generator whose numbers are known."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def uniform(self, low: float, high: float, size: int = 0) -> Any:
        taken, self.numbers = self.numbers[: size or 1], self.numbers[size or 1 :]
        return np.array(taken) if size else taken[0]


def warp_of(case: dict[str, Any]) -> Warp:
    names = ("p1", "p2", "angle", "scale", "shear_x", "shear_y", "translate_x", "translate_y")
    rng: Any = Drawn(*(case[name] for name in names))
    return RandomPerspective(AugmentConfig(), case["border"][0]).draw(case["height"], case["width"], rng)


# --- golden ----------------------------------------------------------------------------------------------------


def resampled(line: np.ndarray) -> np.ndarray:
    """A closed line as the reference implementation samples it: 1000 points, equidistant in index."""
    closed = np.concatenate((line, line[:1])).astype(np.float64)
    places = np.linspace(0, len(closed) - 1, 1000)
    return np.stack([np.interp(places, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)], axis=1)


@pytest.mark.parametrize("name", SEG)
def test_golden_seg_perspective(name: str) -> None:
    stored, drawn = np.load(GOLDEN / "seg" / f"perspective_{name}.npz"), warp_of(SEG[name])
    polygons = Ragged(stored["points"], stored["lengths"].astype(np.int64))
    rows = np.arange(len(polygons))
    objects = no_objects().like(stored["boxes"][:, 1:], rows, polygons=polygons)
    found = warp_objects(objects, drawn, max_aspect=100)
    np.testing.assert_array_equal(stored["boxes"][found.labels, 0], stored["out_boxes"][:, 0])
    assert len(found) == SEG[name]["kept"]
    height, width = drawn.size
    for row, box, kept, first in zip(found.labels, found.boxes, stored["out_boxes"][:, 1:], stored["out_first"],
                                     strict=True):
        points = drawn.points(resampled(polygons.of(int(row))))
        np.testing.assert_allclose(points[::111], first, rtol=0, atol=1e-9 * max(width, np.abs(first).max()))
        inside = points[((points >= 0) & (points <= (width, height))).all(1)]
        np.testing.assert_allclose([*inside.min(0), *inside.max(0)], kept, rtol=0, atol=1e-9 * width)
        step = np.abs(np.diff(points, axis=0)).max()  # how much of an edge may end between two of the points
        np.testing.assert_allclose(box, kept, rtol=0, atol=step + 1e-4)
        assert (box[:2] <= kept[:2] + 1e-4).all() and (box[2:] >= kept[2:] - 1e-4).all()


@pytest.mark.parametrize("name", POSE["perspective"])
def test_golden_pose_perspective(name: str) -> None:
    stored, drawn = np.load(GOLDEN / "pose" / f"{name}.npz"), warp_of(POSE["perspective"][name])
    rows, expected = stored["rows"], stored["out_rows"]
    places = rows[:, 5:].reshape(len(rows), -1, 2)
    keypoints = np.concatenate((places, 2.0 * (places[..., :1] != 0)), axis=2)
    objects = no_objects(17).like(rows[:, 1:5], rows[:, 0].astype(np.int64), keypoints=keypoints)
    found = warp_objects(objects, drawn, by_polygon=False)
    np.testing.assert_array_equal(found.labels, expected[:, 0])
    np.testing.assert_allclose(found.boxes, expected[:, 1:5], rtol=0, atol=1e-4)
    theirs = expected[:, 5:].reshape(len(expected), -1, 2)
    labelled = found.keypoints[..., 2] > 0
    # they leave y behind where a point left in x only: labelled are those with x
    np.testing.assert_array_equal(labelled, (theirs[..., 0] != 0) & (theirs[..., 1] != 0))
    np.testing.assert_allclose(found.keypoints[..., :2][labelled], theirs[labelled], rtol=0, atol=1e-4)
    assert not found.keypoints[~labelled].any()


@pytest.mark.parametrize("name", POSE["sample"])
def test_golden_pose_sample(name: str, tmp_path: Path) -> None:
    case, stored = POSE["sample"][name], np.load(GOLDEN / "pose" / f"{name}.npz")
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (case["width"], case["height"])).save(folder / "a.png")
    lines = (" ".join(["0", *(f"{value:.9f}" for value in row[1:])]) for row in stored["text"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("\n".join(lines))
    (tmp_path / "set.yaml").write_text("val: images\nnames: [person]\nkpt_shape: [17, 3]\n")
    image_set = open_split(open_data(str(tmp_path / "set.yaml")), "val")
    sample = EvaluationDataset(image_set, case["size"])[0]
    if case["fliplr"]:
        sample = flip(sample, "horizontal", image_set.keypoint_layout.flip)
    if case["flipud"]:
        sample = flip(sample, "vertical")
    assert [3, *sample.image.shape[:2]] == case["shape"]
    boxes, size = sample.objects.boxes, case["size"]
    centres = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), axis=1) / size
    np.testing.assert_allclose(centres, stored["rows"][:, 2:6], rtol=0, atol=1e-6)
    theirs = stored["rows"][:, 6:].reshape(len(boxes), 17, 2)
    np.testing.assert_allclose(sample.objects.keypoints[..., :2] / size, theirs, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(sample.objects.keypoints[..., 2] > 0, theirs[..., 0] != 0)


# --- painted oracles -------------------------------------------------------------------------------------------

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
POINTS = ("tip", "left_foot", "right_foot")


def painted_set(folder: Path, count: int = 8) -> ImageSet:
    """Black images with one coloured triangle in each, whose corners are key points; its hole is black."""
    rng, records = np.random.default_rng(3), []
    for number in range(count):
        height, width = (128, 96) if number % 2 else (80, 128)
        scale = rng.uniform(25, 38)
        outer = np.array([(0, -1), (-1, 0.8), (1, 0.9)]) * scale + (width / 2, height / 2)
        inner = np.array([(0, -0.2), (-0.3, 0.5), (0.3, 0.5)]) * scale + (width / 2, height / 2)
        pixels = np.zeros((height, width, 3), np.uint8)
        cv2.fillPoly(pixels, [outer.astype(np.int32), inner.astype(np.int32)], COLOURS[number % 3])
        line = np.concatenate((outer, outer[:1], inner, inner[:1], outer[:1])).astype(np.float32)
        keypoints = np.concatenate((outer, np.full((3, 1), 2)), axis=1).astype(np.float32)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        box = (*outer.min(0).tolist(), *outer.max(0).tolist())
        item = ObjectRecord(box, number % 3, line, keypoints)
        records.append(ImageRecord(str(path), number, (height, width), [item]))
    return build_image_set(records, ("red", "green", "blue"), (1, 2, 3), [], annotation_file=None, split="train",
                           keypoint_names=POINTS)


def coloured(image: np.ndarray, label: int) -> np.ndarray:
    """Where an image shows a colour: bool ``[H, W]``."""
    others = [channel for channel in range(3) if channel != label]
    channels = image.astype(int)
    found: np.ndarray = (channels[..., label] > 120) & (channels[..., others].max(-1) < 90)
    return found


PLAIN = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "mixup": 0, "paste_in": 0, "copy_paste": 0}
CASES = {
    "four tiles": {"nine_tiles": 0.0},
    "nine tiles": {"nine_tiles": 1.0},
    "small": {"scale": 0.9, "scale_top": 1.0, "translate": 0.3},
    "turned": {"degrees": 25.0, "shear": 8.0, "flipud": 0.5},
    "perspective": {"perspective": 0.0005, "degrees": 10.0},
    "single": {"mosaic": 0.0, "scale": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_masks_and_points_follow_their_colours(case: str, tmp_path: Path) -> None:
    """Colours are found inside of the masks and nowhere else, and key points at the corners of the triangles."""
    image_set = painted_set(tmp_path)
    dataset = TrainingDataset(image_set, 128, AugmentConfig(**{**PLAIN, "fliplr": 0.5, **CASES[case]}), seed=5)
    dataset.keep_outlines()
    objects = points = 0
    for position in range(60):
        sample = dataset[0, position, position % len(image_set)]
        maps = separate_maps(sample.objects.polygons, sample.image.shape[:2], 1).astype(bool)
        for label in np.unique(sample.objects.labels).tolist():
            colour, mask = coloured(sample.image, label), maps[sample.objects.labels == label].any(0)
            # on its border an image is filled as OpenCV does it: a hole that leaves it is closed by a line of one pixel
            assert not (mask & ~dilated(colour))[1:-1, 1:-1].any()
            assert (colour & ~dilated(mask)).sum() <= 90  # slivers of objects that are dropped
        objects += len(sample.objects)
        points += labelled_corners(sample, mirror_known="flipud" not in CASES[case])
    assert objects > 50 and points > 100


def dilated(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


def labelled_corners(sample: Sample, mirror_known: bool = True) -> int:
    """How many key points are labelled: each is inside the image and a corner of its object's outline, by its name."""
    count, (height, width) = 0, sample.image.shape[:2]
    for keypoints, polygon in zip(sample.objects.keypoints, sample.objects.polygons, strict=True):
        labelled = keypoints[:, 2] > 0
        assert not keypoints[~labelled].any()
        for x, y, _ in keypoints[labelled].tolist():
            assert 0 <= x <= width and 0 <= y <= height
            assert np.abs(polygon - (x, y)).max(1).min() < 1e-3
        count += int(labelled.sum())
        if labelled.all() and mirror_known:  # left stays left, whatever is mirrored
            (ax, ay), (bx, by) = keypoints[1:, :2] - keypoints[0, :2]
            assert ax * by - ay * bx < 0
    return count


def test_copy_paste_mirrors_masks_and_points(tmp_path: Path) -> None:
    image_set = painted_set(tmp_path)
    config = AugmentConfig(**{**PLAIN, "copy_paste": 1.0, "nine_tiles": 0.0, "scale": 0.2})
    with_copies, without = (TrainingDataset(image_set, 128, replace(config, copy_paste=share), seed=1)
                            for share in (1.0, 0.0))
    copies = 0
    for position in range(40):
        key = (0, position, position % len(image_set))
        sample = with_copies[key]
        labelled_corners(sample)
        copies += len(sample.objects) - len(without[key].objects)
        masks = separate_maps(sample.objects.polygons, sample.image.shape[:2], 1).any(0)
        seen = np.any([coloured(sample.image, label) for label in range(3)], axis=0)
        assert (seen & ~dilated(masks)).sum() <= 120
    assert copies > 5


def test_copies_hide_the_points_that_they_cover() -> None:
    square = np.array([(60, 10), (90, 10), (90, 40), (60, 40)], np.float32)
    keypoints = np.array([[(70, 20, 2), (80, 30, 1)], [(20, 20, 2), (2, 2, 2)]], np.float32)
    polygons = Ragged(square, np.array([4, 0]))
    boxes = np.array([(60, 10, 90, 40), (0, 0, 28, 60)], np.float32)
    objects = no_objects(2).like(boxes, np.zeros(2, np.int64), polygons=polygons, keypoints=keypoints)
    found, lines = draw_mirrored(objects, 1.0, 100, np.random.default_rng(0), (1, 0))
    assert len(found) == 2 and not lines  # it would cover too much
    boxes[1] = 0, 0, 28, 99
    found, lines = draw_mirrored(replace(objects, boxes=boxes), 1.0, 100, np.random.default_rng(0), (1, 0))
    assert found.keypoints.tolist() == [[[70, 20, 2], [80, 30, 1]], [[20, 20, 1], [2, 2, 2]],
                                        [[20, 30, 1], [30, 20, 2]]]
    np.testing.assert_array_equal(lines[0], square)


def test_pasted_objects_bring_their_points() -> None:
    outline = np.array([(0, 0), (40, 0), (40, 40), (0, 40)], np.float32)
    points = np.array([(10, 20, 2), (0, 0, 0), (40, 40, 1)], np.float32)
    item = CutOut(np.full((40, 40, 3), 255, np.uint8), np.ones((40, 40), bool), outline, 1, points)
    for seed in range(20):
        objects = no_objects(3).like(np.array([(0, 0, 1, 1)], np.float32), np.array([0]))
        sample = Sample(np.zeros((256, 256, 3), np.uint8), objects, ImageMeta("x"))
        found = paste_in(sample, [item], np.random.default_rng(seed)).objects
        for box, keypoints, polygon in list(zip(found.boxes, found.keypoints, found.polygons, strict=True))[1:]:
            scale = (box[2:] - box[:2]) / 40
            np.testing.assert_allclose(keypoints[0, :2], box[:2] + scale * (10, 20), atol=1e-3)
            assert keypoints[:, 2].tolist() in ([2, 0, 1], [1, 0, 1])  # hidden by one that was pasted later
            assert not keypoints[1].any()
            np.testing.assert_allclose(polygon[2], box[2:], atol=1e-3)


def test_cut_outs_of_a_set_bring_their_points(tmp_path: Path) -> None:
    config = AugmentConfig(**{**PLAIN, "paste_in": 1.0, "mosaic": 0.0, "scale": 0.0, "translate": 0.0, "fliplr": 0.0,
                              "scale_top": 1.0})
    dataset = TrainingDataset(painted_set(tmp_path), 256, config, seed=2)
    counts = [labelled_corners(dataset[0, position, position % 8], mirror_known=False) for position in range(10)]
    assert sum(counts) > 10 * 3


def test_what_is_painted_over_hides_points() -> None:
    keypoints = np.array([[(5, 5, 2), (20.5, 20.5, 2), (20, 20, 1), (0, 0, 0)]], np.float32)
    objects = no_objects(4).like(np.array([(0, 0, 90, 90)], np.float32), np.array([0]), keypoints=keypoints)
    found = hide_keypoints(objects, np.ones((10, 10), bool), (15, 15))
    assert found.keypoints[0, :, 2].tolist() == [2, 1, 1, 0] and objects.keypoints[0, 1, 2] == 2
    grid = np.stack(np.meshgrid(np.arange(2, 128, 4), np.arange(2, 128, 4)), -1).reshape(1, -1, 2)
    keypoints = np.concatenate((grid, np.full((*grid.shape[:2], 1), 2)), axis=2).astype(np.float32)
    objects = no_objects(grid.shape[1]).like(np.array([(-999, -999, 999, 999)], np.float32), np.array([0]),
                                             keypoints=keypoints)
    sample = cutout(Sample(np.zeros((128, 128, 3), np.uint8), objects, ImageMeta("x")), np.random.default_rng(4))
    x, y, visibility = sample.objects.keypoints[0].astype(int).T
    np.testing.assert_array_equal(visibility == 1, sample.image[y, x].any(-1))
    assert (visibility == 1).sum() > 50


def test_mirroring_twice_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    keypoints = np.concatenate((rng.uniform(0, 64, (5, 17, 2)), rng.integers(1, 3, (5, 17, 1))), axis=2)
    objects = no_objects(17).like(np.zeros((5, 4), np.float32), np.zeros(5, np.int64),
                                  keypoints=keypoints.astype(np.float32))
    sample = Sample(np.zeros((64, 64, 3), np.uint8), objects, ImageMeta("x"))
    once = flip(sample, "horizontal", COCO_PERSON.flip)
    np.testing.assert_allclose(once.objects.keypoints[:, 1, 0], 64 - keypoints[:, 2, 0], rtol=1e-6)
    twice = flip(once, "horizontal", COCO_PERSON.flip)
    np.testing.assert_allclose(twice.objects.keypoints, keypoints, atol=1e-5)


# --- keys of the recipe ------------------------------------------------------------------------------------------


def test_tiles_zoom_aspect_and_shares_as_the_recipe_says() -> None:
    rng = np.random.default_rng(0)
    counts = [{len(draw_mosaic(0, 9, 64, rng, share).indices) for _ in range(60)} for share in (0.0, 1.0, 0.2)]
    assert counts == [{4}, {9}, {4, 9}]
    zooms = [RandomPerspective(AugmentConfig(scale=0.5, scale_top=1.0)).draw(64, 64, rng).zoom for _ in range(500)]
    assert 0.5 <= min(zooms) < 0.52 and 1.48 < max(zooms) <= 1.5
    flat = no_objects().like(np.array([(0, 0, 60, 2.5)], np.float32), np.array([0]))
    still = Warp(np.eye(3), 1.0, (64, 64))
    assert len(warp_objects(flat, still)) == 0 and len(warp_objects(flat, still, max_aspect=100)) == 1
    white, black = (Sample(np.full((8, 8, 3), value, np.uint8), no_objects(), ImageMeta("x")) for value in (255, 0))
    shares = [[mixup(white, black, rng, beta).image[0, 0, 0] / 255 for _ in range(300)] for beta in (8.0, 32.0)]
    assert np.std(shares[1]) < 0.6 * np.std(shares[0]) and abs(np.mean(shares[1]) - 0.5) < 0.02


def test_a_mirror_that_nobody_knows_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_set = painted_set(tmp_path)
    TrainingDataset(image_set, 128, AugmentConfig())
    assert "mirrored" not in caplog.text
    unknown = replace(image_set, keypoint_names=("a", "b", "c"))
    dataset = TrainingDataset(unknown, 128, AugmentConfig(mosaic=0.0))
    assert caplog.text.count("key points keep their places in mirrored images") == 1
    assert dataset.composer.mirrored_order == (0, 1, 2)
    known = replace(unknown, keypoint_flip=(0, 2, 1))
    assert TrainingDataset(known, 128, AugmentConfig()).composer.mirrored_order == (0, 2, 1)
    assert caplog.text.count("key points keep their places in mirrored images") == 1
