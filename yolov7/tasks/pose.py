"""Pose: boxes, classes and key points."""

from __future__ import annotations

from yolov7.model.heads.pose import PoseHead, PublishedPoseHead
from yolov7.tasks.base import Task, Training, register_task


def _training() -> Training:
    from yolov7.evaluation.evaluate import box_evaluators
    from yolov7.loss.criterion import DETECTION_TERMS, assign_positives

    return Training(DETECTION_TERMS, assign_positives, box_evaluators)


POSE = register_task(Task("pose", PoseHead, _training))
PUBLISHED_POSE = register_task(Task("pose", PublishedPoseHead, _training))
