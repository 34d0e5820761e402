"""The sheets of a run: what stands on them, and in how many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set

from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2, load_image
from yolov7.engine import sheets
from yolov7.engine.sheets import BEST, IMAGES, batch_sheet, prediction_sheet, write_image
from yolov7.inference.draw import class_colour, draw_instances
from yolov7.inference.draw_masks import draw_masks
from yolov7.inference.draw_skeletons import LEFT, draw_skeletons
from yolov7.inference.sheet import MAX_BYTES, Group, Header, Panel, compose
from yolov7.masks import masks_from
from yolov7.structures import Batch, ImageMeta, Instances, Targets

NAMES = ("cat", "dog", "owl")
BOX = (40.0, 30.0, 160.0, 110.0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Header, list[Group]]]:
    """What sheets were composed of."""
    found: list[tuple[Header, list[Group]]] = []

    def spy(header: Header, groups: list[Group]) -> np.ndarray:
        found.append((header, groups))
        return compose(header, groups)

    monkeypatch.setattr(sheets, "compose", spy)
    return found


def image_set(folder: Path, count: int, size: tuple[int, int] = (150, 200), empty: tuple[int, ...] = ()) -> ImageSet:
    records = []
    for index in range(count):
        path = folder / f"image {index}.png"
        cv2.imwrite(str(path), np.full((*size, 3), 60, np.uint8))
        objects = [] if index in empty else [ObjectRecord(BOX, 0, NO_POLYGON)]
        records.append(ImageRecord(str(path), index + 1, size, objects))
    return build_image_set(records, NAMES, (1, 2, 3), (), annotation_file=None, split="val")


def detections(*rows: tuple[float, float, float, float, float, int]) -> Instances:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances(table[:, :4], table[:, 4], table[:, 5].long(), NAMES)


def panels_of(told: list[tuple[Header, list[Group]]]) -> list[Panel]:
    ((_, groups),) = told
    return [panel for group in groups for panel in group.panels]


def coloured(image: np.ndarray, label: int) -> bool:
    return bool((image == class_colour(label)).all(-1).sum() > 20)


# --- predictions -----------------------------------------------------------------------------------------------


def test_pairs_with_what_they_are(tmp_path: Path, told: list[tuple[Header, list[Group]]]) -> None:
    data = image_set(tmp_path, 2)
    found = detections((*BOX, 0.9, 1), (0, 0, 30, 30, 0.25, 2), (0, 0, 30, 30, 0.24, 0))
    sheet = prediction_sheet([(path, found) for path in data.paths], data, title="exp, epoch 3")
    assert sheet.dtype == np.uint8
    ((header, groups),) = told
    assert header.title == "exp, epoch 3"
    assert "ground truth (left)" in header.lines[0] and "predicted with score >= 0.25 (right)" in header.lines[0]
    assert header.classes == [(0, "cat"), (1, "dog"), (2, "owl")]
    assert [group.name for group in groups] == ["image 0.png", "image 1.png"]
    assert [panel.caption for panel in panels_of(told)] == ["ground truth: 1", "predicted: 2"] * 2
    assert not any(panel.alert for panel in panels_of(told))
    truth, predicted = (panel.draw(300, 400) for panel in groups[0].panels)
    assert [coloured(truth, label) for label in range(3)] == [True, False, False]
    assert [coloured(predicted, label) for label in range(3)] == [False, True, True]
    assert (truth[220, 100:300] == class_colour(0)).all()  # the lower side of the box, in the panel's size


def test_where_nothing_is_sure_the_best_are_shown(tmp_path: Path, told: list[tuple[Header, list[Group]]]) -> None:
    """One box under several names is shown once."""
    data = image_set(tmp_path, 1)
    rows = [(*BOX, 0.2, 1), (*BOX, 0.19, 2), *((10.0 * i, 0.0, 10.0 * i + 9, 9.0, 0.1 - i / 100, 0) for i in range(5))]
    prediction_sheet([(data.paths[0], detections(*rows))], data)
    panel = panels_of(told)[1]
    assert panel.caption == f"predicted: best {BEST}, below 0.25" and panel.alert
    drawn = panel.draw(300, 400)
    assert coloured(drawn, 0) and coloured(drawn, 1) and not coloured(drawn, 2)


@pytest.mark.parametrize(("empty", "rows", "caption", "alert"), [
    ((), [], "predicted: none", True),
    ((0,), [], "predicted: none", False),
    ((0,), [(*BOX, 0.1, 1)], "predicted: none", False),
    ((0,), [(*BOX, 0.4, 1)], "predicted: 1", False),
    ((), [(*BOX, 0.1, 1)], "predicted: best 1, below 0.25", True)])
def test_nothing_found(empty: tuple[int, ...], rows: list[tuple[float, float, float, float, float, int]], caption: str,
                       alert: bool, tmp_path: Path, told: list[tuple[Header, list[Group]]]) -> None:
    data = image_set(tmp_path, 1, empty=empty)
    prediction_sheet([(data.paths[0], detections(*rows))], data)
    truth, predicted = panels_of(told)
    assert truth.caption == ("ground truth: none" if empty else "ground truth: 1")
    assert (predicted.caption, predicted.alert) == (caption, alert)


def test_images_that_have_gone_are_left_out(tmp_path: Path, told: list[tuple[Header, list[Group]]]) -> None:
    data = image_set(tmp_path, 3)
    Path(data.paths[1]).unlink()
    prediction_sheet([(path, detections()) for path in data.paths], data)
    assert [group.name for group in told[0][1]] == ["image 0.png", "image 2.png"]
    assert prediction_sheet([], data).shape[0] < 150


def test_another_threshold(tmp_path: Path, told: list[tuple[Header, list[Group]]]) -> None:
    data = image_set(tmp_path, 1)
    prediction_sheet([(data.paths[0], detections((*BOX, 0.4, 1)))], data, min_score=0.5)
    assert "score >= 0.5" in told[0][0].lines[0]
    assert panels_of(told)[1].caption == "predicted: best 1, below 0.5"


def test_what_a_task_draws_is_drawn_on_the_image_and_labels_in_the_panel(tmp_path: Path) -> None:
    """Its columns may be pixels of the image, which nobody else can scale."""
    data = image_set(tmp_path, 1, (600, 800))
    seen: list[tuple[tuple[int, ...], tuple[str, ...], bool]] = []

    def overlay(image: np.ndarray, found: Instances, names: tuple[str, ...], with_scores: bool) -> np.ndarray:
        seen.append((image.shape, tuple(names), with_scores))
        canvas = image.copy()
        for x, y in found.extra["point"].int().tolist():
            cv2.circle(canvas, (x, y), 20, (1, 255, 1), cv2.FILLED)
        return draw_instances(canvas, found, names, with_scores)

    found = replace(detections((100, 100, 700, 500, 0.9, 1)), extra={"point": torch.tensor([[400.0, 300.0]])})
    sheet = prediction_sheet([(data.paths[0], found)], data, overlay)
    assert seen == [((600, 800, 3), ("", "", ""), False)]
    rows, columns = np.nonzero((sheet == (1, 255, 1)).all(-1))
    assert len(rows) > 100 and columns.min() > sheet.shape[1] / 2 - 20
    letters = (sheet[:, sheet.shape[1] // 2 :] == class_colour(1)).all(-1)
    assert max(np.diff(np.flatnonzero(np.diff(row.astype(int)))).max(initial=0) for row in letters) > 20  # a plate


# --- batches ---------------------------------------------------------------------------------------------------


def batch_of(count: int, height: int = 64, width: int = 96, metas: bool = True) -> Batch:
    boxes = torch.tensor([[10.0, 10, 60, 50]]).expand(count, 1, 4)
    targets = Targets(boxes, torch.arange(count)[:, None] % 3, torch.ones(count, 1, dtype=torch.bool))
    named = tuple(ImageMeta(f"folder/{index}.jpg", mosaic=index == 1) for index in range(count)) if metas else ()
    return Batch(torch.full((count, 3, height, width), 90, dtype=torch.uint8), targets, named)


def test_a_training_batch(told: list[tuple[Header, list[Group]]]) -> None:
    sheet = batch_sheet(batch_of(20), NAMES, title="exp, epoch 1")
    ((header, groups),) = told
    assert header.title == "exp, epoch 1"
    assert header.lines[0].startswith(f"The first {IMAGES} of 20 images as the network sees them, 96 x 64 px")
    assert len(groups) == IMAGES
    assert [group.name for group in groups[:3]] == ["0.jpg", "1.jpg and others", "2.jpg"]
    assert all(coloured(sheet, label) for label in range(3))
    assert sheet.shape[1] <= 1600


def test_a_batch_without_names_or_images() -> None:
    assert batch_sheet(batch_of(2, metas=False), NAMES).shape[0] > 300
    assert batch_sheet(batch_of(0), NAMES).shape[0] < 150


# --- masks and key points ----------------------------------------------------------------------------------------


def test_true_masks_of_a_training_batch() -> None:
    """From the map of rows + 1 at a quarter of the image, and from one map of each object."""
    index_map = torch.zeros(1, 16, 24, dtype=torch.int32)
    index_map[0, 3:13, 3:15] = 1
    index_map[0, 5:8, 5:8] = 2
    boxes = torch.tensor([[[12.0, 12, 60, 52], [20, 20, 32, 32], [0, 0, 0, 0]]])
    targets = Targets(boxes, torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]]), maps={"masks": index_map})
    seen: list[Instances] = []

    def draw(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
        seen.append(found)
        return draw_masks(image, found, names, with_scores)

    images = torch.full((1, 3, 64, 96), 90, dtype=torch.uint8)
    sheet = batch_sheet(Batch(images, targets, ()), NAMES, draw)
    (found,) = seen
    assert len(found) == 2 and coloured(sheet, 0) and coloured(sheet, 1)
    dense = found.extra["masks"].dense()
    whole = index_map[0].repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(dense, torch.stack([whole == 1, whole == 2]))
    apart = torch.stack([index_map == 1, index_map == 2, index_map == 3], dim=1).to(torch.uint8)
    batch_sheet(Batch(images, replace(targets, maps={}, extra={"masks": apart}), ()), NAMES, draw)
    assert torch.equal(seen[1].extra["masks"].dense(), dense)


def test_true_key_points_of_a_training_batch() -> None:
    """Those that are not labelled are not drawn, hidden ones are."""
    points = torch.tensor([[[[20.0, 20, 2], [40, 20, 1], [60, 40, 0]]]])
    targets = Targets(torch.tensor([[[10.0, 10, 70, 50]]]), torch.tensor([[0]]), torch.tensor([[True]]),
                      extra={"keypoints": points})
    seen: list[Instances] = []

    def draw(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
        seen.append(found)
        return draw_skeletons(image, found, names, with_scores)

    batch = Batch(torch.full((1, 3, 64, 96), 90, dtype=torch.uint8), targets, ())
    batch_sheet(batch, NAMES, draw, facts={"keypoints": ("left_a", "left_b", "right_a"), "limbs": ((0, 1), (1, 2))})
    drawn = draw_skeletons(np.full((64, 96, 3), 90, np.uint8), seen[0], ("", "", ""))
    assert seen[0].extra["keypoints"][0, :, 2].tolist() == [1, 1, 0]
    for y, x in ((20, 20), (20, 30), (20, 40)):
        assert np.abs(drawn[y, x].astype(int) - LEFT).max() < 40
    assert (drawn[30:45, 55:65] == 90).all()


def test_ground_truth_has_what_the_detections_have(tmp_path: Path) -> None:
    """Masks of polygons, whose bridges are no part of them, and key points; boxes alone where there is nothing."""
    ring = [(40, 30), (160, 30), (160, 110), (40, 110), (40, 30), (80, 50), (80, 90), (120, 90), (120, 50), (80, 50)]
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((150, 200, 3), 60, np.uint8))
    polygon = np.array(ring, np.float32)
    keypoints = np.array([[50, 40, 2], [150, 100, 1], [0, 0, 0]], np.float32)
    record = ImageRecord(path, 1, (150, 200), [ObjectRecord(BOX, 0, polygon, keypoints)])
    data = build_image_set([record], NAMES, (1, 2, 3), (), annotation_file=None, split="val",
                           keypoint_names=("left_x", "right_x", "z"))
    seen: list[Instances] = []

    def draw(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool = True) -> np.ndarray:
        seen.append(found)
        return image

    none = masks_from([], [], (150, 200))
    prediction_sheet([(path, replace(detections(), extra={"masks": none, "keypoints": torch.zeros(0, 3, 3)}))], data,
                     draw)
    truth, predicted = seen
    mask = truth.extra["masks"].dense()[0].numpy()
    assert mask[32, 100] and mask[60, 60] and not mask[70, 100] and not mask[:29].any()
    assert mask.sum() == pytest.approx(120 * 80 - 40 * 40, rel=0.03)
    assert truth.extra["keypoints"][0].tolist() == [[50, 40, 1], [150, 100, 1], [0, 0, 0]]
    assert tuple(truth.facts["keypoints"]) == ("left_x", "right_x", "z") and len(predicted) == 0
    seen.clear()
    prediction_sheet([(path, detections())], data, draw)
    assert len(seen) == 1 and not seen[0].extra  # of the truth, boxes are drawn


# --- files -----------------------------------------------------------------------------------------------------


def test_files_are_bounded(tmp_path: Path) -> None:
    """Even of noise, of which a JPEG is large."""
    noise = np.random.RandomState(0).randint(0, 255, (1600, 1600, 3)).astype(np.uint8)
    write_image(tmp_path / "noise.jpg", noise)
    assert (tmp_path / "noise.jpg").stat().st_size <= MAX_BYTES
    assert load_image(tmp_path / "noise.jpg").shape == noise.shape
    write_image(tmp_path / "small.png", noise[:10, :10])
    assert (load_image(tmp_path / "small.png") == noise[:10, :10]).all()
