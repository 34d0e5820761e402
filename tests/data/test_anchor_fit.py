"""Recall by hand and on BCCD; k-means and evolution keep their promises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yolov7.config import InputError
from yolov7.data import anchor_fit
from yolov7.data.anchor_fit import cluster, evolve, fit_anchors, fitness, object_sizes, recall
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet

ANCHORS = np.array([[10.0, 10.0], [40.0, 20.0]])
CENTRES = np.array([[12.0, 20.0], [60.0, 40.0], [200.0, 300.0]])


def clusters(count: int = 60, spread: float = 0.03) -> np.ndarray:
    """Sizes around `CENTRES`, ``count`` each."""
    return np.repeat(CENTRES, count, axis=0) * np.random.default_rng(1).normal(1, spread, (3 * count, 2))


def mixed(count: int) -> np.ndarray:
    return np.exp(np.random.default_rng(2).normal(3.5, 1.0, (count, 2)))


def test_recall_by_hand() -> None:
    sizes = np.array([
        [10.0, 10.0],  # 1 to the first, 4 to the second: does not fit, as 4 is not under 4
        [20.0, 20.0],  # 2 and 2: both fit
        [2.5, 10.0],  # 4 and 16: none fits
        [159.0, 20.0],  # 15.9 and 3.975: the second fits
    ])
    fit = recall(sizes, ANCHORS, 4.0)
    assert (fit.objects, fit.recall, fit.anchors_per_object, fit.tiny) == (4, 0.75, 1.0, 1)
    assert fitness(sizes, ANCHORS, 4.0) == pytest.approx((1 + 1 / 2 + 0 + 20 / 79.5) / 4)


def test_sizes_are_those_of_the_resized_image(squares: Callable[..., ImageSet]) -> None:
    image_set = squares(count=4, long_side=128)
    native = image_set.objects.boxes[:, 2:] - image_set.objects.boxes[:, :2]
    np.testing.assert_allclose(object_sizes(image_set, 320), native * 2.5)


def test_recall_on_bccd_is_that_of_a_plain_loop(bccd: Path) -> None:
    content = json.loads((bccd / "annotations" / "val.json").read_text())
    sides = {image["id"]: max(image["width"], image["height"]) for image in content["images"]}
    matches = []
    for item in content["annotations"]:
        w, h = (side * 640 / sides[item["image_id"]] for side in item["bbox"][2:])
        if w > 0 and h > 0:  # one has no width
            ratios = [max(w / a, a / w, h / b, b / h) for a, b in CENTRES]
            matches.append(sum(ratio < 2 for ratio in ratios))
    fit = recall(object_sizes(open_split(open_data(str(bccd)), "val"), 640), CENTRES, 2.0)
    assert fit.objects == len(matches) and 0 < fit.recall < 1
    assert fit.recall == pytest.approx(np.mean(np.array(matches) > 0))
    assert fit.anchors_per_object == pytest.approx(np.mean(matches))


def test_anchors_fitted_to_bccd_are_closer_than_those_for_coco(bccd: Path) -> None:
    sizes = object_sizes(open_split(open_data(str(bccd)), "train"), 320)
    coco = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]])
    fitted = fit_anchors(sizes, 9, 4.0, generations=200)
    assert fitness(sizes, fitted, 4.0) > fitness(sizes, coco, 4.0) + 0.1
    assert recall(sizes, fitted, 4.0).recall >= recall(sizes, coco, 4.0).recall


def test_k_means_finds_three_clear_clusters() -> None:
    for seed in range(20):
        found = cluster(clusters(), 3, seed)
        np.testing.assert_allclose(found[np.argsort(found[:, 0])], CENTRES, rtol=0.02)


def test_k_means_of_equal_widths() -> None:
    sizes = np.array([[8.0, 10.0], [8.0, 20.0], [8.0, 90.0]])
    np.testing.assert_allclose(np.sort(cluster(sizes, 3)[:, 1]), [10, 20, 90])


def test_evolution_never_lowers_the_fitness() -> None:
    sizes, anchors = mixed(500), ANCHORS
    scores = [fitness(sizes, anchors, 4.0)]
    for seed in range(20):
        anchors = evolve(sizes, anchors, 4.0, 10, seed)
        scores.append(fitness(sizes, anchors, 4.0))
    assert scores == sorted(scores) and scores[-1] > scores[0]


def test_fitted_anchors_are_sorted_by_area_and_at_least_2_px() -> None:
    anchors = fit_anchors(np.concatenate((mixed(300), np.full((100, 2), (0.01, 2.5)))), 6, 4.0, 50)
    assert anchors.shape == (6, 2) and anchors.min() >= 2
    assert (np.diff(anchors.prod(axis=1)) >= 0).all()


def test_objects_under_2_px_move_no_anchor() -> None:
    specks = np.full((1000, 2), 1.9)
    np.testing.assert_array_equal(fit_anchors(np.concatenate((clusters(), specks)), 3, 4.0, 20),
                                  fit_anchors(clusters(), 3, 4.0, 20))


def test_same_seed_same_anchors_for_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = mixed(1000)
    anchors, fit = fit_anchors(sizes, 9, 4.0, 50, seed=3), recall(sizes, ANCHORS, 4.0)
    assert not np.array_equal(anchors, fit_anchors(sizes, 9, 4.0, 50, seed=4))
    for chunk in (7, 999, 5000):
        monkeypatch.setattr(anchor_fit, "_CHUNK", chunk)
        np.testing.assert_array_equal(fit_anchors(sizes, 9, 4.0, 50, seed=3), anchors)
        assert recall(sizes, ANCHORS, 4.0) == fit


def test_as_many_objects_as_coco_take_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sizes, started = mixed(860_000), time.perf_counter()
    anchors = fit_anchors(sizes, 9, 4.0, 100)
    assert recall(sizes, anchors, 4.0).recall > 0.9
    assert "fitted to 20000 of 8" in caplog.text and "drawn by the seed" in caplog.text
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize(("sizes", "message"), [
    (np.zeros((0, 2)), "anchors: found no objects; accepted: at least one"),
    (np.array([[5.0, np.nan], [3.0, 3.0]]), "found 1 of 2 objects with a side that is not a number above 0"),
    (np.array([[5.0, 0.0], [3.0, 3.0]]), "found 1 of 2 objects with a side that is not a number above 0"),
    (np.array([[5.0, 6.0]] * 50 + [[7.0, 7.0]]), "found 2 different object sizes of at least 2 px; accepted: at least"),
    (np.ones((50, 2)), "found 0 different object sizes"),
], ids=["none", "nan", "zero", "alike", "specks"])
def test_what_cannot_be_fitted_is_one_sentence(sizes: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fit_anchors(sizes, 3, 4.0)
    assert "\n" not in str(caught.value)
