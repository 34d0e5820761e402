"""Layouts of key points: what names say of a mirrored image, what is COCO's, and how alike two sets of points are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from yolov7.keypoints import (
    COCO_PERSON,
    DEFAULT_SIGMA,
    complete_layout,
    layout_of,
    mirrored_order,
    object_keypoint_similarity,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "pose" / "oks.json").read_text())


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


@pytest.mark.parametrize("image", GOLDEN["oks"])
def test_golden_pose_post_oks(image: str) -> None:
    objects = [a for a in GOLDEN["ground_truth"]["annotations"] if str(a["image_id"]) == image]
    found = [d for d in GOLDEN["detections"] if str(d["image_id"]) == image]
    found = [found[place] for place in GOLDEN["sorted_detections"][image]]
    boxes = np.array([a["bbox"] for a in objects]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    points, truth = (np.array([row["keypoints"] for row in rows]).reshape(-1, 17, 3) for rows in (found, objects))
    oks = object_keypoint_similarity(points, truth, boxes, np.array([a["area"] for a in objects]), COCO_PERSON.sigmas)
    if objects and found:
        np.testing.assert_allclose(oks, GOLDEN["oks"][image], rtol=1e-9, atol=1e-300)
    else:
        assert oks.shape == (len(found), len(objects)) and not any(GOLDEN["oks"][image])
