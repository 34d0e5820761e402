"""Instance segmentation by blending: boxes, classes and masks (YOLOv7-mask)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.inference.blended import SELECTIONS, finish_blended, select_all, select_kept
from yolov7.inference.draw_masks import draw_masks
from yolov7.model.heads.mask import MaskHead, MaskIoUHead
from yolov7.tasks.base import Task, Training, register_task
from yolov7.tasks.segment import check_polygons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolov7.loss.terms import Term


def _training() -> Training:
    from yolov7.loss.blends import BLEND_TERMS

    return _training_with(BLEND_TERMS)


def _training_with_iou() -> Training:
    from yolov7.loss.blends import MASK_IOU_TERMS

    return _training_with(MASK_IOU_TERMS)


def _training_with(terms: Sequence[Term]) -> Training:
    from yolov7.data.fields import grid_field, known_masks_field, semantic_field
    from yolov7.evaluation.evaluate import segment_evaluators
    from yolov7.loss.criterion import assign_positives

    return Training(tuple(terms), assign_positives, segment_evaluators,
                    (grid_field(), known_masks_field(), semantic_field()), adapt=check_polygons)


MASK = register_task(Task("segment", MaskHead, _training, finish_blended, draw_masks, select=select_kept,
                          selections=SELECTIONS))
MASK_IOU = register_task(Task("segment", MaskIoUHead, _training_with_iou, finish_blended, draw_masks, select=select_all,
                              selections=SELECTIONS))
