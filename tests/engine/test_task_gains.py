"""Gains of a task's terms: numbers of their own, and such that follow another gain until they are given."""

from __future__ import annotations

import dataclasses

import pytest

from yolov7.config import InputError
from yolov7.config.recipe import LossConfig, Recipe
from yolov7.engine.run_config import _with_gains
from yolov7.evaluation.evaluate import box_evaluators
from yolov7.loss.criterion import assign_positives, scale_gains
from yolov7.loss.keypoints import KEYPOINT_TERMS
from yolov7.loss.masks import MASK_TERMS
from yolov7.tasks import Training

POSE = Training(KEYPOINT_TERMS, assign_positives, box_evaluators)
SEGMENT = Training(MASK_TERMS, assign_positives, box_evaluators)


def test_which_terms_have_a_key() -> None:
    assert POSE.gains() == {"keypoints": 0.1, "visibility": None}
    assert SEGMENT.gains() == {"mask": None}


def test_a_gain_that_follows_is_not_written_down() -> None:
    recipe = _with_gains(Recipe(), POSE.gains(), ["loss.cls=0.6"])
    assert recipe.loss.gains == {"keypoints": 0.1} and recipe.loss.cls == 0.6
    scaled = scale_gains(recipe.loss, 4, 1, 960)
    assert KEYPOINT_TERMS[-1].weight(scaled) == pytest.approx(0.6 * 3 / 4 / 80)
    assert KEYPOINT_TERMS[-2].weight(scaled) == 0.1


def test_a_gain_of_its_own_is_not_scaled() -> None:
    for recipe, changes in ((Recipe(), ["loss.gains.visibility=0.5"]),
                            (Recipe(loss=LossConfig(gains={"visibility": 0.5})), [])):
        settled = _with_gains(recipe, POSE.gains(), changes)
        assert settled.loss.gains == {"keypoints": 0.1, "visibility": 0.5}
        assert KEYPOINT_TERMS[-1].weight(scale_gains(settled.loss, 4, 1, 960)) == 0.5
    again = dataclasses.replace(settled)
    assert _with_gains(again, POSE.gains(), []) == settled


def test_a_gain_of_0_turns_a_term_off() -> None:
    settled = _with_gains(Recipe(), SEGMENT.gains(), ["loss.gains.mask=0"])
    assert settled.loss.gains == {"mask": 0} and MASK_TERMS[-1].weight(settled.loss) == 0


def test_terms_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"loss\.gains: .*keypoint"):
        _with_gains(Recipe(loss=LossConfig(gains={"keypoint": 1.0})), POSE.gains(), [])
    with pytest.raises(InputError, match="visibilty"):
        _with_gains(Recipe(), POSE.gains(), ["loss.gains.visibilty=1"])
