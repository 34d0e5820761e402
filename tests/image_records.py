"""Image sets made by hand: records of pictures and objects, flattened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from yolov7.data.image_set import Fault, ImageSet, no_outline


class ObjectRecord(NamedTuple):
    """An object of a picture."""

    box: tuple[float, float, float, float]  # xyxy native pixels
    label: int
    outline: np.ndarray  # float32 [K, 2] native pixels
    keypoints: np.ndarray | None = None  # float32 [K, 3]


class ImageRecord(NamedTuple):
    """A usable picture with its usable objects."""

    path: str
    image_id: int | str
    size: tuple[int, int]  # height, width
    objects: list[ObjectRecord]


def build_image_set(
    records: Sequence[ImageRecord],
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    faults: Sequence[Fault],
    *,
    annotation_file: str | None,
    split: str,
    keypoint_names: tuple[str, ...] = (),
) -> ImageSet:
    """Flatten records into arrays."""
    objects = list(chain.from_iterable(record.objects for record in records))
    none = np.zeros((len(keypoint_names), 3), np.float32)
    keypoints = [none if item.keypoints is None else item.keypoints for item in objects]
    return ImageSet(
        paths=tuple(record.path for record in records),
        image_ids=tuple(record.image_id for record in records),
        sizes=np.array([record.size for record in records], np.int32),
        offsets=_offsets(len(record.objects) for record in records),
        boxes=np.array([item.box for item in objects], np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in objects], np.int64),
        points=np.concatenate([no_outline(), *(item.outline for item in objects)]),
        point_offsets=_offsets(len(item.outline) for item in objects),
        keypoints=np.array(keypoints, np.float32).reshape(len(objects), *none.shape),
        names=names,
        category_ids=category_ids,
        keypoint_names=keypoint_names,
        faults=tuple(faults),
        annotation_file=annotation_file,
        split=split,
    )


def _offsets(counts: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *counts], dtype=np.int64)
