"""Instance segmentation: boxes, classes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yolov7.config import InputError
from yolov7.inference.draw_masks import draw_masks
from yolov7.inference.mask_assembly import MODES, finish_masks, mask_finish
from yolov7.model.heads.segment import SegmentHead
from yolov7.tasks.base import Task, Training, register_task

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet


def _training() -> Training:
    from yolov7.data.fields import known_masks_field, mask_field
    from yolov7.evaluation.evaluate import segment_evaluators
    from yolov7.loss.criterion import assign_positives
    from yolov7.loss.masks import MASK_TERMS

    return Training(MASK_TERMS, assign_positives, segment_evaluators, (mask_field(), known_masks_field()),
                    finish=mask_finish("fine"), adapt=check_polygons)


def check_polygons(arguments: Mapping[str, Any], train_set: ImageSet) -> Mapping[str, Any]:
    """Nothing of the head follows from the data; without a single polygon there is nothing to learn masks from."""
    if len(train_set.objects) and not train_set.objects.has_polygon.any():
        raise InputError(f"{train_set.split}: none of its {len(train_set.objects)} objects has a polygon, so masks "
                         "cannot be learned; accepted: polygons or run-length masks; for boxes alone take a model like "
                         "yolov7-tiny (--cfg)")
    return {}


SEGMENT = register_task(Task("segment", SegmentHead, _training, finish_masks, draw_masks,
                             {mode: mask_finish(mode) for mode in MODES}))
