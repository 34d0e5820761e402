"""Pose: boxes, classes and key points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yolov7.config import InputError
from yolov7.inference.draw_skeletons import draw_skeletons
from yolov7.inference.pose import finish_keypoints
from yolov7.keypoints import COCO_PERSON
from yolov7.model.heads.pose import PoseHead, PublishedPoseHead
from yolov7.tasks.base import Task, Training, register_task

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet


def _training() -> Training:
    return _training_with(_adapt)


def _published_training() -> Training:
    return _training_with(_check_points)


def _training_with(adapt: Any) -> Training:
    from yolov7.data.fields import keypoint_field
    from yolov7.evaluation.evaluate import pose_evaluators
    from yolov7.loss.criterion import assign_positives
    from yolov7.loss.keypoints import KEYPOINT_TERMS

    return Training(KEYPOINT_TERMS, assign_positives, pose_evaluators, (keypoint_field(),), adapt=adapt,
                    demo="stick-figures")


def _adapt(arguments: Mapping[str, Any], train_set: ImageSet) -> Mapping[str, Any]:
    """The key points of the data set."""
    if not train_set.keypoint_names:
        raise InputError(f"{train_set.split}: its objects have no key points, so a pose cannot be learned; accepted: "
                         "COCO's `keypoints`, or rows of label files with kpt_shape in the data set's YAML; for boxes "
                         "alone take a model like yolov7-tiny (--cfg)")
    return train_set.keypoint_layout.arguments()


def _check_points(arguments: Mapping[str, Any], train_set: ImageSet) -> Mapping[str, Any]:
    """The published head has 17 key points, those of a person."""
    _adapt(arguments, train_set)
    if (found := len(train_set.keypoint_names)) != len(COCO_PERSON):
        raise InputError(f"{train_set.split}: its objects have {found} key points; the published head has "
                         f"{len(COCO_PERSON)}: take a model with the head PoseHead, such as yolov7-tiny-pose (--cfg)")
    return {}


POSE = register_task(Task("pose", PoseHead, _training, finish_keypoints, draw_skeletons))
PUBLISHED_POSE = register_task(Task("pose", PublishedPoseHead, _published_training, finish_keypoints, draw_skeletons))
