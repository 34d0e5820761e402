"""Pose: boxes, classes and key points."""

from __future__ import annotations

from yolov7.inference.draw_skeletons import draw_skeletons
from yolov7.model.heads.pose import PoseHead
from yolov7.tasks.base import Task, Training, register_task


def _training() -> Training:
    from yolov7.evaluation.evaluate import box_evaluators
    from yolov7.loss.criterion import DETECTION_TERMS, assign_positives

    return Training(DETECTION_TERMS, assign_positives, box_evaluators, demo="stick-figures")


POSE = register_task(Task("pose", PoseHead, _training, draw=draw_skeletons))
