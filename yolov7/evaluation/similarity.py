"""How alike detections and objects are by their masks and by their key points.

The evaluators of single images take one of these instead of the boxes. Several evaluators share one: what it finds of
an image is kept until the next one comes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from yolov7.data.outlines import segmentation_of
from yolov7.evaluation.coco_scoring import KEYPOINTS, MASKS, segmentation_rle
from yolov7.evaluation.comparison import Comparison, Similarity
from yolov7.keypoints import object_keypoint_similarity
from yolov7.masks import Rle, rle_iou

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.data.objects import Objects
    from yolov7.structures import Instances

class _Shared(Similarity):
    """One that remembers the last image."""

    def __init__(self) -> None:
        self._last: tuple[Instances, int, Comparison] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}

    def compare(self, found: Instances, image_set: ImageSet, index: int) -> Comparison:
        """The native detections of an image beside its objects."""
        if self._last is None or self._last[0] is not found or self._last[1] != index:
            boxes = super().compare(found, image_set, index)
            self._last = found, index, self._compared(boxes, found, image_set, index)
        return self._last[2]

    def _compared(self, boxes: Comparison, found: Instances, image_set: ImageSet, index: int) -> Comparison:
        raise NotImplementedError


class MaskSimilarity(_Shared):
    """The IoU of masks; an object of which only the box is known has its box for a mask."""

    kind, word = MASKS, "mask IoU"

    def _compared(self, boxes: Comparison, found: Instances, image_set: ImageSet, index: int) -> Comparison:
        height, width = image_set.sizes[index].tolist()
        masks, truth = found.extra["masks"], true_rles(image_set.objects_of(index), (height, width))
        return replace(boxes, similarity=rle_iou(masks.rles, truth).astype(np.float32), shapes=(masks, truth))


class KeypointSimilarity(_Shared):
    """OKS, the similarity of key points, with the sigmas of the data set."""

    kind, word = KEYPOINTS, "OKS"

    def _compared(self, boxes: Comparison, found: Instances, image_set: ImageSet, index: int) -> Comparison:
        objects, points = image_set.objects_of(index), found.extra["keypoints"]
        oks = object_keypoint_similarity(points.double().numpy(), objects.keypoints, objects.boxes, objects.areas,
                                         image_set.keypoint_layout.sigmas)
        return replace(boxes, similarity=oks.astype(np.float32), shapes=(points, objects.keypoints))


def true_rles(objects: Objects, size: tuple[int, int]) -> list[Rle]:
    """The masks of the objects of an image of this height and width, as run lengths."""
    rles = []
    for polygon, box in zip(objects.polygons, objects.boxes.astype(np.float64).tolist(), strict=True):
        left, top, right, bottom = box
        of_box = [[left, top, right, top, right, bottom, left, bottom]]
        rles.append(segmentation_rle(segmentation_of(polygon, size)[0] if len(polygon) else of_box, size))
    return rles
