"""Precision, recall and F1 where F1 is best: against the simple way, threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest

from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.operating_point import OperatingPoint
from yolov7.evaluation.v7_metric import POINTS


def box(place: int) -> list[float]:
    return [100.0 * place, 0, 100.0 * place + 50, 50]


def image(found: list[tuple[int, float, int]], truth: list[tuple[int, int]]) -> Comparison:
    """Detections (place, score, class) and objects (place, class)."""
    return Comparison.of([box(place) for place, _, _ in found], [score for _, score, _ in found],
                         [label for *_, label in found], [box(place) for place, _ in truth], [c for _, c in truth])


def test_it_is_where_the_mean_of_f1_is_best() -> None:
    rng = np.random.default_rng(0)
    point, rows, objects = OperatingPoint(), [], np.zeros(3)
    for _ in range(30):
        truth = [(place, int(rng.integers(3))) for place in range(6)]
        found = [(place, float(rng.random()), label if rng.random() < 0.7 else int(rng.integers(3)))
                 for place, label in truth if rng.random() < 0.8]
        point.update(image(found, truth))
        kinds = dict(truth)
        rows += [(score, label, kinds[place] == label) for place, score, label in found]
        objects += np.bincount([label for _, label in truth], minlength=3)
    result = point.result()

    def simple(threshold: float) -> tuple[np.ndarray, np.ndarray]:
        right, all_of = (np.array([sum(1 for score, label, good in rows if label == k and score >= threshold
                                       and (good or not only)) for k in range(3)]) for only in (True, False))
        return right / np.maximum(all_of, 1), right / objects

    precision, recall = simple(result.confidence)
    assert result.class_recall == pytest.approx(recall, abs=0.03)  # the curves are interpolated between scores
    assert result.class_precision == pytest.approx(precision, abs=0.03)
    scores = [float((2 * p * r / np.maximum(p + r, 1e-9)).mean()) for p, r in map(simple, POINTS[::10])]
    assert max(scores) == pytest.approx(result.F1, abs=0.01)
    assert result.metrics() == {"precision": result.precision, "recall": result.recall, "F1": result.F1,
                                "confidence": result.confidence}
    assert f"F1 {result.F1:.3f} at confidence {result.confidence:.3f}" in result.text(())


def test_a_class_that_is_not_found_has_no_precision() -> None:
    """The curves say 1 where nothing is found, and nothing wrong."""
    point = OperatingPoint()
    point.update(image([(0, 0.9, 0)], [(0, 0), (1, 2)]))
    result = point.result()
    assert result.of_class(0) == pytest.approx((1, 1, 1))
    assert result.of_class(2) == (0, 0, 0) and result.of_class(1) is None
    assert (result.precision, result.recall, result.F1) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("found", "truth"), [([], []), ([(0, 0.9, 0)], []), ([], [(0, 0)]), ([(1, 0.9, 0)], [(0, 0)])])
def test_nothing_right_is_zero(found: list[tuple[int, float, int]], truth: list[tuple[int, int]]) -> None:
    point = OperatingPoint()
    point.update(image(found, truth))
    assert set(point.result().metrics().values()) == {0.0}


def test_processes_add_up() -> None:
    images = [image([(0, 0.9, 0), (1, 0.4, 1)], [(0, 0), (1, 0)]), image([(2, 0.6, 1)], [(2, 1)])]
    alone, first, second = OperatingPoint(), OperatingPoint(), OperatingPoint()
    for one in images:
        alone.update(one)
    first.update(images[0])
    second.update(images[1])
    first.merge(second)
    assert first.result().metrics() == alone.result().metrics()
