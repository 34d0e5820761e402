"""Boxes and labels on images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov7.inference import lettering
from yolov7.inference.draw import class_colour, draw_boxes, draw_instances, draw_labels
from yolov7.structures import Instances

NAMES = ("person", "bicycle", "car")
GREY = 90


def grey_image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Instances:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances(table[:, :4], table[:, 4], table[:, 5].long())


def changed(image: np.ndarray) -> np.ndarray:
    return (image != GREY).any(axis=-1)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (48, 64), (426, 640), (4000, 6000), (20, 3000), (1, 1)])
def test_the_rectangle_stands_where_the_box_is(height: int, width: int) -> None:
    box = (0.25 * width, 0.3 * height, 0.75 * width, 0.9 * height)
    image = grey_image(height, width)
    drawn = draw_instances(image, detections((*box, 0.87, 1)), NAMES)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert not changed(image).any()
    bottom, middle = min(round(box[3]), height - 1), round((box[0] + box[2]) / 2 - 0.1)
    assert tuple(drawn[bottom, min(middle, width - 1)]) == class_colour(1)
    assert not changed(drawn)[int(0.95 * height) + 1 :].any()


def test_line_and_letters_grow_with_the_image() -> None:
    thick, plates = [], []
    for height, width in ((120, 160), (480, 640), (3000, 4000)):
        row = (0.2 * width, 0.5 * height, 0.9 * width, 0.9 * height, 0.5, 0)
        drawn = draw_instances(grey_image(height, width), detections(row), NAMES)
        thick.append(changed(drawn)[round(0.8 * height) :, width // 2].sum())
        plates.append(changed(drawn)[: round(0.5 * height) - thick[-1]].any(axis=1).sum())
    assert thick == sorted(set(thick)) or thick[0] == 1
    assert thick[2] >= 10
    assert plates == sorted(set(plates))
    assert plates[0] >= 8


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_labels_stay_inside(corner: tuple[int, int]) -> None:
    height, width = 300, 400
    left, top = corner[0] * (width - 20), corner[1] * (height - 20)
    box = np.array([[left, top, left + 20, top + 20]])
    with_text = draw_boxes(grey_image(height, width), box, np.array([0]), NAMES)
    text_pixels = (with_text > 130).all(axis=-1)
    assert text_pixels.sum() > 20
    plate = changed(with_text).sum()
    centre = draw_boxes(grey_image(height, width), np.array([[150, 150, 170, 170]]), np.array([0]), NAMES)
    assert plate > 0.6 * changed(centre).sum()


def test_boxes_partly_and_wholly_outside() -> None:
    rows = ((-50.0, -40.0, 30.0, 30.0, 0.9, 0), (150.0, 90.0, 1e9, 1e9, 0.8, 1), (-90.0, 0.0, -60.0, 50.0, 0.7, 2))
    drawn = draw_instances(grey_image(100, 200), detections(*rows), NAMES)
    assert tuple(drawn[30, 10]) == class_colour(0)
    assert tuple(drawn[99, 175]) == class_colour(1)
    only_outside = draw_instances(grey_image(100, 200), detections(rows[2]), NAMES)
    assert not changed(only_outside).any()


def test_no_detections_is_a_copy() -> None:
    image = grey_image(40, 60)
    drawn = draw_instances(image, detections(), NAMES)
    assert (drawn == image).all()
    assert not np.shares_memory(drawn, image)
    assert (draw_boxes(image, np.zeros((0, 4)), np.zeros(0, np.int64), NAMES) == image).all()


def test_the_best_detection_is_in_front() -> None:
    rows = ((50.0, 60.0, 150.0, 160.0, 0.9, 0), (50.0, 60.0, 150.0, 160.0, 0.3, 2))
    drawn = draw_instances(grey_image(200, 300), detections(*rows), NAMES)
    assert tuple(drawn[160, 100]) == class_colour(0)


def test_a_class_without_a_name_is_shown_by_its_number() -> None:
    boxes = np.array([[50.0, 60.0, 150.0, 160.0]])
    unnamed = draw_boxes(grey_image(200, 300), boxes, np.array([7]), ())
    named = draw_boxes(grey_image(200, 300), boxes, np.array([7]), ("",) * 7 + ("7",))
    assert (unnamed == named).all()


def test_scores_are_shown_with_two_digits() -> None:
    boxes, labels = np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0])
    scored = draw_boxes(grey_image(200, 300), boxes, labels, ("car",), np.array([0.874]))
    written = draw_boxes(grey_image(200, 300), boxes, labels, ("car 0.87",))
    assert (scored == written).all()
    found = detections((*boxes[0], 0.874, 0))
    assert (draw_instances(grey_image(200, 300), found, ("car",)) == scored).all()
    unscored = draw_instances(grey_image(200, 300), found, ("car",), with_scores=False)
    assert (unscored == draw_boxes(grey_image(200, 300), boxes, labels, ("car",))).all()


def test_low_scores_keep_their_first_digit() -> None:
    boxes, labels = np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0])
    for score, text in ((0.01, "0.01"), (0.0043, "0.004"), (0.00012, "0.0001"), (0.0, "0")):
        scored = draw_boxes(grey_image(200, 300), boxes, labels, ("car",), np.array([score]))
        assert (scored == draw_boxes(grey_image(200, 300), boxes, labels, (f"car {text}",))).all()


def test_a_class_without_a_text_has_no_label() -> None:
    boxes, labels = np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0])
    plain = draw_boxes(grey_image(200, 300), boxes, labels, ("",), np.array([0.5]))
    assert not changed(plain)[:59].any() and changed(plain)[60, 60]
    assert (draw_labels(plain, boxes, labels, ("car",), np.array([0.5]))
            == draw_boxes(grey_image(200, 300), boxes, labels, ("car",), np.array([0.5]))).all()


def test_lines_may_be_bolder() -> None:
    boxes, labels = np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0])
    thin, bold = (changed(draw_boxes(grey_image(200, 300), boxes, labels, ("",), min_line=line)).sum()
                  for line in (1, 2))
    assert bold > 1.5 * thin


def test_views_and_read_only_images_are_drawn_on() -> None:
    image = grey_image(100, 120)[:, ::-1]
    image.flags.writeable = False
    assert changed(draw_instances(image, detections((10, 40, 90, 90, 0.5, 0)), NAMES)).any()


def test_colours_are_stable_and_distinct() -> None:
    colours = np.array([class_colour(label) for label in range(80)], float)
    assert (colours == [class_colour(label) for label in range(80)]).all()
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e3 * np.eye(80)
    assert distance.min() > 15
    assert distance[:8, :8].min() > 100


@pytest.mark.parametrize("name", ["Größe", "кошка", "γάτα"])
def test_other_scripts_are_drawn_where_opencv_has_ascii_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV before 5 draws them as question marks."""
    monkeypatch.setattr(lettering, "DRAWS_UNICODE", False)
    monkeypatch.setattr(lettering.cv2, "putText", lambda *_: pytest.fail("not by OpenCV"))
    image, box = np.zeros((120, 160, 3), np.uint8), np.array([[20, 60, 90, 100]])
    drawn = draw_boxes(image, box, np.array([0]), [name])
    other = draw_boxes(image, box, np.array([0]), ["é" * len(name)])
    assert (drawn != other).any() and (drawn[:60] != 0).any()


@pytest.mark.parametrize("unicode", [True, False])
def test_what_is_no_letter_never_reaches_a_font(unicode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "DRAWS_UNICODE", unicode)
    texts: list[str] = []
    monkeypatch.setattr(lettering.cv2, "getTextSize", lambda text, *_: (texts.append(text), ((10, 10), 3))[1])
    for name in ("a\ud800", "a\x1b[0m\n", "x" * 10**6):
        draw_boxes(np.zeros((120, 160, 3), np.uint8), np.array([[20, 60, 90, 100]]), np.array([0]), [name])
    assert texts[0] == "a\\ud800" and "\x1b" not in texts[1] and len(texts[2]) <= 200
