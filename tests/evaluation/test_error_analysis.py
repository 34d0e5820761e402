"""The worst images: judged by hand and by a plain restatement, kept in order, drawn with their errors in colour."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov7.config import InputError
from yolov7.evaluation import error_analysis
from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.error_analysis import ErrorAnalysis, JudgedImage, error_sheet
from yolov7.inference.draw import class_colour
from yolov7.inference.sheet import MARGIN, MIN_WIDTH, SINGLE_ROW, WIDTH, Group, compose

Arguments = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # path, then as `Comparison.of`
NAMES = ("dog", "cat", "owl")
A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def boxes_of(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


def judged(*image: object) -> JudgedImage:
    worst = ErrorAnalysis()
    worst.update(Comparison.of(*image, path="a.jpg"))  # type: ignore[arg-type]
    (only,) = worst.images
    return only


# --- the rules read aloud --------------------------------------------------------------------------------------


def plain_iou(first: np.ndarray, second: np.ndarray) -> float:
    width, height = (max(min(first[i + 2], second[i + 2]) - max(first[i], second[i]), 0.0) for i in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return width * height / (sum(areas) - width * height)


def plain_judgement(image: Arguments, confidence: float, iou: float) -> tuple[float, int, int]:
    """F1, false detections and missed objects; no two IoUs are equal."""
    _, boxes, scores, labels, true_boxes, true_labels = image
    sure = [row for row in range(len(boxes)) if scores[row] > confidence]
    pairs = [(plain_iou(boxes[row], true_boxes[column]), row, column)
             for row in sure for column in range(len(true_boxes)) if labels[row] == true_labels[column]]
    used: set[tuple[str, int]] = set()
    right = 0
    for overlap, row, column in sorted(pairs, reverse=True):
        if overlap > iou and not used & {("found", row), ("true", column)}:
            used |= {("found", row), ("true", column)}
            right += 1
    false, missed = len(sure) - right, len(true_boxes) - right
    return 2 * right / (2 * right + false + missed) if sure or len(true_boxes) else 1.0, false, missed


def random_images(seed: int, images: int = 30) -> list[Arguments]:
    """Shaken, relabelled and missed objects, and false detections; paths in no order."""
    r = np.random.RandomState(seed)
    samples: list[Arguments] = []
    for number in r.permutation(images):
        count = r.randint(0, 4)
        low = r.uniform(0, 30, (count, 2))
        true_boxes, true_labels = np.concatenate((low, low + r.uniform(5, 20, (count, 2))), 1), r.randint(0, 3, count)
        found = r.randint(0, max(count, 1), r.randint(0, 6) if count else 0)
        lost = np.cumsum(r.uniform(1, 20, (r.randint(0, 3), 2, 2)), 1).reshape(-1, 4)
        boxes = np.concatenate((true_boxes[found] + r.uniform(-1, 1, (len(found), 4)), lost))
        labels = np.concatenate((true_labels[found], r.randint(0, 3, len(lost))))
        labels = np.where(r.random_sample(len(labels)) < 0.2, r.randint(0, 3, len(labels)), labels)
        samples.append((f"{number:03}.jpg", boxes, r.random_sample(len(boxes)), labels, true_boxes, true_labels))
    return samples


def collected(samples: list[Arguments], keep: int = 8, confidence: float = 0.25, iou: float = 0.5) -> ErrorAnalysis:
    worst = ErrorAnalysis(keep, confidence, iou)
    for image in samples:
        worst.update(Comparison.of(*image[1:], path=image[0]))
    return worst


def assert_equal_images(first: ErrorAnalysis, second: ErrorAnalysis) -> None:
    for one, other in zip(first.images, second.images, strict=True):
        assert one.comparison.path == other.comparison.path
        for name in ("boxes", "scores", "labels", "true_boxes", "true_labels"):
            np.testing.assert_array_equal(getattr(one.comparison, name), getattr(other.comparison, name))
        np.testing.assert_array_equal(one.false_mask, other.false_mask)
        np.testing.assert_array_equal(one.missed_mask, other.missed_mask)


# --- judgement -------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """A dog found, a cat taken for an owl, an owl missed; a detection below the confidence does not count."""
    found = boxes_of(B, A, (80, 80, 90, 90), C)
    judged_image = judged(found, [0.9, 0.8, 0.7, 0.25], [2, 0, 1, 2], boxes_of(A, B, C), [0, 1, 2])
    assert judged_image.comparison.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert judged_image.comparison.labels.tolist() == [2, 0, 1]
    assert judged_image.comparison.boxes.tolist() == found[:3].tolist()
    assert judged_image.comparison.true_labels.tolist() == [0, 1, 2]
    assert judged_image.false_mask.tolist() == [True, False, True]
    assert judged_image.missed_mask.tolist() == [False, True, True]
    assert judged_image.errors == 4
    assert judged_image.f1 == pytest.approx(2 / (2 + 2 + 2))


@pytest.mark.parametrize(("confidence", "iou"), [(0.25, 0.5), (0.0, 0.75), (0.6, 0.3)])
@pytest.mark.parametrize("seed", range(10))
def test_judgement_and_order_follow_the_rules(seed: int, confidence: float, iou: float) -> None:
    samples = random_images(seed)
    plain = []
    for image in samples:
        f1, false, missed = plain_judgement(image, confidence, iou)
        if false + missed:
            plain.append((round(f1, 12), -(false + missed), image[0], false, missed))
    expected = sorted(plain)[:8]
    worst = collected(samples, 8, confidence, iou).images
    assert expected == [(round(j.f1, 12), -j.errors, j.comparison.path, j.false_mask.sum(), j.missed_mask.sum())
                        for j in worst]


def test_a_duplicate_is_false() -> None:
    image = judged(boxes_of(A, (0, 0, 10, 9)), [0.3, 0.9], [0, 0], boxes_of(A), [0])
    assert image.false_mask.tolist() == [False, True]


@pytest.mark.parametrize(("width", "right"), [(10, False), (10.1, True)])
def test_an_iou_that_equals_the_threshold_is_below_it(width: float, right: bool) -> None:
    worst = ErrorAnalysis()
    worst.update(Comparison.of(boxes_of((0, 0, width, 10)), [0.9], [0], boxes_of((0, 0, 20, 10)), [0], path="a.jpg"))
    assert (worst.images == ()) == right


@pytest.mark.parametrize("image", [
    ([], [], [], [], []),
    (boxes_of(A), [0.2], [0], boxes_of(), []),
    (boxes_of(A, B), [0.9, 0.3], [0, 1], boxes_of(B, A), [1, 0]),
], ids=["nothing", "nothing_sure", "all_right"])
def test_images_without_error_are_not_kept(image: tuple) -> None:
    worst = ErrorAnalysis()
    worst.update(Comparison.of(*image, path="a.jpg"))
    assert worst.images == ()


@pytest.mark.parametrize(("image", "masks"), [
    ((boxes_of(A), [0.9], [0], boxes_of(), []), ([True], [])),
    ((boxes_of(), [], [], boxes_of(A), [0]), ([], [True])),
    ((boxes_of(A), [0.9], [0], boxes_of(A), [1]), ([True], [True])),
], ids=["no_objects", "no_detections", "other_class"])
def test_all_wrong(image: tuple, masks: tuple[list[bool], list[bool]]) -> None:
    kept = judged(*image)
    assert (kept.false_mask.tolist(), kept.missed_mask.tolist()) == masks
    assert kept.f1 == 0


def test_among_equal_scores_more_errors_are_worse_and_then_the_path_decides() -> None:
    worst = ErrorAnalysis(keep=4)
    missed = (boxes_of(), [], [], boxes_of(A), [0])
    half = (boxes_of(A), [0.9], [0], boxes_of(A, B, C), [0, 0, 0])
    for path, image in (("c", missed), ("z", half), ("b", missed), ("d", missed)):
        worst.update(Comparison.of(*image, path=path))
    worst.update(Comparison.of(boxes_of(), [], [], boxes_of(A, B), [0, 1], path="y"))
    assert [image.comparison.path for image in worst.images] == ["y", "b", "c", "d"]


def test_arguments_are_left_alone_copied_and_may_be_tensors() -> None:
    image = next(p for p in random_images(2) if len(p[1]) and len(p[4]))
    for array in image[1:]:
        array.setflags(write=False)  # type: ignore[union-attr]
    tensors = [torch.tensor(array, dtype=torch.float64 if array.dtype == float else None)  # type: ignore[union-attr]
               for array in image[1:]]
    kept = collected([image, (image[0], *tensors)])  # type: ignore[arg-type,list-item]
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()
    assert_equal_images(kept, collected([image, image]))


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes, 2 scores, 1 labels"):
        ErrorAnalysis().update(Comparison.of(boxes_of(A), [0.9, 0.8], [0], boxes_of(), [], path="a.jpg"))


# --- merging ---------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 40))
def test_merged_shards_equal_all_at_once(seed: int, keep: int) -> None:
    samples = random_images(seed)
    merged = ErrorAnalysis(keep)
    for shard in (2, 0, 1):
        merged.merge(pickle.loads(pickle.dumps(collected(samples[shard::3], keep))))
    whole = collected(samples, keep)
    assert len(whole.images) <= keep
    assert_equal_images(merged, whole)


@pytest.mark.parametrize("other", [ErrorAnalysis(3), ErrorAnalysis(confidence=0.3), ErrorAnalysis(iou=0.6)])
def test_other_rules_do_not_merge(other: ErrorAnalysis) -> None:
    with pytest.raises(ValueError, match="accepted: \\(16, 0.25, 0.5\\)"):
        ErrorAnalysis().merge(other)


# --- drawing ---------------------------------------------------------------------------------------------------

GREY = 90


def write_grey(path: Path, height: int, width: int) -> str:
    assert cv2.imwrite(str(path), np.full((height, width, 3), GREY, np.uint8))
    return str(path)


def coloured(sheet: np.ndarray, label: int) -> np.ndarray:
    return (sheet == class_colour(label)).all(-1)


def test_errors_have_colour_and_the_rest_is_white(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dog found, a cat missed, an owl where nothing is; in three times the native size."""
    height, width = SINGLE_ROW // 3, 198
    path = write_grey(tmp_path / "ä $x.png", height, width)
    worst = ErrorAnalysis()
    worst.update(Comparison.of(boxes_of((20, 20, 60, 60), (140, 90, 180, 130)), [0.9, 0.8], [0, 2],
                               boxes_of((20, 20, 60, 60), (100, 40, 130, 80)), [0, 1], path=path))
    told: list[Group] = []
    monkeypatch.setattr(error_analysis, "compose", lambda head, groups: told.extend(groups) or compose(head, groups))
    sheet = error_sheet(worst.images, NAMES)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * MARGIN + 2 * 3 * width + 4
    (group,) = told
    assert group.name == "ä $x.png"
    assert [panel.caption for panel in group.panels] == ["missed: 1 of 2", "false: 1 of 2, F1 0.50"]
    panels = [panel.draw(3 * height, 3 * width) for panel in group.panels]
    for label, panel, (left, top, right, bottom) in ((1, panels[0], (100, 40, 130, 80)),
                                                     (2, panels[1], (140, 90, 180, 130))):
        rows, columns = np.nonzero(coloured(panel, label))
        assert columns.min() == pytest.approx(3 * left, abs=2) and columns.max() >= 3 * right - 2
        assert rows.min() < 3 * top  # the plate with the name
        assert rows.max() == pytest.approx(3 * bottom, abs=2)
    for panel in panels:
        assert not coloured(panel, 0).any()
        assert (panel[70:170, 60] == 255).all()  # left side of the right box
        assert (panel[70:170, 90] == GREY).all()


@pytest.mark.parametrize("sizes", [[(150, 200)], [(200, 150), (150, 200)], [(10, 3000), (30, 30), (3000, 10)]])
def test_images_of_any_size(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    worst = ErrorAnalysis()
    for number, (height, width) in enumerate(sizes):
        path = write_grey(tmp_path / f"{number}{'x' * 200}.png", height, width)
        objects = boxes_of((-9, -9, width / 2, height + 9))
        worst.update(Comparison.of(boxes_of((0, 0, width, height)), [0.9], [0], objects, [7], path=path))
    sheet = error_sheet(worst.images, NAMES)  # class 7 has no name
    assert MIN_WIDTH <= sheet.shape[1] <= WIDTH and len(sheet) < 1800
    assert coloured(sheet, 0).any()
    assert coloured(sheet, 7).any()


def test_the_sheet_is_written_where_there_is_an_error(tmp_path: Path) -> None:
    analysis = ErrorAnalysis()
    analysis.write(tmp_path, NAMES)
    assert not list(tmp_path.iterdir()) and analysis.text(NAMES) == "" and analysis.metrics() == {}
    path = write_grey(tmp_path / "a.png", 60, 80)
    analysis.update(Comparison.of(boxes_of(A), [0.9], [0], boxes_of(), [], path=path))
    analysis.write(tmp_path, NAMES)
    written = cv2.imread(str(tmp_path / "worst.jpg"))
    assert written.shape == error_sheet(analysis.images, NAMES).shape


def test_no_image_is_a_header() -> None:
    sheet = error_sheet((), NAMES)
    assert sheet.shape[1] == MIN_WIDTH and len(sheet) < 120
    assert (sheet < 128).any()


def test_a_lost_image_is_named(tmp_path: Path) -> None:
    worst = ErrorAnalysis()
    worst.update(Comparison.of(boxes_of(A), [0.9], [0], boxes_of(), [], path=str(tmp_path / "lost.png")))
    with pytest.raises(InputError, match="lost.png"):
        error_sheet(worst.images, NAMES)
