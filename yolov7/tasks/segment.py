"""Instance segmentation: boxes, classes and masks."""

from __future__ import annotations

from yolov7.inference.mask_assembly import finish_masks, mask_finish
from yolov7.model.heads.segment import SegmentHead
from yolov7.tasks.base import Task, Training, register_task


def _training() -> Training:
    from yolov7.evaluation.evaluate import segment_evaluators
    from yolov7.loss.criterion import DETECTION_TERMS, assign_positives

    return Training(DETECTION_TERMS, assign_positives, segment_evaluators, finish=mask_finish("fine"))


SEGMENT = register_task(Task("segment", SegmentHead, _training, finish_masks))
