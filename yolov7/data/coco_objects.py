"""Annotations of a COCO JSON file -> `Entries`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from yolov7.config import InputError
from yolov7.data.coco_shapes import ShapeError, are_numbers, read_keypoints, read_outline
from yolov7.data.entries import SOURCE, Entries, Finding, RawObjects, tidy
from yolov7.data.image_set import no_outline

Row = dict[str, Any]


class _Annotations(NamedTuple):
    """What is an object, in the order of the pictures."""

    rows: list[Row]
    owners: np.ndarray  # int64 [T]
    labels: np.ndarray  # int64 [T]


def read_objects(
    content: dict[str, Any], ids: Sequence[int | str], category_ids: Sequence[int], headers: Entries,
    keypoint_names: Sequence[str],
) -> Entries:
    """The objects of the pictures with these ``ids``; ``headers`` has their sizes.

    Raises `InputError` for a category that there is not.
    """
    places: dict[int | str, int] = {}
    findings = list(headers.findings)
    usable = headers.usable.copy()
    for entry, image_id in enumerate(ids):
        if places.setdefault(image_id, entry) != entry:
            usable[entry] = False
            findings = [item for item in findings if item.entry != entry]
            reason = f"{SOURCE} has two pictures with the id {image_id!r}; the second is skipped"
            findings.append(Finding(entry, True, reason))
    _check_sizes(content["images"], headers.sizes, usable, findings)
    found = _annotations(content["annotations"], places, category_ids, findings)
    boxes = _boxes(found, usable, findings)
    points, lengths = _outlines(found, headers.sizes, usable, findings)
    keypoints = _keypoints(found, len(keypoint_names), (headers.sizes, usable), findings)
    counts = np.bincount(found.owners, minlength=len(ids))
    raw = RawObjects(counts, boxes, found.labels, points, lengths, keypoints)
    return tidy(raw, headers.sizes, usable, findings, lambda t: _where(found.rows[t]))


def _where(row: Row) -> str:
    return f"annotation {row['id']}"


def _check_sizes(images: Sequence[Row], sizes: np.ndarray, usable: np.ndarray, findings: list[Finding]) -> None:
    """Annotations are in pixels of the picture whose size the JSON states: another one makes them meaningless."""
    for entry, (image, (height, width)) in enumerate(zip(images, sizes.tolist(), strict=True)):
        stated = image.get("width") or width, image.get("height") or height
        if usable[entry] and stated != (width, height):
            usable[entry] = False
            found = f"the JSON says {stated[0]} x {stated[1]}, the picture is {width} x {height}"
            findings.append(Finding(entry, True, f"{found}; the picture is skipped"))


def _annotations(
    annotations: Sequence[Row], places: dict[int | str, int], category_ids: Sequence[int], findings: list[Finding]
) -> _Annotations:
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    owners, labels, rows = array("q"), array("q"), []
    for row in annotations:
        image_id, category_id = row["image_id"], row["category_id"]
        owner = places.get(image_id) if isinstance(image_id, (int, str)) else None
        if owner is None:
            reason = f"{_where(row)}: image_id {image_id!r} is not in `images`; the object is dropped"
            findings.append(Finding(-1, False, reason, skipped=False))
            continue
        label = label_of.get(category_id) if isinstance(category_id, int) else None
        if label is None:
            known = ", ".join(map(str, category_ids[:100]))
            raise InputError(f"{_where(row)}: found category_id {category_id!r}; accepted: the ids in `categories`: "
                             f"{known}")
        if not row.get("iscrowd", 0):
            owners.append(owner)
            labels.append(label)
            rows.append(row)
    order = np.argsort(np.array(owners, np.int64), kind="stable")
    sorted_rows = [rows[t] for t in order.tolist()]
    return _Annotations(sorted_rows, np.array(owners, np.int64)[order], np.array(labels, np.int64)[order])


def _boxes(found: _Annotations, usable: np.ndarray, findings: list[Finding]) -> np.ndarray:
    """xyxy, float64 ``[T, 4]``. A picture with garbage for a box is not usable."""
    numbers = array("d")
    for row, owner in zip(found.rows, found.owners.tolist(), strict=True):
        box = row["bbox"]
        if are_numbers(box) and len(box) == 4:
            numbers.extend(box)
            continue
        numbers.extend((0, 0, 0, 0))
        if usable[owner]:
            usable[owner] = False
            reason = f"{SOURCE}, {_where(row)}: bbox is {box!r}; accepted: four numbers x, y, width, height"
            findings.append(Finding(owner, True, f"{reason}; the picture is skipped"))
    boxes = np.array(numbers).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _outlines(
    found: _Annotations, sizes: np.ndarray, usable: np.ndarray, findings: list[Finding]
) -> tuple[np.ndarray, np.ndarray]:
    """Outline points float32 ``[S, 2]`` and how many each object has, int64 ``[T]``."""
    numbers, lengths = array("f"), array("q")
    pairs = zip(found.rows, found.owners.tolist(), strict=True)
    for row, owner in tqdm(pairs, "outlines", len(found.rows), unit="object", disable=None, leave=False):
        start = len(numbers)
        segmentation = row.get("segmentation")
        single: Any = segmentation[0] if isinstance(segmentation, list) and len(segmentation) == 1 else None
        if are_numbers(single) and len(single) >= 6 and len(single) % 2 == 0:
            numbers.extend(single)  # most are like this: no array is made of each
        elif usable[owner] and segmentation:
            numbers.frombytes(_outline(row, owner, sizes, findings).tobytes())
        lengths.append((len(numbers) - start) // 2)
    return np.array(numbers).reshape(-1, 2), np.array(lengths, np.int64)


def _outline(row: Row, owner: int, sizes: np.ndarray, findings: list[Finding]) -> np.ndarray:
    """The outline of one object, float32 ``[K, 2]``; none, and the reason, where it cannot be used."""
    try:
        return read_outline(row["segmentation"], (int(sizes[owner, 0]), int(sizes[owner, 1])))
    except ShapeError as error:
        reason = f"{_where(row)}: {error}; the object is a box only"
        findings.append(Finding(owner, False, reason, skipped=False, kept=True))
        return no_outline()


def _keypoints(
    found: _Annotations, count: int, pictures: tuple[np.ndarray, np.ndarray], findings: list[Finding]
) -> np.ndarray:
    """float32 ``[T, count, 3]``; zeros where there are none, or none that can be used."""
    keypoints = np.zeros((len(found.rows), count, 3), np.float32)
    if not count:
        return keypoints
    sizes, usable = pictures
    for t, (row, owner) in enumerate(zip(found.rows, found.owners.tolist(), strict=True)):
        if "keypoints" not in row or not usable[owner]:
            continue
        try:
            keypoints[t] = read_keypoints(row["keypoints"], count, (int(sizes[owner, 0]), int(sizes[owner, 1])))
        except ShapeError as error:
            reason = f"{_where(row)}: {error}; the object has none"
            findings.append(Finding(owner, False, reason, skipped=False, kept=True))
    return keypoints
