"""Layouts of key points: what names say of a mirrored image, what is COCO's, and how alike two sets of points are."""

from __future__ import annotations

import pytest

from yolov7.keypoints import COCO_PERSON, DEFAULT_SIGMA, complete_layout, layout_of, mirrored_order


def test_the_published_names_say_the_published_order() -> None:
    assert mirrored_order(COCO_PERSON.names) == COCO_PERSON.flip
    assert [COCO_PERSON.flip[place] for place in COCO_PERSON.flip] == list(range(17))


@pytest.mark.parametrize(("names", "order"), [
    (("head", "left hand", "right hand"), (0, 2, 1)),
    (("Left_Ear", "Right_Ear", "tail"), (1, 0, 2)),
    (("front-right", "back-right", "front-left", "back-left"), (2, 3, 0, 1)),
    (("head", "tail"), ()),
    (("left", "middle"), ()),
    (("left", "right", "left_most"), ()),
    ((), ()),
])
def test_names_with_left_and_right(names: tuple[str, ...], order: tuple[int, ...]) -> None:
    assert mirrored_order(names) == order
    layout = complete_layout(names)
    assert layout.flip == order and layout.sigmas == (DEFAULT_SIGMA,) * len(names) and layout.limbs == ()


def test_what_a_model_states() -> None:
    assert layout_of({}, 17) == COCO_PERSON
    assert layout_of(COCO_PERSON.arguments(), 17) == COCO_PERSON
    assert layout_of({}, 2).names == ("point0", "point1") and layout_of({}, 2).flip == ()
    stated = layout_of({"keypoints": ["a", "b"], "limbs": [[0, 1]], "flip": [1, 0], "sigmas": [0.1, 0.2]}, 2)
    assert (stated.names, stated.limbs, stated.flip, stated.sigmas) == (("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2))
