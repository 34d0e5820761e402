"""The confusion matrix: examples by hand, a plain restatement of the rules, and its edge cases."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_boxes import plain_iou

from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.confusion import ConfusionMatrix

Arguments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # of `Comparison.of`
NAMES = ("dog", "cat", "owl")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


# --- the rules read aloud --------------------------------------------------------------------------------------


def plain_pairs(image: Arguments, confidence: float, iou: float, by_class: bool = False) -> dict[int, int]:
    """Again and again the best pair of what is left; rows of ``image``."""
    boxes, scores, labels, true_boxes, true_labels = image
    free = [row for row in range(len(boxes)) if np.float32(scores[row]) > np.float32(confidence)]
    objects, pairs = list(range(len(true_boxes))), {}
    while True:
        fitting = []
        for row in free:
            for column in objects:
                overlap, other = plain_iou(boxes[row], true_boxes[column]), bool(labels[row] != true_labels[column])
                if overlap > np.float32(iou) and not (by_class and other):
                    fitting.append((-overlap, -np.float32(scores[row]), other, row, column))
        if not fitting:
            return pairs
        *_, row, column = min(fitting)
        pairs[row] = column
        free.remove(row)
        objects.remove(column)


def plain_matrix(samples: list[Arguments], classes: int, confidence: float, iou: float) -> np.ndarray:
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for image in samples:
        _, scores, labels, _, true_labels = image
        pairs = plain_pairs(image, confidence, iou)
        for row, label in enumerate(labels):
            if row in pairs:
                matrix[label, true_labels[pairs[row]]] += 1
            elif np.float32(scores[row]) > np.float32(confidence):
                matrix[label, classes] += 1
        for column, label in enumerate(true_labels):
            if column not in pairs.values():
                matrix[classes, label] += 1
    return matrix


def random_images(seed: int, images: int = 6, classes: int = 4) -> list[Arguments]:
    """Shaken, doubled, relabelled and missed objects on a coarse grid: equal scores and IoUs abound.

    Some images have neither objects nor detections, or only one kind.
    """
    r = np.random.RandomState(seed)
    samples = []
    for _ in range(images):
        count = r.randint(0, 6)
        low = r.randint(0, 8, (count, 2))
        true_boxes = np.concatenate((low, low + r.randint(0, 9, (count, 2))), 1).astype(np.float32)
        true_labels = r.randint(0, classes, count)
        pick = r.randint(0, max(count, 1), r.randint(0, 12) if count else 0)
        boxes = true_boxes[pick] + r.randint(-2, 3, (len(pick), 4)) * r.randint(0, 2, (len(pick), 1))
        lost = r.uniform(0, 20, (r.randint(0, 3), 4))
        labels = np.concatenate((true_labels[pick], r.randint(0, classes, len(lost))))
        labels = np.where(r.random_sample(len(labels)) < 0.3, r.randint(0, classes, len(labels)), labels)
        boxes = np.concatenate((boxes, lost)).astype(np.float32)
        scores = np.round(r.randint(0, 21, len(boxes)) / 20, 2)  # 0.25 among them
        samples.append((boxes, scores, labels, true_boxes, true_labels))
    return samples


def collected(samples: list[Arguments], classes: int = 4, confidence: float = 0.25, iou: float = 0.45,
              ) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes, confidence, iou)
    for image in samples:
        confusion.update(Comparison.of(*image))
    return confusion


def boxes_of(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)


# --- examples --------------------------------------------------------------------------------------------------


def test_rows_are_predicted_and_columns_true() -> None:
    """A dog found, a cat taken for a dog, an owl missed, a cat where nothing is."""
    confusion = ConfusionMatrix(3)
    found = boxes_of(A, B, (80, 80, 90, 90))
    confusion.update(Comparison.of(found, [0.9, 0.8, 0.7], [0, 0, 1], boxes_of(A, B, C), [0, 1, 2]))
    assert confusion.matrix.dtype == np.int64
    assert confusion.matrix.tolist() == [
        # true: dog, cat, owl, background
        [1, 1, 0, 0],  # predicted dog
        [0, 0, 0, 1],  # predicted cat
        [0, 0, 0, 0],
        [0, 0, 1, 0],  # missed
    ]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("confidence", "iou"), [(0.25, 0.45), (0.5, 0.5), (0.0, 0.2)])
def test_matrix_follows_the_rules(seed: int, confidence: float, iou: float) -> None:
    samples = random_images(seed)
    expected = plain_matrix(samples, 4, confidence, iou)
    np.testing.assert_array_equal(collected(samples, 4, confidence, iou).matrix, expected)


@pytest.mark.parametrize("by_class", [False, True], ids=["any_class", "by_class"])
@pytest.mark.parametrize("seed", range(20))
def test_matching_follows_the_rules(seed: int, by_class: bool) -> None:
    for image in random_images(seed):
        matches = Comparison.of(*image).matches(0.3, by_class)
        assert dict(matches.tolist()) == plain_pairs(image, -1, 0.3, by_class)


@pytest.mark.parametrize(("score", "counted"), [(0.25, 0), (0.2501, 1), (1.0, 1), (0.0, 0)])
def test_a_score_that_equals_the_confidence_is_below_it(score: float, counted: int) -> None:
    confusion = ConfusionMatrix(1)
    confusion.update(Comparison.of(boxes_of(A), [score], [0], boxes_of(), []))
    assert confusion.matrix.tolist() == [[0, counted], [0, 0]]


@pytest.mark.parametrize(("width", "matched"), [(8, 0), (9, 0), (9.01, 1), (20, 1)])
def test_an_iou_that_equals_the_threshold_is_below_it(width: float, matched: int) -> None:
    confusion = ConfusionMatrix(1)
    confusion.update(Comparison.of(boxes_of((0, 0, width, 10)), [0.9], [0], boxes_of((0, 0, 20, 10)), [0]))
    assert confusion.matrix.tolist() == [[matched, 1 - matched], [1 - matched, 0]]


def test_the_best_pair_goes_first() -> None:
    """The surer detection overlaps with the object, too, but less: it is left over, though it has the right class."""
    confusion = ConfusionMatrix(2)
    confusion.update(Comparison.of(boxes_of((0, 0, 10, 8), A), [0.9, 0.3], [0, 1], boxes_of(A), [0]))
    assert confusion.matrix.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_a_detection_left_over_by_its_best_object_gets_the_next() -> None:
    """Unlike in the v7 metric: both are right."""
    confusion = ConfusionMatrix(1)
    objects = boxes_of(A, (0, 0, 10, 5.5))
    confusion.update(Comparison.of(boxes_of(A, (0, 0, 10, 8)), [0.9, 0.8], [0, 0], objects, [0, 0]))
    assert confusion.matrix.tolist() == [[2, 0], [0, 0]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_place_found_as_two_classes_counts_for_the_surer_one(order: tuple[int, int]) -> None:
    scores, labels = np.array([0.9, 0.6])[list(order)], np.array([0, 1])[list(order)]
    confusion = ConfusionMatrix(2)
    confusion.update(Comparison.of(boxes_of(A, A), scores, labels, boxes_of(A), [1]))
    assert confusion.matrix.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("true_labels", [[0, 1], [1, 0]])
def test_two_objects_in_one_place_go_to_their_own_classes(true_labels: list[int]) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(Comparison.of(boxes_of(A, A), [0.9, 0.6], [1, 0], boxes_of(A, A), true_labels))
    assert confusion.matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_equal_detections_and_objects_go_by_rows() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(Comparison.of(boxes_of(A, A), [0.5, 0.5], [0, 1], boxes_of(A), [2]))
    assert confusion.matrix[:, 2].tolist() == [1, 0, 0, 0]
    assert confusion.matrix[1, 3] == 1


# --- nothing there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "expected"), [
    (([], [], [], [], []), [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
    ((boxes_of(), [], [], boxes_of(A, B), [0, 1]), [[0, 0, 0], [0, 0, 0], [1, 1, 0]]),
    ((boxes_of(A, B), [0.9, 0.2], [1, 1], boxes_of(), []), [[0, 0, 0], [0, 0, 1], [0, 0, 0]]),
    ((boxes_of(A), [0.9], [1], boxes_of(B), [1]), [[0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    ((boxes_of((5, 5, 5, 5)), [0.9], [0], boxes_of((5, 5, 5, 5)), [0]), [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
], ids=["nothing", "no_detections", "no_objects", "apart", "without_area"])
def test_every_detection_and_object_counts(image: Arguments, expected: list[list[int]]) -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(Comparison.of(*image))
    assert confusion.matrix.tolist() == expected
    assert confusion.shares().max() == bool(sum(map(sum, expected)))


def test_one_class() -> None:
    confusion = ConfusionMatrix(1)
    confusion.update(Comparison.of(boxes_of(A, B), [0.9, 0.9], [0, 0], boxes_of(A, C), [0, 0]))
    assert confusion.matrix.tolist() == [[1, 1], [1, 0]]


def test_shares_are_of_the_truth() -> None:
    confusion = ConfusionMatrix(2)
    confusion.matrix[:] = [[6, 0, 3], [1, 0, 1], [1, 0, 0]]
    assert confusion.shares().tolist() == [[0.75, 0, 0.75], [0.125, 0, 0.25], [0.125, 0, 0]]


def test_arguments_are_left_alone_and_may_be_tensors() -> None:
    image = next(p for p in random_images(3) if len(p[0]) and len(p[3]))
    for array in image:
        array.setflags(write=False)
    confusion = ConfusionMatrix(4)
    with torch.inference_mode():
        confusion.update(Comparison.of(*(torch.tensor(array) for array in image)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(confusion.matrix, collected([image]).matrix)


# --- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lengths", "message"), [
    ((2, 1, 2, 1, 1), "2 boxes, 1 scores, 2 labels"),
    ((2, 2, 3, 1, 1), "2 boxes, 2 scores, 3 labels"),
    ((2, 2, 2, 1, 2), "1 true_boxes, 2 true_labels"),
])
def test_unequal_lengths_are_refused(lengths: tuple[int, ...], message: str) -> None:
    n, scores, labels, m, true_labels = lengths
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(Comparison.of(np.ones((n, 4)), np.ones(scores), np.ones(labels), np.ones((m, 4)),
                                                np.ones(true_labels)))


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("side", ["detection", "object"])
def test_unknown_classes_are_refused_and_nothing_is_counted(label: int, side: str) -> None:
    confusion = ConfusionMatrix(3)
    labels = ([label], [0]) if side == "detection" else ([0], [label])
    with pytest.raises(ValueError, match=f"class {label}; accepted: 0 to 2"):
        confusion.update(Comparison.of(boxes_of(A), [0.9], labels[0], boxes_of(A), labels[1]))
    assert not confusion.matrix.any()


@pytest.mark.parametrize("other", [ConfusionMatrix(4), ConfusionMatrix(3, confidence=0.3), ConfusionMatrix(3, iou=0.5)])
def test_other_rules_do_not_merge(other: ConfusionMatrix) -> None:
    with pytest.raises(ValueError, match="accepted: \\(3, 0.25, 0.45\\)"):
        ConfusionMatrix(3).merge(other)


def test_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="0 classes; accepted: at least 1"):
        ConfusionMatrix(0)


# --- properties ------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_merged_shards_equal_all_at_once(seed: int) -> None:
    samples = random_images(seed, images=8)
    merged = ConfusionMatrix(4)
    for shard in (2, 0, 1):
        merged.merge(pickle.loads(pickle.dumps(collected(samples[shard::3]))))
    np.testing.assert_array_equal(merged.matrix, collected(samples).matrix)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_everything_counts_once(seed: int) -> None:
    samples = random_images(seed)
    matrix = collected(samples).matrix
    objects = np.bincount(np.concatenate([p[4] for p in samples]), minlength=4)
    found = np.bincount(np.concatenate([p[2][p[1] > 0.25] for p in samples]), minlength=4)
    np.testing.assert_array_equal(matrix[:, :4].sum(0), objects)
    np.testing.assert_array_equal(matrix[:4].sum(1), found)
    assert matrix[4, 4] == 0


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_the_order_of_rows_does_not_matter_without_ties(seed: int) -> None:
    r = np.random.RandomState(seed)
    low, true_low = r.uniform(0, 20, (12, 2)), r.uniform(0, 20, (8, 2))
    boxes = np.concatenate((low, low + r.uniform(5, 20, (12, 2))), 1)
    true_boxes = np.concatenate((true_low, true_low + r.uniform(5, 20, (8, 2))), 1)
    image = (boxes, r.random_sample(12), r.randint(0, 4, 12), true_boxes, r.randint(0, 4, 8))
    one, other = r.permutation(12), r.permutation(8)
    shuffled = (*(array[one] for array in image[:3]), *(array[other] for array in image[3:]))
    np.testing.assert_array_equal(collected([image]).matrix, collected([shuffled]).matrix)  # type: ignore[list-item]


# --- output ----------------------------------------------------------------------------------------------------


def test_text_of_few_classes() -> None:
    confusion = ConfusionMatrix(3)
    confusion.matrix[:] = [[12, 1, 0, 3], [0, 1000, 0, 0], [0, 0, 7, 1], [2, 0, 5, 0]]
    assert confusion.text(NAMES).splitlines() == [
        "confusion matrix at confidence 0.25 and IoU 0.45: rows are predicted, columns true",
        "",
        "            dog   cat  owl  background",
        "dog          12     1    0           3",
        "cat           0  1000    0           0",
        "owl           0     0    7           1",
        "background    2     0    5           -",
    ]


def test_text_of_many_classes_lists_the_most_frequent_errors() -> None:
    confusion = ConfusionMatrix(80)
    confusion.matrix[5, 5] = 999  # right
    confusion.matrix[5, 6] = 7
    confusion.matrix[6, 5] = 12
    confusion.matrix[80, 5] = 3
    names = [f"class {index}" for index in range(80)]
    title = "confusion matrix at confidence 0.25 and IoU 0.45: the most frequent errors"
    assert confusion.text(names).splitlines() == [
        title,
        "",
        "found as another class: 19",
        "  12  class 5 as class 6",
        "   7  class 6 as class 5",
        "missed: 3",
        "  3  class 5",
        "found where nothing is: 0",
    ]
    confusion.matrix[:] = 1
    lines = confusion.text(names).splitlines()
    assert lines[2:5] == ["found as another class: 6320", "  1  class 1 as class 0", "  1  class 2 as class 0"]
    assert lines[-9:-6] == ["found where nothing is: 80", "  1  class 0", "  1  class 1"]
    assert len(lines) == 2 + 3 * 9
