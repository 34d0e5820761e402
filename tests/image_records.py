"""Image sets made by hand: records of images and objects, flattened."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from yolov7.data.image_set import Fault, ImageSet
from yolov7.data.objects import Ragged, no_objects, starts_of

SHARED = Path(__file__).parents[2] / "shared"
NO_POLYGON = np.zeros((0, 2), np.float32)  # of an object of which only the box is known


class ObjectRecord(NamedTuple):
    """An object of an image."""

    box: tuple[float, float, float, float]  # xyxy native pixels
    label: int
    polygon: np.ndarray  # float32 [K, 2] native pixels
    keypoints: np.ndarray | None = None  # float32 [K, 3]


class ImageRecord(NamedTuple):
    """A usable image with its usable objects."""

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
    items = list(chain.from_iterable(record.objects for record in records))
    none = np.zeros((len(keypoint_names), 3), np.float32)
    keypoints = [none if item.keypoints is None else item.keypoints for item in items]
    objects = no_objects().like(
        np.array([item.box for item in items], np.float32).reshape(-1, 4),
        np.array([item.label for item in items], np.int64),
        polygons=polygons_of([item.polygon for item in items]),
        keypoints=np.array(keypoints, np.float32).reshape(len(items), *none.shape),
    )
    return ImageSet(
        paths=tuple(record.path for record in records),
        image_ids=tuple(record.image_id for record in records),
        sizes=np.array([record.size for record in records], np.int32),
        offsets=starts_of([len(record.objects) for record in records]),
        objects=objects,
        names=names,
        category_ids=category_ids,
        keypoint_names=keypoint_names,
        faults=tuple(faults),
        annotation_file=annotation_file,
        split=split,
    )


def content_of(split: Any) -> dict[str, Any]:
    """All that an `ImageSet` or `Entries` holds, the columns of its objects one by one."""
    fields = {name: value for name, value in vars(split).items() if name != "objects"}
    return fields | split.objects.arrays()


def polygons_of(polygons: Sequence[np.ndarray]) -> Ragged:
    """Polygons ``[K, 2]``, one for each object, as a column."""
    return Ragged(np.concatenate([NO_POLYGON, *polygons]), np.array([len(points) for points in polygons], np.int64))


def write_image(path: Path, width: int = 64, height: int = 48, **options: Any) -> Path:
    """A grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 100, 110)).save(path, **options)
    return path
