"""The objects of a picture as flat arrays: what geometry moves, without a Python loop over objects or points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolov7.data.image_set import ImageSet
from yolov7.structures import ImageMeta, Sample


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects with S outline points in all. The points of an object stand together, in the order of the objects."""

    boxes: np.ndarray  # float32 [N, 4] xyxy pixels
    labels: np.ndarray  # int64 [N]
    points: np.ndarray  # float32 [S, 2] pixels
    counts: np.ndarray  # int64 [N], points of each object; 0 where only the box is known
    keypoints: np.ndarray  # float32 [N, K, 3] pixels and visibility

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def outlined(self) -> np.ndarray:
        """Which objects have an outline: bool ``[N]``."""
        return self.counts > 0

    def segments(self) -> tuple[np.ndarray, ...]:
        """The outlines one by one: N arrays ``[k, 2]``, views."""
        ends = np.cumsum(self.counts).tolist()
        return tuple(self.points[end - count : end] for end, count in zip(ends, self.counts.tolist(), strict=True))

    def placed(self, ratio: np.ndarray, corner: np.ndarray) -> Objects:
        """Scaled, then moved, by (x, y): ``[2]`` for all objects or ``[N, 2]``."""
        scale, offset = (np.broadcast_to(value, (len(self), 2)).astype(np.float32) for value in (ratio, corner))
        boxes = (self.boxes.reshape(-1, 2, 2) * scale[:, None] + offset[:, None]).reshape(-1, 4)
        points = self.points
        if len(points):
            points = points * np.repeat(scale, self.counts, axis=0) + np.repeat(offset, self.counts, axis=0)
        keypoints = self.keypoints
        if keypoints.size:
            keypoints = keypoints.copy()
            keypoints[..., :2] = keypoints[..., :2] * scale[:, None] + offset[:, None]
        return Objects(boxes, self.labels, points, self.counts, keypoints)

    def clipped(self, side: int) -> Objects:
        """Boxes and outlines clipped to a square of ``side`` pixels; key points outside become invisible."""
        return replace(self, boxes=self.boxes.clip(0, side), points=self.points.clip(0, side),
                       keypoints=hide_outside(self.keypoints, side, side))

    def select(self, rows: np.ndarray) -> Objects:
        """These objects: a mask ``[N]`` or indices."""
        if rows.dtype == bool:
            return Objects(self.boxes[rows], self.labels[rows], self.points[np.repeat(rows, self.counts)],
                           self.counts[rows], self.keypoints[rows])
        segments = self.segments()
        points = [segments[row] for row in rows.tolist()]
        return Objects(self.boxes[rows], self.labels[rows], np.concatenate([self.points[:0], *points]),
                       self.counts[rows], self.keypoints[rows])


def objects_of(image_set: ImageSet, index: int) -> Objects:
    """The objects of one picture in its native pixels: views into the set's arrays, not to be written to."""
    first, last = image_set.offsets[index], image_set.offsets[index + 1]
    bounds = image_set.point_offsets[first : last + 1]
    points = image_set.points[bounds[0] : bounds[-1]]
    return Objects(image_set.boxes[first:last], image_set.labels[first:last], points, np.diff(bounds),
                   image_set.keypoints[first:last])


def objects_in(sample: Sample) -> Objects:
    """The objects of a sample."""
    counts = np.array([len(points) for points in sample.segments], np.int64)
    points = np.concatenate([np.zeros((0, 2), np.float32), *sample.segments])
    return Objects(sample.boxes, sample.labels, points, counts, sample.keypoints)


def sample_of(image: np.ndarray, objects: Objects, meta: ImageMeta) -> Sample:
    """A picture with its objects."""
    return Sample(image, objects.boxes, objects.labels, objects.segments(), objects.keypoints, meta)


def with_objects(sample: Sample, objects: Objects) -> Sample:
    """The sample with these objects instead of its own."""
    return replace(sample, boxes=objects.boxes, labels=objects.labels, segments=objects.segments(),
                   keypoints=objects.keypoints)


def concatenate(parts: Sequence[Objects]) -> Objects:
    """All objects in a row; at least one part."""
    return Objects(*(np.concatenate([getattr(part, name) for part in parts])
                     for name in ("boxes", "labels", "points", "counts", "keypoints")))


def hide_outside(keypoints: np.ndarray, height: float, width: float) -> np.ndarray:
    """Key points ``[N, K, 3]`` with zeros where they lie outside a picture of this size."""
    if not keypoints.size:
        return keypoints
    x, y = keypoints[..., 0], keypoints[..., 1]
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return np.where(inside[..., None], keypoints, 0)
