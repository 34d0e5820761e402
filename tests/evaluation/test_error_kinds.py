"""Errors by their kinds: crafted cases, a plain computation, and the official score."""

from __future__ import annotations

import numpy as np
import pytest

from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.confusion import ConfusionExamples, ConfusionMatrix
from yolov7.evaluation.error_kinds import (
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    KINDS,
    PLACE,
    RIGHT,
    ErrorKinds,
    average_precision,
)

OBJECT = (100.0, 100.0, 200.0, 200.0)


def moved(share: float) -> tuple[float, float, float, float]:
    """The object moved to the right by a share of its width: IoU (1 - share) / (1 + share)."""
    return (100 + 100 * share, 100, 200 + 100 * share, 200)


def image_of(found: list[tuple[tuple[float, ...], float, int]], truth: list[tuple[tuple[float, ...], int]],
             path: str = "a.jpg") -> Comparison:
    return Comparison.of([box for box, _, _ in found], [score for _, score, _ in found], [c for _, _, c in found],
                         [box for box, _ in truth], [label for _, label in truth], path)


def judged(*images: Comparison, classes: int = 2) -> ErrorKinds:
    kinds = ErrorKinds(classes)
    for image in images:
        kinds.update(image)
    return kinds


@pytest.mark.parametrize(("found", "kind"), [
    ((OBJECT, 0.9, 0), RIGHT), ((moved(0.3), 0.9, 0), RIGHT),  # IoU 0.54
    ((moved(0.4), 0.9, 0), PLACE), ((moved(0.8), 0.9, 0), PLACE),  # 0.43, 0.11
    ((OBJECT, 0.9, 1), CLASS), ((moved(0.4), 0.9, 1), BOTH), ((moved(0.9), 0.9, 0), BACKGROUND),
    ((moved(0.9), 0.9, 1), BACKGROUND)])
def test_kind_of_one_detection(found: tuple[tuple[float, ...], float, int], kind: int) -> None:
    assert judged(image_of([found], [(OBJECT, 0)])).result().kinds.tolist() == [kind]


def test_duplicates_and_the_best_of_several() -> None:
    result = judged(image_of([(moved(0.1), 0.6, 0), (OBJECT, 0.8, 0), (moved(0.2), 0.9, 0)], [(OBJECT, 0)])).result()
    assert result.kinds.tolist() == [RIGHT, DUPLICATE, DUPLICATE]  # by falling score
    assert result.counts == dict.fromkeys(KINDS, 0) | {"duplicate": 2}


def test_costs_of_one_kind_alone() -> None:
    """Ten objects, of which one is found with another class: mended, everything is right."""
    good = [image_of([(OBJECT, 0.9, 0)], [(OBJECT, 0)]) for _ in range(9)]
    wrong = judged(*good, image_of([(OBJECT, 0.8, 1)], [(OBJECT, 0)]), classes=2).result()
    costs = wrong.costs()
    assert costs["class"] == pytest.approx(1 - wrong.AP50) and pytest.approx(91 / 101) == wrong.AP50
    assert costs["missed"] == 0 and costs["place"] == 0 and wrong.counts["missed"] == 0
    displaced = judged(*good, image_of([(moved(0.5), 0.95, 0)], [(OBJECT, 0)])).result()
    assert displaced.costs()["place"] == pytest.approx(1 - displaced.AP50)
    missing = judged(*good, image_of([], [(OBJECT, 0)])).result()
    assert missing.costs()["missed"] == pytest.approx(1 - missing.AP50) and missing.counts["missed"] == 1
    for kind, extra in (("duplicate", (moved(0.1), 0.95, 0)), ("background", ((0.0, 0.0, 20.0, 20.0), 0.95, 0)),
                        ("both", (moved(0.5), 0.95, 1))):
        result = judged(*good, image_of([extra, (OBJECT, 0.99, 0)], [(OBJECT, 0)]),
                        image_of([(OBJECT, 0.5, 1)], [(OBJECT, 1)])).result()
        others = {name: cost for name, cost in result.costs().items() if name != kind}
        assert result.costs()[kind] == pytest.approx(1 - result.AP50) and result.AP50 < 1, kind
        assert all(cost == pytest.approx(0) for cost in others.values())


def random_images(seed: int, classes: int) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    images = []
    for number in range(12):
        corners = rng.uniform(0, 200, (rng.integers(0, 8), 2))
        truth = np.concatenate((corners, corners + rng.uniform(20, 80, corners.shape)), 1)
        labels = rng.integers(0, classes, len(truth))
        found = [truth + rng.normal(0, spread, truth.shape) for spread in (1, 6, 20)] + [rng.uniform(0, 250, (3, 4))]
        boxes = np.sort(np.concatenate(found).reshape(-1, 2, 2), 1).reshape(-1, 4)
        guessed = np.where(rng.random(len(boxes)) < 0.7, np.resize(np.append(labels, 0), len(boxes)),
                           rng.integers(0, classes, len(boxes)))
        images.append(Comparison.of(boxes, rng.permutation(len(boxes)) / len(boxes) * 0.9 + 0.05 + number / 1000,
                                    guessed, truth, labels, f"{number}.jpg"))
    return images


@pytest.mark.parametrize("seed", range(5))
def test_ap_is_cocos(seed: int) -> None:
    from yolov7.evaluation.coco import score_detections
    from yolov7.evaluation.coco_scoring import BOXES

    images = random_images(seed, 3)
    truth = {"images": [{"id": i, "width": 300, "height": 300} for i in range(len(images))], "annotations": [],
             "categories": [{"id": c + 1, "name": str(c)} for c in range(3)]}
    rows = []
    for number, image in enumerate(images):
        for box, label in zip(image.true_boxes.tolist(), image.true_labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, "image_id": number,
                                         "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                                         "area": (x1 - x0) * (y1 - y0), "iscrowd": 0})
        for box, score, label in zip(image.boxes.tolist(), image.scores.tolist(), image.labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            rows.append({"image_id": number, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                         "score": score})
    official = score_detections(truth, rows, range(len(images)), BOXES)
    assert pytest.approx(official.AP50, abs=1e-6) == judged(*images, classes=3).result().AP50


@pytest.mark.parametrize("seed", range(3))
def test_several_processes_and_any_order(seed: int) -> None:
    images = random_images(seed, 3)
    whole = judged(*images, classes=3).result()
    parts = [judged(*images[part::3], classes=3) for part in range(3)]
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    merged = parts[0].result()
    assert merged.counts == whole.counts and merged.examples == whole.examples
    assert merged.costs() == pytest.approx(whole.costs()) and pytest.approx(whole.AP50) == merged.AP50
    assert all(cost >= -1e-9 for cost in whole.costs().values())


@pytest.mark.parametrize("seed", range(3))
def test_against_the_plain_way(seed: int) -> None:
    """Every detection by the rules of the module's head, one after the other."""
    for image in random_images(seed, 3):
        iou, taken, expected = image.iou, set(), []
        for row in np.argsort(-image.scores, kind="stable"):
            own = [(iou[row, c], c) for c in range(len(image.true_labels)) if image.true_labels[c] == image.labels[row]]
            other = [iou[row, c] for c in range(len(image.true_labels)) if image.true_labels[c] != image.labels[row]]
            free = [(value, -c) for value, c in own if c not in taken and value >= 0.5]
            best, alien = max((value for value, _ in own), default=0.0), max(other, default=0.0)
            if free:
                taken.add(-max(free)[1])
                expected.append(RIGHT)
            elif 0.1 <= best < 0.5:
                expected.append(PLACE)
            elif alien >= 0.5:
                expected.append(CLASS)
            elif best >= 0.5:
                expected.append(DUPLICATE)
            else:
                expected.append(BACKGROUND if alien < 0.1 else BOTH)
        assert judged(image, classes=3).result().kinds.tolist() == expected


def test_nothing_at_all() -> None:
    for result in (judged().result(), judged(image_of([], [])).result()):
        assert result.AP50 == 0 and set(result.costs().values()) == {0.0} and "missed" in result.text(("a", "b"))
    only_false = judged(image_of([(OBJECT, 0.9, 0)], [])).result()
    assert only_false.kinds.tolist() == [BACKGROUND] and only_false.AP50 == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


def test_examples_are_the_most_confident() -> None:
    images = [image_of([((0, 0, 10 + n, 10), n / 100, 1)], [(OBJECT, 0)], f"{n:02}.jpg") for n in range(1, 30)]
    examples = judged(*images).result().examples
    assert [one.path for one in examples["background"]] == [f"{n:02}.jpg" for n in range(29, 21, -1)]
    assert len(examples["missed"]) == 8 and examples["missed"][0].true_label == 0


def test_examples_of_cells() -> None:
    images = random_images(0, 3)
    plain, kept, parts = ConfusionMatrix(3), ConfusionExamples(3), [ConfusionExamples(3), ConfusionExamples(3)]
    for place, image in enumerate(images):
        for matrix in (plain, kept, parts[place % 2]):
            matrix.update(image)
    parts[0].merge(parts[1])
    assert np.array_equal(plain.matrix, kept.matrix) and parts[0].examples == kept.examples
    errors = {(int(a), int(b)) for a, b in zip(*np.nonzero(plain.matrix), strict=True) if a != b}
    assert set(kept.examples) == errors and all(1 <= len(found) <= 3 for found in kept.examples.values())
