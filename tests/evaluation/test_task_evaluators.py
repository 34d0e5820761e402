"""The evaluators of single images with masks and key points instead of boxes, and those of a task together."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set

from yolov7.data.coco_annotations import join_parts
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.error_analysis import ErrorAnalysis, error_sheet
from yolov7.evaluation.error_shapes import find_mark
from yolov7.evaluation.evaluate import Evaluation, Evaluator, StageTimes, pose_evaluators, segment_evaluators
from yolov7.evaluation.similarity import KeypointSimilarity, MaskSimilarity
from yolov7.evaluation.v7_metric import V7Metric, V7Result, match_at_each_threshold
from yolov7.keypoints import COCO_PERSON
from yolov7.masks import Masks, masks_from
from yolov7.structures import Instances

GOLDEN = Path(__file__).parents[1] / "golden" / "seg"
SIZE = (80, 120)  # height, width


def masks_of(pixels: np.ndarray) -> Masks:
    height, width = pixels.shape[1:]
    return masks_from([(0, 0, width, height)] * len(pixels), list(pixels.astype(bool)), (height, width))


@pytest.mark.parametrize("name", ["match_overlap", "match_separate"])
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_golden_seg_post_match(name: str, kind: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    labels, detections, truth = golden["labels"], golden["detections"], golden["target_masks"]
    if name == "match_overlap":
        truth = np.stack([truth[0] == rank for rank in range(1, len(labels) + 1)])
    iou = masks_of(golden["masks"]).iou(masks_of(truth)).astype(np.float32) if kind == "masks" else None
    image = Comparison.of(detections[:, :4], detections[:, 4], detections[:, 5], labels[:, 1:], labels[:, 0])
    found = match_at_each_threshold(replace(image, similarity=iou))
    assert np.array_equal(found, golden[f"correct_{kind}"])


def test_the_claims_of_each_threshold_stand_apart() -> None:
    """The better detection overlaps less: it gets the object where it is good enough."""
    image = Comparison.of(np.zeros((3, 4)), [0.9, 0.8, 0.7], [0, 0, 0], np.zeros((1, 4)), [0])
    image = replace(image, similarity=np.array([[0.6], [0.8], [0.5]], np.float32))
    assert match_at_each_threshold(image).sum(1).tolist() == [3, 4, 0]  # 0.50 0.55 0.60; 0.65 to 0.80
    assert not match_at_each_threshold(replace(image, true_boxes=np.zeros((0, 4), np.float32))).any()


def ring(x: int, y: int, width: int, height: int) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)


def people(folder: Path) -> ImageSet:
    """Two images: a frame with a hole that holds a bar, and a box; three points each."""
    frame, bar = join_parts([ring(10, 10, 60, 50), ring(20, 20, 40, 30)]), ring(25, 25, 30, 20)
    points = [np.array([[x, 15, 2], [x + 20, 40, 1], [0, 0, 0]], np.float32) for x in (15, 30)]
    first = [ObjectRecord((10, 10, 70, 60), 0, frame, points[0]), ObjectRecord((25, 25, 55, 45), 0, bar, points[1])]
    second = [ObjectRecord((80, 10, 100, 40), 1, NO_POLYGON, points[0] + [70, 0, 0] * (points[0][:, 2:] > 0))]
    records = []
    for index, objects in enumerate((first, second)):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), np.full((*SIZE, 3), 90, np.uint8))
        records.append(ImageRecord(str(path), index + 1, SIZE, objects))
    return build_image_set(records, ("frame", "box"), (1, 2), (), annotation_file=None, split="val",
                           keypoint_names=("head", "left_paw", "right_paw"))


def perfect(image_set: ImageSet) -> list[Instances]:
    """What would be found by a perfect network, of the second image its box for a mask."""
    found = []
    for index in range(len(image_set)):
        objects = image_set.objects_of(index)
        pixels = np.zeros((len(objects), *SIZE), bool)
        if index == 0:
            pixels[0, 10:60, 10:70] = True
            pixels[0, 20:50, 20:60] = False
            pixels[1, 25:45, 25:55] = True
        else:
            pixels[0, 10:40, 80:100] = True
        columns = {"masks": masks_of(pixels), "keypoints": torch.from_numpy(objects.keypoints.copy())}
        found.append(Instances(torch.from_numpy(objects.boxes), torch.tensor([0.9, 0.8])[: len(objects)],
                               torch.from_numpy(objects.labels), image_set.names, columns))
    return found


def evaluated(evaluators: list[Evaluator], image_set: ImageSet, found: list[Instances]) -> Evaluation:
    """By two processes that have an image each."""
    others = pickle.loads(pickle.dumps(evaluators))
    for each, index in ((evaluators, 0), (others, 1)):
        for evaluator in each:
            evaluator.add(found[index], image_set, index)
    for evaluator, other in zip(evaluators, pickle.loads(pickle.dumps(others)), strict=True):
        evaluator.merge(other)
    results = {evaluator.name: evaluator.result(image_set) for evaluator in evaluators}
    return Evaluation(pickle.loads(pickle.dumps(results)), (), StageTimes(), (), image_set.names)


TASKS: dict[str, Any] = {"segm": segment_evaluators, "keypoints": pose_evaluators}
WRITTEN = ("predictions{}.json", "precision_recall{}.png", "confidence{}.png", "confusion_matrix{}.png")


@pytest.mark.parametrize("kind", TASKS)
def test_a_perfect_task_is_perfect_everywhere(kind: str, tmp_path: Path) -> None:
    data = people(tmp_path)
    evaluation = evaluated(TASKS[kind](data), data, perfect(data))
    assert list(evaluation.results) == ["bbox", "v7", "confusion", "errors", kind, f"v7_{kind}", f"confusion_{kind}",
                                        f"errors_{kind}"]
    metrics = evaluation.metrics()
    assert metrics["AP"] == pytest.approx(1) and metrics[f"{kind}_AP"] == pytest.approx(1)
    assert metrics[f"v7_{kind}_AP50"] == pytest.approx(1 if kind == "segm" else 0.995, abs=1e-2)
    assert evaluation.fitness == pytest.approx(2 if kind == "segm" else 1) and evaluation.counts_more_than_boxes
    assert evaluation.results[f"confusion_{kind}"].matrix.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]  # type: ignore[attr-defined]
    assert not evaluation.results[f"errors_{kind}"].images  # type: ignore[attr-defined]
    folder = tmp_path / "results"
    folder.mkdir()
    for result in evaluation.results.values():
        result.write(folder, data.names, data)
    expected = {name.format(part) for name in WRITTEN for part in ("", f"_{kind}")}
    assert {path.name for path in folder.iterdir()} == expected
    texts = [result.text(data.names) for result in evaluation.results.values()]
    assert any(text.startswith(("masks:", "key points:")[kind != "segm"]) for text in texts)
    word = {"segm": "mask IoU", "keypoints": "OKS"}[kind]
    assert sum(f"and {word} 0.50\n" in text or f"and {word} 0.45" in text for text in texts) == 2


@pytest.mark.parametrize("kind", TASKS)
def test_tables_have_the_numbers_of_the_task(kind: str, tmp_path: Path) -> None:
    data = people(tmp_path)
    evaluation = evaluated(TASKS[kind](data), data, perfect(data))
    table = json.loads(json.dumps(evaluation.table(), allow_nan=False))
    assert set(table[kind]) == {"AP", "AP50", "AP75"} and table[f"v7_{kind}"]["AP"] > 0.9
    metrics = table["metrics"]
    recall = "AR100" if kind == "segm" else "AR20"
    assert metrics[f"{kind}_AP"]["value"] == pytest.approx(1) and metrics[f"{kind}_APm"]["value"] == pytest.approx(1)
    assert {f"{kind}_APl", f"{kind}_ARm", f"v7_{kind}_AP", f"v7_{kind}_AP50"} <= set(metrics)
    assert len({entry["meaning"] for entry in metrics.values()}) == len(metrics)
    assert f"precision_recall_{kind}.png" in metrics[f"v7_{kind}_AP50"]["meaning"]
    frame, box = table["classes"]["frame"], table["classes"]["box"]
    assert frame[f"{kind}_AP"] == pytest.approx(1) and frame[f"{kind}_{recall}"] == pytest.approx(1)
    assert box[f"{kind}_AP75"] == (None if kind == "segm" else pytest.approx(1))  # of the box no mask is known
    pytest.importorskip("pandas")
    rows = evaluation.to_pandas()
    assert rows["class"].tolist() == ["all", "frame", "box"] and rows[f"{kind}_{recall}"][0] == pytest.approx(1)
    assert math.isnan(rows["segm_AP"][2]) if kind == "segm" else rows["keypoints_AP"][2] == pytest.approx(1)


def test_an_epoch_is_told_by_little(tmp_path: Path) -> None:
    data = people(tmp_path)
    for kind, evaluators in TASKS.items():
        evaluation = evaluated(evaluators(data, False), data, perfect(data))
        assert list(evaluation.results) == ["bbox", "operating_point", kind]
        assert list(evaluation.metrics())[-3:] == [f"{kind}_AP", f"{kind}_AP50", f"{kind}_AP75"]


def test_masks_and_boxes_are_judged_apart(tmp_path: Path) -> None:
    """The right box around a mask that is wrong: the hole is filled, and nothing is found in it."""
    data = people(tmp_path)
    found = perfect(data)
    pixels = found[0].extra["masks"].dense().numpy()
    pixels[0, 10:60, 10:70], pixels[1] = True, False
    found[0] = replace(found[0], extra={**found[0].extra, "masks": masks_of(pixels)})
    evaluation = evaluated(segment_evaluators(data), data, found)
    assert evaluation.metrics()["AP"] == pytest.approx(1) and evaluation.metrics()["segm_AP"] < 0.5
    assert evaluation.results["confusion"].matrix.trace() == 3  # type: ignore[attr-defined]
    assert evaluation.results["confusion_segm"].matrix.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]  # type: ignore[attr-defined]
    assert not evaluation.results["errors"].images  # type: ignore[attr-defined]
    errors = evaluation.results["errors_segm"]
    assert len(errors.images) == 1 and errors.images[0].errors == 2  # type: ignore[attr-defined]
    errors.write(tmp_path, data.names, data)
    assert load_image(tmp_path / "worst_segm.jpg").shape[2] == 3


def test_boxes_count_where_a_class_has_no_key_points(tmp_path: Path) -> None:
    data = people(tmp_path)
    keypoints = data.objects.keypoints.copy()
    keypoints[2] = 0
    some = replace(data, objects=replace(data.objects, keypoints=keypoints))
    assert evaluated(pose_evaluators(some, False), some, perfect(some)).fitness == pytest.approx(2)
    none = replace(data, objects=replace(data.objects, keypoints=np.zeros_like(keypoints)))
    assert [evaluator.name for evaluator in pose_evaluators(none)] == ["bbox", "v7", "confusion", "errors"]
    empty = replace(data, objects=replace(data.objects, keypoints=keypoints[:, :0]))
    assert [evaluator.name for evaluator in pose_evaluators(empty, False)] == ["bbox", "operating_point"]


def test_similarities_are_found_once_for_all_evaluators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = people(tmp_path), []
    from yolov7.evaluation import similarity as module

    plain = module.true_rles
    monkeypatch.setattr(module, "true_rles", lambda *arguments: calls.append(1) or plain(*arguments))
    masks, found = MaskSimilarity(), perfect(data)
    evaluators: list[Any] = [V7Metric(masks), ErrorAnalysis(similarity=masks)]
    for index in (0, 1, 0):
        for evaluator in evaluators:
            evaluator.add(found[index], data, index)
    assert len(calls) == 3
    image = masks.compare(found[1][:0], data, 1)
    assert image.iou.shape == (0, 1) and image.above(0.5).iou.shape == (0, 1)
    result = pickle.loads(pickle.dumps(evaluators[0])).result(data)
    assert isinstance(result, V7Result) and (result.name, result.word, result.images) == ("v7_segm", "mask IoU", 3)


def test_key_points_that_lie_elsewhere_are_wrong(tmp_path: Path) -> None:
    data = people(tmp_path)
    found = perfect(data)
    moved = found[0].extra["keypoints"].clone()
    moved[0, :2, :2] += 25
    found[0] = replace(found[0], extra={**found[0].extra, "keypoints": moved})
    evaluation = evaluated(pose_evaluators(data), data, found)
    assert evaluation.metrics()["AP"] == pytest.approx(1) and evaluation.metrics()["keypoints_AP"] < 0.9
    assert evaluation.results["errors_keypoints"].images[0].errors == 2  # type: ignore[attr-defined]
    evaluation.results["errors_keypoints"].write(tmp_path, data.names, data)
    assert (tmp_path / "worst_keypoints.jpg").is_file()


@pytest.mark.parametrize("kind", ["segm", "keypoints"])
def test_what_is_wrong_is_drawn_in_colour(kind: str, tmp_path: Path) -> None:
    """The sheet has pixels of the class's colour along the wrong mask or limb, and none where all is right."""
    data = people(tmp_path)
    found = perfect(data)[0]
    similarity = MaskSimilarity() if kind == "segm" else KeypointSimilarity()
    mark = find_mark(kind, ((0, 1), (1, 2)))
    assert mark is not None and find_mark("bbox", ()) is None
    colours = []
    for wrong in (False, True):
        canvas = np.full((2 * SIZE[0], 2 * SIZE[1], 3), 90, np.uint8)
        shapes = similarity.compare(found, data, 0).shapes
        assert shapes is not None
        for shape in shapes:
            mark(canvas, shape, np.zeros(2, np.int64), np.array([wrong, False]), (2.0, 2.0))
        colours.append(canvas)
    from yolov7.inference.draw import class_colour

    exact = [(canvas == class_colour(0)).all(-1).sum() for canvas in colours]
    assert exact[0] == 0 and exact[1] > 20
    assert (colours[0] != 90).any()
    evaluator = ErrorAnalysis(similarity=similarity)
    evaluator.add(found[:1], data, 0)
    plain, drawn = (error_sheet(evaluator.images, data.names, each) for each in (None, mark))
    assert plain.shape == drawn.shape and not np.array_equal(plain, drawn)
    assert len(COCO_PERSON.limbs) == 19
