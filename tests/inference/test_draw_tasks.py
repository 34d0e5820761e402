"""Masks and skeletons on images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from yolov7.inference.draw import class_colour, draw_instances
from yolov7.inference.draw_masks import OPACITY, draw_masks
from yolov7.inference.draw_skeletons import LEFT, MIDDLE, RIGHT, draw_skeletons, side_of
from yolov7.keypoints import COCO_PERSON
from yolov7.masks import masks_from
from yolov7.structures import Instances

NAMES = ("person", "bicycle")
GREY = 90
BLANK = ("", "")  # labels are tested by themselves


def grey(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def with_masks(*windows: tuple[int, int, int, int], labels: tuple[int, ...] = (), size: tuple[int, int] = (120, 160),
               pixels: list[np.ndarray] | None = None) -> Instances:
    """Objects whose masks fill their windows, if no pixels are given."""
    filled = [np.ones((bottom - top, right - left), bool) for left, top, right, bottom in windows]
    masks = masks_from(list(windows), pixels or filled, size)
    count = len(windows)
    return Instances(torch.tensor(windows, dtype=torch.float32).reshape(-1, 4), torch.full((count,), 0.9),
                     torch.tensor(labels or (0,) * count, dtype=torch.int64), NAMES, {"masks": masks})


def blended(colour: tuple[int, int, int]) -> np.ndarray:
    return np.round((1 - OPACITY) * GREY + OPACITY * np.array(colour))


def test_a_mask_is_filled_and_has_a_line() -> None:
    image = grey()
    drawn = draw_masks(image, with_masks((20, 30, 80, 90)), BLANK)
    assert (image == GREY).all() and drawn.dtype == np.uint8
    assert np.abs(drawn[60, 50] - blended(class_colour(0))).max() <= 1
    for y, x in ((30, 50), (89, 50), (60, 20), (60, 79)):
        assert tuple(drawn[y, x]) == class_colour(0)
    outside = np.ones(image.shape[:2], bool)
    outside[30:90, 20:80] = False
    assert (drawn[outside] == GREY).all()


def test_only_pixels_of_the_mask_are_painted() -> None:
    pixels = np.ones((60, 60), bool)
    pixels[20:40, 20:40] = False  # a hole
    drawn = draw_masks(grey(), with_masks((20, 30, 80, 90), pixels=[pixels]), BLANK)
    assert (drawn[50:70, 40:60] == GREY).all()
    assert tuple(drawn[49, 50]) == class_colour(0)  # its edge


@pytest.mark.parametrize("order", [1, -1])
def test_small_objects_are_in_front_whatever_their_scores(order: int) -> None:
    windows = [(10, 10, 110, 110), (40, 40, 70, 70)][::order]
    drawn = draw_masks(grey(), with_masks(*windows, labels=(0, 1)[::order]), BLANK)
    assert np.abs(drawn[55, 55] - blended(class_colour(1))).max() <= 1
    assert tuple(drawn[40, 55]) == class_colour(1)
    assert np.abs(drawn[20, 20] - blended(class_colour(0))).max() <= 1


def test_objects_of_a_class_that_touch_can_be_told_apart() -> None:
    drawn = draw_masks(grey(), with_masks((10, 10, 60, 60), (60, 10, 110, 60), (10, 60, 60, 110)), BLANK)
    fillings = {tuple(drawn[y, x]) for y, x in ((30, 30), (30, 90), (90, 30))}
    assert len(fillings) == 3
    assert all(tuple(drawn[30, x]) == class_colour(0) for x in (59, 60))


def test_lines_grow_with_the_image() -> None:
    widths = []
    for side in (100, 1000, 4000):
        found = with_masks((0, 0, side, side // 2), size=(side, side))
        drawn = draw_masks(grey(side, side), found, BLANK)
        widths.append(int((drawn[: side // 4, side // 2] == class_colour(0)).all(-1).sum()))
    assert widths[0] == 1 and widths == sorted(widths) and widths[2] > 8


def test_masks_with_labels() -> None:
    found = with_masks((20, 40, 80, 90))
    drawn = draw_masks(grey(), found, NAMES, with_scores=True)
    assert (drawn[25:40, 20:60] == class_colour(0)).all(-1).sum() > 50  # a plate above
    assert (draw_masks(grey(), found, BLANK)[:40] == GREY).all()


def test_objects_without_a_mask_have_their_box() -> None:
    none = [np.ones((0, 0), bool), np.zeros((40, 40), bool)]
    empty = replace(with_masks((0, 0, 0, 0), (100, 10, 140, 50), pixels=none),
                    boxes=torch.tensor([[20.0, 30, 80, 90], [100, 10, 140, 50]]))
    drawn = draw_masks(grey(), empty, BLANK)
    assert tuple(drawn[60, 20]) == tuple(drawn[10, 120]) == class_colour(0) and (drawn[60, 50] == GREY).all()
    plain = replace(empty, extra={})
    assert np.array_equal(draw_masks(grey(), plain, NAMES), draw_instances(grey(), plain, NAMES))
    assert (draw_masks(grey(), with_masks(), NAMES) == GREY).all()


# --- skeletons ---------------------------------------------------------------------------------------------------


def person(points: dict[str, tuple[float, float, float]], box: tuple[float, float, float, float] = (40, 10, 120, 110),
           ) -> Instances:
    column = torch.zeros(1, 17, 3)
    for name, values in points.items():
        column[0, COCO_PERSON.names.index(name)] = torch.tensor(values)
    return Instances(torch.tensor([box]), torch.tensor([0.9]), torch.tensor([0]), NAMES, {"keypoints": column})


def test_points_limbs_and_sides() -> None:
    found = person({"left_shoulder": (60, 30, 0.9), "left_elbow": (60, 60, 0.8), "right_shoulder": (100, 30, 0.9)})
    drawn = draw_skeletons(grey(), found, BLANK)
    assert tuple(drawn[45, 60]) == LEFT and tuple(drawn[30, 80]) == MIDDLE  # between the shoulders
    assert tuple(drawn[30, 100]) == RIGHT and tuple(drawn[60, 60]) == LEFT
    assert (drawn < GREY - 20).all(-1).any() and tuple(drawn[10, 80]) == class_colour(0)  # a dark border; the box


def test_what_is_not_seen_is_not_drawn() -> None:
    seen = person({"left_shoulder": (60, 30, 0.5), "left_elbow": (60, 60, 0.49), "nose": (float("nan"), 5, 0.9)})
    drawn = draw_skeletons(grey(), seen, BLANK)
    assert tuple(drawn[30, 60]) == LEFT and (drawn[60, 60] == GREY).all() and (drawn[45, 60] == GREY).all()
    nothing = person({})
    assert np.array_equal(draw_skeletons(grey(), nothing, NAMES), draw_instances(grey(), nothing, NAMES))
    far = person({"left_shoulder": (-1e30, 30, 0.9), "left_elbow": (1e12, 60, 0.9)})
    assert draw_skeletons(grey(), far, BLANK).shape == (120, 160, 3)


def test_each_skeleton_belongs_to_its_own_box() -> None:
    """Whatever the order of the instances, and for rows that are selected."""
    first = person({"nose": (20, 20, 0.9)}, (10, 10, 50, 50))
    second = person({"left_eye": (100, 80, 0.9)}, (80, 60, 140, 110))
    both = Instances(torch.cat((first.boxes, second.boxes)), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), NAMES,
                     {"keypoints": torch.cat((first.extra["keypoints"], second.extra["keypoints"]))})
    drawn = draw_skeletons(grey(), both, BLANK)
    assert tuple(drawn[20, 20]) == MIDDLE and tuple(drawn[80, 100]) == LEFT
    only = draw_skeletons(grey(), both[torch.tensor([False, True])], BLANK)
    assert tuple(only[80, 100]) == LEFT and tuple(only[60, 110]) == class_colour(1) and (only[:55] == GREY).all()


def test_limbs_and_names_come_from_the_model() -> None:
    column = torch.tensor([[[30.0, 30, 0.9], [90, 30, 0.9], [90, 90, 0.9]]])
    found = Instances(torch.tensor([[10.0, 10, 150, 110]]), torch.tensor([0.9]), torch.tensor([0]), NAMES,
                      {"keypoints": column}, {"keypoints": ("tip", "right-arm", "end R"), "limbs": ((1, 2),)})
    drawn = draw_skeletons(grey(), found, BLANK)
    assert tuple(drawn[60, 90]) == RIGHT and (drawn[30, 60] == GREY).all() and tuple(drawn[30, 30]) == MIDDLE
    unknown = draw_skeletons(grey(), replace(found, facts={}), BLANK)
    assert (unknown[60, 90] == GREY).all() and tuple(unknown[30, 90]) == MIDDLE


def test_lines_are_in_proportion_to_the_image_and_to_small_objects() -> None:
    def width(side: int, share: float) -> int:
        end = share * side
        found = person({"left_shoulder": (end / 2, 0.2 * end, 0.9), "left_elbow": (end / 2, 0.8 * end, 0.9)},
                       (0, 0, end, end))
        return int((draw_skeletons(grey(side, side), found, BLANK)[round(end / 2)] == LEFT).all(-1).sum())

    assert width(200, 0.9) < width(1000, 0.9) < width(4000, 0.9)
    assert width(1000, 0.05) < width(1000, 0.9)


@pytest.mark.parametrize(("name", "side"), [
    ("left_eye", "left"), ("Right Ear", "right"), ("eye_l", "left"), ("R-hip", "right"), ("nose", ""), ("tail", ""),
    ("bright", "")])
def test_sides_of_points(name: str, side: str) -> None:
    assert side_of(name) == side
