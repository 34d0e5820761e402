"""The reference implementation's average precision: its stored numbers, a restatement of the rules, its edge cases."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from plain_boxes import plain_iou

from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.v7_metric import (
    IOU_THRESHOLDS,
    POINTS,
    Matches,
    V7Metric,
    V7Result,
    average_precision,
    match_detections,
)

GOLDEN_POST = GOLDEN / "post"
CASES = json.loads((GOLDEN_POST / "ap.json").read_text())
CURVES = ("precision", "recall", "f1", "precision_at_recall")
Arguments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # the arguments of `Comparison.of`


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """Division by zero and the mean of nothing only warn: here they fail."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


# --- the rules read aloud ----------------------------------------------------------------------------------------


def plain_matches(image: Arguments) -> list[list[bool]]:
    """Class by class, best score first, until all objects are taken."""
    boxes, scores, labels, true_boxes, true_labels = image
    correct = [[False] * 10 for _ in boxes]
    order = sorted(range(len(boxes)), key=lambda row: (-scores[row], row))
    for label in sorted(set(true_labels.tolist())):
        objects = [i for i in range(len(true_boxes)) if true_labels[i] == label]
        taken: set[int] = set()
        for row in (row for row in order if labels[row] == label):
            overlaps = [plain_iou(boxes[row], true_boxes[i]) for i in objects]
            best = overlaps.index(max(overlaps))
            if overlaps[best] > 0.5 and best not in taken:
                correct[row] = [bool(overlaps[best] > np.float32(percent / 100)) for percent in range(50, 100, 5)]
                taken.add(best)
            if len(taken) == len(objects):
                break
    return correct


def plain_interpolation(place: float, places: list[float], values: list[float], left: float) -> float:
    """On rising places; where several are equal, the last one counts."""
    if place < places[0]:
        return left
    last = max(i for i in range(len(places)) if places[i] <= place)
    if last == len(places) - 1 or place == places[last]:
        return values[last]
    share = (place - places[last]) / (places[last + 1] - places[last])
    return values[last] + share * (values[last + 1] - values[last])


@dataclass
class PlainClass:
    """Precision and recall of one class behind each detection, at one threshold."""

    scores: list[float]
    precision: list[float]
    recall: list[float]

    def at_confidence(self, confidence: float) -> tuple[float, float]:
        places = [-score for score in self.scores]
        precision = plain_interpolation(-confidence, places, self.precision, left=1.0)
        return precision, plain_interpolation(-confidence, places, self.recall, left=0.0)

    def at_recall(self, recall: float, v5_metric: bool) -> float:
        end = 1.0 if v5_metric else self.recall[-1] + 0.01
        raw = [1.0, *self.precision, 0.0]
        envelope = [max(raw[i:]) for i in range(len(raw))]
        return plain_interpolation(recall, [0.0, *self.recall, end], envelope, left=1.0)

    def average_precision(self, v5_metric: bool) -> float:
        values = [self.at_recall(r / 100, v5_metric) for r in range(101)]
        return sum((low + high) / 2 * 0.01 for low, high in zip(values[:-1], values[1:], strict=True))


def plain_class(rows: list[tuple[float, bool]], objects: int) -> PlainClass:
    """``rows`` are (score, right or not) in the order of the images."""
    scores, precision, recall, right = [], [], [], 0
    for rank, (score, correct) in enumerate(sorted(rows, key=lambda row: -row[0]), start=1):  # stable
        right += correct
        scores.append(score)
        precision.append(right / rank)
        recall.append(right / objects)
    return PlainClass(scores, precision, recall)


def plain_result(samples: list[Arguments], v5_metric: bool) -> dict[str, Any]:
    """By class: ``ap [K, 10]`` and the four curves ``[K, 1000]``; index of the best F1."""
    found = [(float(p[1][row]), int(p[2][row]), correct)
             for p in samples for row, correct in enumerate(plain_matches(p))]
    truth = [int(label) for p in samples for label in p[4]]
    classes = sorted(set(truth))
    ap, curves = np.zeros((len(classes), 10)), {name: np.zeros((len(classes), 1000)) for name in CURVES}
    if any(correct[0] for _, _, correct in found):
        for k, label in enumerate(classes):
            for threshold in range(10):
                rows = [(score, correct[threshold]) for score, c, correct in found if c == label]
                if not rows:
                    continue
                counted = plain_class(rows, truth.count(label))
                ap[k, threshold] = counted.average_precision(v5_metric)
                if threshold == 0:
                    both = [counted.at_confidence(i / 999) for i in range(1000)]
                    curves["precision"][k], curves["recall"][k] = zip(*both, strict=True)
                    curves["precision_at_recall"][k] = [counted.at_recall(i / 999, v5_metric) for i in range(1000)]
    p, r = curves["precision"], curves["recall"]
    curves["f1"] = 2 * p * r / (p + r + 1e-16)
    best = int(curves["f1"].mean(0).argmax()) if classes else 0
    return {"classes": np.array(classes), "ap": ap, "best": best, **curves}


# --- samples -----------------------------------------------------------------------------------------------------


def random_images(seed: int, images: int = 6, classes: int = 4, decimals: int = 1) -> list[Arguments]:
    """Shaken, doubled, relabelled and missed objects on a coarse grid: equal scores and IoUs on thresholds abound.

    Class 1 is never found, class ``classes`` has no objects; some images have neither or only one kind.
    """
    r = np.random.RandomState(seed)
    samples = []
    for _ in range(images):
        count = r.randint(0, 6)
        low = r.randint(0, 12, (count, 2))
        true_boxes = np.concatenate((low, low + r.randint(0, 11, (count, 2))), 1).astype(np.float32)
        true_labels = r.randint(0, classes, count)
        pick = r.randint(0, max(count, 1), r.randint(0, 15) if count else 0)
        boxes = true_boxes[pick] + r.randint(-2, 3, (len(pick), 4)) * r.randint(0, 2, (len(pick), 1))
        labels = np.where(r.random_sample(len(pick)) < 0.8, true_labels[pick], classes)
        lost = r.uniform(0, 20, (r.randint(0, 3), 4)).astype(np.float32)
        boxes = np.concatenate((boxes, lost)).astype(np.float32)
        labels = np.concatenate((labels, r.randint(0, classes, len(lost))))
        labels[labels == 1] = classes
        scores = np.round(r.random_sample(len(boxes)), decimals)
        samples.append((boxes, scores, labels, true_boxes, true_labels))
    return samples


def collected(samples: list[Arguments]) -> V7Metric:
    metric = V7Metric()
    for image in samples:
        metric.update(Comparison.of(*image))
    return metric


def one_class(rows: list[tuple[float, bool]], objects: int, v5_metric: bool = False) -> V7Result:
    """Instances given as (score, right at all thresholds or at none)."""
    scores = np.array([score for score, _ in rows])
    correct = np.repeat(np.array([right for _, right in rows], bool)[:, None], 10, axis=1)
    matches = Matches(correct, scores, np.zeros(len(rows), np.int64), np.zeros(objects, np.int64), 1)
    return average_precision(matches, v5_metric)


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def assert_close(value: ArrayLike, expected: ArrayLike) -> None:
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]


def assert_equal_results(first: V7Result, second: V7Result) -> None:
    for one, other in zip(astuple(first), astuple(second), strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        for value, expected in pairs:
            np.testing.assert_array_equal(value, expected)


# --- against the reference implementation and the rules ----------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden_post(name: str) -> None:
    golden = np.load(GOLDEN_POST / f"{name}.npz")
    matches = Matches(golden["tp"], golden["conf"], golden["pred_cls"], golden["target_cls"], images=1)

    result = average_precision(matches)

    np.testing.assert_array_equal(result.classes, golden["classes"])
    np.testing.assert_array_equal(result.objects, [(golden["target_cls"] == c).sum() for c in golden["classes"]])
    assert_close(result.class_average_precision, golden["ap"])
    assert_close(result.class_precision, golden["p"])
    assert_close(result.class_recall, golden["r"])
    assert_close(result.class_f1, golden["f1"])
    for key, value in {"map50": result.AP50, "map": result.AP, "p": result.precision, "r": result.recall}.items():
        assert_close(value, CASES[name][key])


@pytest.mark.parametrize("seed", range(60))
def test_matching_follows_the_rules(seed: int) -> None:
    for image in random_images(seed, images=10):
        expected = np.array(plain_matches(image)).reshape(-1, 10)
        np.testing.assert_array_equal(match_detections(Comparison.of(*image)), expected)


@pytest.mark.parametrize("v5_metric", [False, True], ids=["v7", "v5"])
@pytest.mark.parametrize("decimals", [1, 6], ids=["ties", "no_ties"])
@pytest.mark.parametrize("seed", range(4))
def test_result_follows_the_rules(seed: int, decimals: int, v5_metric: bool) -> None:
    samples = random_images(100 + seed, decimals=decimals)
    expected = plain_result(samples, v5_metric)

    result = collected(samples).result(v5_metric=v5_metric)

    assert result.AP > 0
    np.testing.assert_array_equal(result.classes, expected["classes"])
    assert_close(result.class_average_precision, expected["ap"])
    for name in CURVES:
        assert_close(getattr(result.curves, name), expected[name])
    f1 = result.curves.f1.mean(0)
    best = int(np.flatnonzero(result.curves.points == result.confidence)[0])
    assert f1[best] == f1.max() == pytest.approx(f1[expected["best"]], rel=0, abs=1e-12)
    for name in ("precision", "recall", "f1"):
        np.testing.assert_array_equal(getattr(result, f"class_{name}"), getattr(result.curves, name)[:, best])


def test_hand_example() -> None:
    """3 objects, 4 detections: right, wrong, right, wrong. Recall 1/3, 1/3, 2/3, 2/3, precision 1, 1/2, 2/3, 1/2."""
    rows = [(0.9, True), (0.8, False), (0.7, True), (0.6, False)]
    # The envelope is 1 up to recall 1/3, then 2/3 up to 2/3, with the last point at precision 1/2. Values at 0.33,
    # 0.34, 0.66, 0.67 are 1, 2/3, 2/3, on the slope to the sentinel; one more step of the trapezoid lies between.
    fall = 0.5 * (1 - (0.67 - 2 / 3) / 0.01)  # v7: to 0 at 2/3 + 0.01
    v7 = 33 * 0.01 + (1 + 2 / 3) / 2 * 0.01 + 32 * 0.01 * 2 / 3 + (2 / 3 + fall) / 2 * 0.01 + fall / 2 * 0.01
    slope = [0.5 * (1 - (r / 100 - 2 / 3) / (1 / 3)) for r in range(67, 101)]  # v5: to 0 at 1
    tail = (2 / 3 + slope[0]) / 2 * 0.01 + sum((a + b) / 2 * 0.01 for a, b in zip(slope[:-1], slope[1:], strict=True))
    v5 = 33 * 0.01 + (1 + 2 / 3) / 2 * 0.01 + 32 * 0.01 * 2 / 3 + tail

    assert_close(one_class(rows, 3).AP, v7)
    assert_close(one_class(rows, 3, v5_metric=True).AP, v5)
    result = one_class(rows, 3)
    assert (result.precision, result.recall) == pytest.approx((2 / 3, 2 / 3), abs=0.02)
    assert result.confidence == POINTS[699]  # the last one not above the third detection


def test_order_among_equal_scores_is_that_of_rows() -> None:
    assert one_class([(0.5, True), (0.5, False)], 1).AP > one_class([(0.5, False), (0.5, True)], 1).AP


# --- matching ----------------------------------------------------------------------------------------------------


def test_thresholds_are_decimal() -> None:
    assert IOU_THRESHOLDS.tolist() == [np.float32(percent / 100) for percent in range(50, 100, 5)]


@pytest.mark.parametrize(("width", "right"), [(10, 0), (11, 1), (12, 2), (15, 5), (19, 9), (20, 10)])
def test_an_iou_that_equals_a_threshold_is_below_it(width: int, right: int) -> None:
    correct = match_detections(Comparison.of(boxes_of((0, 0, width, 10)), [0.5], [0], boxes_of((0, 0, 20, 10)), [0]))
    assert correct[0].tolist() == [True] * right + [False] * (10 - right)


def test_a_duplicate_is_wrong() -> None:
    box = (10, 10, 50, 50)
    correct = match_detections(Comparison.of(boxes_of(box, box), [0.3, 0.9], [2, 2], boxes_of(box), [2]))
    assert correct.all(1).tolist() == [False, True]
    assert not correct[0].any()


def test_a_detection_claims_its_best_object_only() -> None:
    """The second one fits the other object, too, with IoU 0.6 (COCO would count it)."""
    objects = boxes_of((0, 0, 10, 10), (0, 0, 10, 5.5))
    found = boxes_of((0, 0, 10, 10), (0, 0, 10, 8))
    correct = match_detections(Comparison.of(found, [0.9, 0.8], [0, 0], objects, [0, 0]))
    assert correct[:, 0].tolist() == [True, False]


def test_classes_do_not_mix() -> None:
    box = boxes_of((0, 0, 10, 10))
    assert not match_detections(Comparison.of(box, [0.9], [1], box, [0])).any()


def test_boxes_without_area_match_nothing() -> None:
    box = boxes_of((5, 5, 5, 5))
    assert not match_detections(Comparison.of(box, [0.9], [0], box, [0])).any()


def test_arguments_are_left_alone_and_may_be_tensors() -> None:
    image = random_images(3, images=1)[0]
    assert len(image[0]) and len(image[3])
    for array in image:
        array.setflags(write=False)
    tensors = [torch.tensor(array) for array in image]
    np.testing.assert_array_equal(match_detections(Comparison.of(*image)), match_detections(Comparison.of(*tensors)))
    assert_equal_results(collected([image]).result(), collected([tuple(tensors)]).result())  # type: ignore[list-item]


@pytest.mark.parametrize(("lengths", "message"), [
    ((2, 1, 2, 1, 1), "2 boxes, 1 scores, 2 labels"),
    ((2, 2, 3, 1, 1), "2 boxes, 2 scores, 3 labels"),
    ((2, 2, 2, 1, 2), "1 true_boxes, 2 true_labels"),
])
def test_unequal_lengths_are_refused(lengths: tuple[int, ...], message: str) -> None:
    n, scores, labels, m, true_labels = lengths
    with pytest.raises(ValueError, match=message):
        V7Metric().update(Comparison.of(np.ones((n, 4)), np.ones(scores), np.ones(labels), np.ones((m, 4)),
                                        np.ones(true_labels)))


# --- nothing to measure ------------------------------------------------------------------------------------------

BOX, NO_BOX = boxes_of((0, 0, 10, 10)), boxes_of()
FOUND: tuple[list, list] = ([0.9], [0])
NOT_FOUND: tuple[list, list] = ([], [])


@pytest.mark.parametrize(("samples", "objects"), [
    ([], 0),
    ([(NO_BOX, *NOT_FOUND, NO_BOX, [])], 0),
    ([([], *NOT_FOUND, [], [])], 0),
    ([(BOX, *FOUND, NO_BOX, [])], 0),
    ([(NO_BOX, *NOT_FOUND, BOX, [0])], 1),
    ([(BOX + 20, *FOUND, BOX, [0])], 1),
    ([(BOX, *FOUND, BOX, [1])], 1),
    ([(BOX, *FOUND, NO_BOX, []), (NO_BOX, *NOT_FOUND, BOX, [0])], 1),
], ids=["no_image", "nothing", "plain_lists", "no_objects", "no_detections", "missed", "other_class", "apart"])
@pytest.mark.parametrize("v5_metric", [False, True], ids=["v7", "v5"])
def test_zeros_without_a_right_detection(samples: list, objects: int, v5_metric: bool) -> None:
    result = collected(samples).result(v5_metric=v5_metric)
    assert (result.images, result.objects.sum()) == (len(samples), objects)
    assert (result.precision, result.recall, result.AP, result.AP50, result.confidence) == (0, 0, 0, 0, 0)
    assert result.class_average_precision.shape == (objects, 10)
    for name in CURVES:
        curve = getattr(result.curves, name)
        assert curve.shape == (objects, 1000)
        assert not curve.any()
    assert "nothing to measure" in result.text(["a", "b"]) or objects


def test_classes_count_if_they_have_objects() -> None:
    """Class 0 is found, class 2 missed, class 5 found where there is none: the mean is over 0 and 2."""
    metric = V7Metric()
    metric.update(Comparison.of(np.repeat(BOX, 2, 0), [0.9, 0.8], [0, 5], np.repeat(BOX, 2, 0) + [[0], [40]], [0, 2]))
    result = metric.result()
    assert result.classes.tolist() == [0, 2]
    assert_close(result.class_AP50, [1, 0])
    assert_close(result.AP, 0.5)
    assert not result.curves.precision[1].any()


# --- properties --------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 30))
def test_perfect_detections_score_one_and_with_the_v5_end_a_step_less(seed: int, objects: int) -> None:
    """With the v5 end the last of 101 recalls has precision 0: half a step of 0.01 is lost."""
    r = np.random.RandomState(seed)
    low = r.uniform(0, 500, (objects, 2)) + 1000 * np.arange(objects)[:, None]  # apart
    boxes, labels = np.concatenate((low, low + r.uniform(5, 100, (objects, 2))), 1), r.randint(0, 3, objects)
    metric = V7Metric()
    metric.update(Comparison.of(boxes, r.uniform(0.1, 1, objects), labels, boxes, labels))
    v7, v5 = metric.result(), metric.result(v5_metric=True)
    assert_close(v7.class_average_precision, 1)
    assert_close(v5.class_average_precision, 0.995)
    assert (v7.precision, v7.recall) == (1, 1)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_a_duplicate_never_helps(seed: int) -> None:
    samples = random_images(seed, decimals=9)
    doubled = [tuple(np.concatenate((a, a)) for a in p[:3]) + p[3:] for p in samples]
    once, twice = collected(samples), collected(doubled)  # type: ignore[arg-type]
    assert twice.matches().correct.sum() == once.matches().correct.sum()
    assert twice.result().AP <= once.result().AP + 1e-12


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 6), st.booleans())
def test_merge_equals_all_at_once(seed: int, cut: int, v5_metric: bool) -> None:
    samples = random_images(seed)
    first, second = collected(samples[:cut]), pickle.loads(pickle.dumps(collected(samples[cut:])))
    first.merge(second)
    whole = collected(samples)
    assert first.result().images == len(samples)
    assert_equal_results(first.result(v5_metric=v5_metric), whole.result(v5_metric=v5_metric))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_shards_in_any_order_without_equal_scores(seed: int) -> None:
    samples = random_images(seed, decimals=15)
    merged = V7Metric()
    for shard in (2, 0, 1):
        merged.merge(collected(samples[shard::3]))
    assert_equal_results(merged.result(), collected(samples).result())


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_ranges(seed: int) -> None:
    result = collected(random_images(seed)).result()
    for name in CURVES:
        curve = getattr(result.curves, name)
        assert ((curve >= 0) & (curve <= 1)).all()
    assert (np.diff(result.curves.recall) <= 1e-12).all()  # falls with confidence
    assert (np.diff(result.curves.precision_at_recall) <= 1e-12).all()
    assert 0 <= result.AP <= result.AP50 + 1e-12 <= 1 + 2e-12


# --- output ------------------------------------------------------------------------------------------------------


def test_text() -> None:
    """The second of three dogs is right, with IoU 0.72; one class is missed, two have no objects."""
    wrong = (60, 60, 90, 90)
    found, objects = boxes_of(wrong, (0, 0, 7.2, 10), wrong), boxes_of((0, 0, 10, 10), (40, 40, 50, 50))
    metric = V7Metric()
    metric.update(Comparison.of(found, [0.9, 0.8, 0.4], [0, 0, 0], objects, [0, 2]))
    assert metric.result().text(["dog", "cat", "long name", "owl"]).splitlines() == [
        "v7 metric: 1 images, P and R at confidence 0.800 and IoU 0.50",
        "AP and AP50 by this metric differ a little from COCO's: docs/reference.md, v7 metric",
        "",
        "class      objects      P      R     AP   AP50",
        "all              2  0.250  0.500  0.125  0.250",
        "dog              1  0.500  1.000  0.250  0.499",
        "long name        1  0.000  0.000  0.000  0.000",
        "without objects, not counted (2): cat, owl",
    ]


def test_results_pickle() -> None:
    result = collected(random_images(7)).result()
    assert_equal_results(pickle.loads(pickle.dumps(result)), result)
