"""Where labels stand: within the image, never on each other, beside what they name."""

from __future__ import annotations

import time

import numpy as np
import pytest

from yolov7.inference import labels
from yolov7.inference.labels import MAX_HIDDEN, place_labels
from yolov7.inference.lettering import Plate, plate_of

Placed = list[tuple[Plate, int, int] | None]


def random_boxes(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    r = np.random.RandomState(seed)
    height, width = size
    corners = np.sort(r.rand(count, 2, 2) * (width - 1, height - 1), axis=1)
    small = corners[:, :1] + r.rand(count, 1, 2) * 40  # most objects are small
    corners[::2, 1:] = np.minimum(small, (width - 1, height - 1))[::2]
    return corners.reshape(count, 4).round().astype(np.int64)


def choices_of(count: int, seed: int = 0) -> list[list[Plate]]:
    texts = ["cat 0.91", "traffic light", "person 0.25", "tv"]
    plates = [[plate_of(text, scale) for scale in (0.5, 0.35)] for text in texts]
    return [plates[index] for index in np.random.RandomState(seed).randint(0, len(texts), count)]


def rectangles(placed: Placed) -> np.ndarray:
    return np.array([(x, y, x + plate.width, y + plate.height) for plate, x, y in filter(None, placed)]).reshape(-1, 4)


def common(plates: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Common pixels of each plate and each box."""
    sides = np.minimum(plates[:, None, 2:], boxes[None, :, 2:]) - np.maximum(plates[:, None, :2], boxes[None, :, :2])
    return sides.clip(0).prod(axis=2)


@pytest.mark.parametrize("size", [(480, 640), (300, 400), (640, 200), (60, 900)])
@pytest.mark.parametrize("count", [1, 5, 30, 120])
def test_no_label_covers_another_or_leaves_the_image(size: tuple[int, int], count: int) -> None:
    for seed in range(5):
        boxes = random_boxes(count, size, seed)
        placed = place_labels(boxes, choices_of(count, seed), size)
        assert len(placed) == count
        found = rectangles(placed)
        assert (found[:, :2] >= 0).all() and (found[:, 2:] <= size[::-1]).all()
        assert (np.triu(common(found, found), 1) == 0).all()
        outer = boxes + (0, 0, 1, 1)
        assert (common(found, outer) <= MAX_HIDDEN * (outer[:, 2:] - outer[:, :2]).prod(axis=1)).all()


def test_few_objects_all_have_a_label_of_full_size() -> None:
    boxes = np.array([(50, 60, 150, 160), (300, 60, 420, 300), (50, 250, 200, 400)])
    placed = place_labels(boxes, choices_of(3), (480, 640))
    assert all(place and place[0].scale == 0.5 for place in placed)
    for place, (left, top, *_) in zip(placed, boxes.tolist(), strict=True):
        assert place and (place[1], place[2] + place[0].height) == (left, top)  # above its box


@pytest.mark.parametrize(("box", "others", "expected"), [
    ((100, 0, 300, 200), [], "inside"),  # no room above
    ((100, 100, 300, 200), [(90, 60, 310, 99)], "inside"),  # an object is above
    ((100, 100, 120, 110), [(90, 60, 200, 99)], "below"),  # that, and it is too small to hold a label
    ((0, 0, 20, 29), [], "beside"),  # as high as the image
], ids=["edge", "neighbour", "small", "high"])
def test_a_label_goes_where_room_is(box: tuple[int, ...], others: list[tuple[int, ...]], expected: str) -> None:
    plate = plate_of("cat 0.91", 0.5)
    boxes = np.array([box, *others])
    (place, *_) = place_labels(boxes, [[plate], *[[]] * len(others)], (30 if expected == "beside" else 480, 640))
    assert place
    _, x, y = place
    left, top, right, bottom = box
    found = "below" if y > bottom else "beside" if x > right else "inside" if y >= top else "above"
    assert found == expected


def test_letters_become_smaller_before_a_label_is_left_out() -> None:
    large, small = plate_of("cat", 0.5), plate_of("cat", 0.3)
    size = (small.height + 2, large.width + 6)  # only the small one goes above, the large one nowhere
    box = np.array([(0, small.height, large.width, size[0] - 1)])
    assert place_labels(box, [[large, small]], size) == [(small, 0, 0)]
    assert place_labels(box, [[large]], size) == [None]


def test_the_best_come_first() -> None:
    """Of two objects at one place the first one keeps its label where there is room for one."""
    plate = plate_of("cat", 0.5)
    size = (plate.height + 3, plate.width)
    boxes = np.array([(0, plate.height, plate.width - 1, plate.height + 2)] * 2)
    first, second = place_labels(boxes, [[plate], [plate]], size)
    assert first is not None and second is None


def test_nothing_to_place() -> None:
    assert place_labels(np.zeros((0, 4), np.int64), [], (10, 10)) == []
    assert place_labels(np.array([(1, 1, 5, 5)]), [[]], (10, 10)) == [None]


def test_boxes_may_be_judged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with more than memory should hold at once."""
    boxes, choices = random_boxes(40, (300, 400), 3), choices_of(40)
    choices[5], choices[6] = [], choices[6][:1]
    whole = place_labels(boxes, choices, (300, 400))
    monkeypatch.setattr(labels, "AT_ONCE", 1500)  # three boxes
    assert place_labels(boxes, choices, (300, 400)) == whole
    assert whole[5] is None and sum(place is not None for place in whole) > 20


def test_many_objects_take_little_time() -> None:
    boxes = random_boxes(300, (480, 640), 0)
    choices = choices_of(300)
    started = time.perf_counter()
    place_labels(boxes, choices, (480, 640))
    assert time.perf_counter() - started < 2  # about 0.05 s
