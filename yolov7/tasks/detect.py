"""Detection: boxes and classes."""

from __future__ import annotations

from yolov7.model.heads.anchor import AnchorHead
from yolov7.tasks.base import Task, Training, register_task


def _training() -> Training:
    from yolov7.evaluation.evaluate import box_evaluators
    from yolov7.loss.criterion import DETECTION_TERMS, assign_positives

    return Training(DETECTION_TERMS, assign_positives, box_evaluators)


DETECT = register_task(Task("detect", AnchorHead, _training))
