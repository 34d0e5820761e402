"""What a split holds beside boxes: masks with their parts and holes, key points, and which of these stand far off."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from yolov7.data.image_set import ImageSet
from yolov7.data.objects import Objects
from yolov7.data.outlines import hole_mask
from yolov7.data.rasterize import has_repeated_points, rings_of

FAR = 0.5  # of the longer side of a box: key points that lie further outside are listed


@dataclass(frozen=True)
class ShapeFacts:
    """Numbers of objects, but for those of key points themselves."""

    masks: int = 0
    several_parts: int = 0
    holes: int = 0
    without_mask: int = 0
    with_keypoints: int = 0
    without_keypoints: int = 0
    labelled: int = 0  # key points
    occluded: int = 0  # of them
    far_off: tuple[str, ...] = ()  # key points far outside of the box of their object

    def lines(self) -> list[str]:
        """For people: what there is of each kind."""
        found = []
        if self.masks:
            found.append(f"masks: {self.masks:,} objects, {self.several_parts:,} of several parts, {self.holes:,} with "
                         f"holes; without one, so that a mask term leaves them out: {self.without_mask:,}")
        if self.with_keypoints:
            found.append(f"key points: {self.with_keypoints:,} objects, {self.labelled:,} labelled, {self.occluded:,} "
                         f"of them occluded; objects without one: {self.without_keypoints:,}")
        elif self.without_keypoints:
            found.append("key points: announced, but not one is labelled")
        if self.far_off:
            found.append(f"key points that lie further outside of their box than {FAR:.0%} of its longer side: "
                         f"{len(self.far_off)}")
        return found


def shape_facts(image_set: ImageSet) -> ShapeFacts:
    """Count masks and key points of the objects that are no crowds."""
    chosen = np.flatnonzero(~image_set.objects.crowd)
    objects = image_set.objects[chosen]
    masks = int(objects.has_polygon.sum())
    visibility = objects.keypoints[..., 2]  # [N, K]
    having = int((visibility > 0).any(1).sum())
    several, holes = _rings(objects)
    return ShapeFacts(
        masks, several, holes, len(objects) - masks, having, len(objects) - having if visibility.size else 0,
        int((visibility > 0).sum()), int((visibility == 1).sum()), _far_off(image_set, objects, chosen))


def _rings(objects: Objects) -> tuple[int, int]:
    """How many objects have several parts, and how many have holes."""
    several = holes = 0
    for row in np.flatnonzero(has_repeated_points(objects.polygons)).tolist():
        are_holes = hole_mask(rings_of(objects.polygons.of(row)))
        several += are_holes.count(False) > 1
        holes += any(are_holes)
    return several, holes


def _far_off(image_set: ImageSet, objects: Objects, rows: np.ndarray) -> tuple[str, ...]:
    if not objects.keypoints.size:
        return ()
    points, boxes = objects.keypoints[..., :2], objects.boxes[:, None]  # [N, K, 2], [N, 1, 4]
    distance = np.maximum(boxes[..., :2] - points, points - boxes[..., 2:]).max(-1)  # [N, K]; negative inside
    limit = FAR * (boxes[..., 2:] - boxes[..., :2]).max(-1)
    found = []
    for row, point in np.argwhere((objects.keypoints[..., 2] > 0) & (distance > limit)).tolist():
        image = int(np.searchsorted(image_set.offsets, rows[row], side="right")) - 1
        number = int(rows[row] - image_set.offsets[image]) + 1
        found.append(f"{os.path.basename(image_set.paths[image])}, object {number}: {image_set.keypoint_names[point]} "
                     f"lies {distance[row, point]:.0f} px outside")
    return tuple(found)
