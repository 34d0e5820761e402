"""Some of a data set's classes, or all of them as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from yolov7.config import InputError, unknown
from yolov7.data.image_set import ImageSet

SINGLE = "object"  # the class of single-class mode


def class_indices(wanted: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Classes given as names or numbers (a name that looks like a number is a name) -> indices, in that order."""
    for name in wanted:
        if name not in names and not (name.isdecimal() and int(name) < len(names)):
            raise InputError(f"--classes: {unknown('class', name, names)} or 0 to {len(names) - 1}")
    return tuple(names.index(name) if name in names else int(name) for name in wanted)


def class_names(names: tuple[str, ...], classes: Sequence[str], single_cls: bool) -> tuple[str, ...]:
    """The names that are left of ``names`` by `choose_classes`: known before any picture is read."""
    chosen = tuple(names[i] for i in sorted(set(class_indices(classes, names)))) if classes else names
    return (SINGLE,) if single_cls else chosen


def choose_classes(image_set: ImageSet, classes: Sequence[str], single_cls: bool) -> ImageSet:
    """What ``--classes`` (none: all) and ``--single-cls`` make of a split."""
    if classes:
        image_set = select_classes(image_set, classes)
    return merge_classes(image_set) if single_cls else image_set


def select_classes(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Only the objects of these classes (names or numbers); all pictures stay.

    Labels are renumbered in the order of the data set, whatever the order of ``classes``; categories keep their ids.
    Raises `InputError` for an unknown class, and where there are objects, but none of these classes.
    """
    kept = sorted(set(class_indices(classes, image_set.names)))
    names = tuple(image_set.names[i] for i in kept)
    new_label = np.full(len(image_set.names), -1)
    new_label[kept] = np.arange(len(kept))
    labels = new_label[image_set.labels]  # [T]
    mask = labels >= 0
    if len(mask) and not mask.any():
        present = ", ".join(image_set.names[i] for i in np.unique(image_set.labels))
        raise InputError(f"--classes: none of the {len(mask)} objects of the split {image_set.split!r} is of "
                         f"{', '.join(names)}; accepted: classes with objects: {present}")
    lengths = np.diff(image_set.point_offsets)
    return dataclasses.replace(
        image_set,
        offsets=_offsets(mask)[image_set.offsets],
        boxes=image_set.boxes[mask],
        labels=labels[mask],
        points=image_set.points[np.repeat(mask, lengths)],
        point_offsets=_offsets(lengths[mask]),
        keypoints=image_set.keypoints[mask],
        names=names,
        category_ids=tuple(image_set.category_ids[i] for i in kept),
    )


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def merge_classes(image_set: ImageSet, name: str = SINGLE) -> ImageSet:
    """All objects as one class, which is category 1 for scoring."""
    return dataclasses.replace(image_set, labels=np.zeros_like(image_set.labels), names=(name,), category_ids=(1,),
                               merged_ids=image_set.category_ids)
