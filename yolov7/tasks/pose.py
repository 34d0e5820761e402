"""Pose: boxes, classes and key points."""

from __future__ import annotations

from yolov7.inference.pose import finish_keypoints
from yolov7.model.heads.pose import PoseHead
from yolov7.tasks.base import Task, Training, register_task


def _training() -> Training:
    from yolov7.evaluation.evaluate import pose_evaluators
    from yolov7.loss.criterion import DETECTION_TERMS, assign_positives

    return Training(DETECTION_TERMS, assign_positives, pose_evaluators)


POSE = register_task(Task("pose", PoseHead, _training, finish_keypoints))
