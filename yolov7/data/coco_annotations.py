"""Annotations of a COCO JSON file: boxes, polygons, run-length masks, key points."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.objects import Ragged, no_objects
from yolov7.data.outlines import outline_rings
from yolov7.data.rasterize import joined
from yolov7.data.scan import SOURCE, Entries, Finding, are_corners, tidy
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class _Annotations(NamedTuple):
    """What is an object, in the order of the images."""

    rows: list[Row]
    image_index: np.ndarray  # int64 [T]
    labels: np.ndarray  # int64 [T]
    crowd: np.ndarray  # bool [T]


def read_objects(content: dict[str, Any], ids: Sequence[int | str], category_ids: Sequence[int], headers: Entries,
                 keypoint_names: Sequence[str]) -> Entries:
    """The objects of the images with these ``ids``; ``headers`` has their sizes.

    A crowd is a box, an area and nothing else: a fault of one is no fault. Raises `InputError` for a category that
    there is not.
    """
    places: dict[int | str, int] = {}
    findings = list(headers.findings)
    usable = headers.usable.copy()
    for entry, image_id in enumerate(ids):
        if places.setdefault(image_id, entry) != entry:
            usable[entry] = False
            findings = [item for item in findings if item.entry != entry]
            reason = f"{SOURCE} has two images with the id {image_id!r}; the second is skipped"
            findings.append(Finding(entry, True, reason))
    images = _Images(headers.sizes, usable, findings)
    _check_sizes(content["images"], images)
    found = _annotations(content["annotations"], places, category_ids, findings)
    boxes, area = _boxes(found, images)
    objects = no_objects(len(keypoint_names)).like(
        boxes, found.labels, polygons=_polygons(found, images),
        keypoints=_keypoints(found, len(keypoint_names), images), crowd=found.crowd, area=area)
    counts = np.bincount(found.image_index, minlength=len(ids))
    return tidy(objects, counts, headers.sizes, usable, findings, lambda t: _where(found.rows[t]))


class _Images(NamedTuple):
    """The images of the file, and what is wrong with them and their objects."""

    sizes: np.ndarray  # int32 [I, 2] height, width
    usable: np.ndarray  # bool [I]
    findings: list[Finding]

    def skip(self, image: int, reason: str) -> None:
        self.usable[image] = False
        self.findings.append(Finding(image, True, f"{reason}; the image is skipped"))

    def try_to(self, read: Callable[[], np.ndarray], image: int, row: Row, otherwise: str,
               blank: np.ndarray) -> np.ndarray:
        """What ``read`` gives; after a `ShapeError` that is ``blank``."""
        try:
            return read()
        except ShapeError as error:
            reason = f"{_where(row)}: {error}; the object {otherwise}"
            self.findings.append(Finding(image, False, reason, skipped=False, kept=True))
            return blank


def _where(row: Row) -> str:
    return f"annotation {row['id']}"


def _check_sizes(rows: Sequence[Row], images: _Images) -> None:
    """Annotations are in pixels of the image whose size the JSON states: another one makes them meaningless."""
    for image, (row, (height, width)) in enumerate(zip(rows, images.sizes.tolist(), strict=True)):
        stated = row.get("width") or width, row.get("height") or height
        if images.usable[image] and stated != (width, height):
            images.skip(image, f"the JSON says {stated[0]} x {stated[1]}, the image is {width} x {height}")


def _annotations(annotations: Sequence[Row], places: dict[int | str, int], category_ids: Sequence[int],
                 findings: list[Finding]) -> _Annotations:
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    image_index, labels, rows = array("q"), array("q"), []
    for row in annotations:
        image_id, category_id = row["image_id"], row["category_id"]
        image = places.get(image_id) if isinstance(image_id, (int, str)) else None
        if image is None:
            reason = f"{_where(row)}: image_id {image_id!r} is not in `images`; the object is dropped"
            findings.append(Finding(-1, False, reason, skipped=False))
            continue
        label = label_of.get(category_id) if isinstance(category_id, int) else None
        if label is None:
            raise InputError(f"{_where(row)}: found category_id {category_id!r}; accepted: the ids in `categories`: "
                             f"{', '.join(map(str, category_ids[:100]))}")
        image_index.append(image)
        labels.append(label)
        rows.append(row)
    order = np.argsort(np.array(image_index, np.int64), kind="stable")
    sorted_rows = [rows[t] for t in order.tolist()]
    crowd = np.fromiter((bool(row.get("iscrowd", 0)) for row in sorted_rows), bool, len(rows))
    return _Annotations(sorted_rows, np.array(image_index, np.int64)[order], np.array(labels, np.int64)[order], crowd)


def _boxes(found: _Annotations, images: _Images) -> tuple[np.ndarray, np.ndarray]:
    """Boxes xyxy, float64 ``[T, 4]``, and areas ``[T]``. An image with garbage for a box is not usable."""
    numbers, areas = array("d"), array("d")
    for row, image, crowd in zip(found.rows, found.image_index.tolist(), found.crowd.tolist(), strict=True):
        box, area = row["bbox"], row.get("area", math.nan)
        areas.append(float(area) if are_numbers([area]) else math.nan)
        if are_numbers(box) and len(box) == 4:
            numbers.extend(box)
            continue
        numbers.extend((0, 0, 0, 0))
        if images.usable[image] and not crowd:
            images.skip(image, f"{SOURCE}, {_where(row)}: bbox is {box!r}; accepted: four numbers x, y, width, height")
    boxes = np.array(numbers).reshape(-1, 4)
    written = boxes.copy()
    boxes[:, 2:] += boxes[:, :2]
    objects = images.usable[found.image_index] & ~found.crowd
    limits = images.sizes[found.image_index][:, ::-1]
    if are_corners(written[objects], boxes[objects], limits[objects]):
        raise InputError(f"annotations: the `bbox` of all {objects.sum()} objects reads as two corners (x1, y1, x2, "
                         f"y2), the first as {written[objects][0].tolist()}; accepted: COCO's x, y, width, height")
    return boxes, np.array(areas)


def _polygons(found: _Annotations, images: _Images) -> Ragged:
    numbers, counts = array("f"), array("q")
    rows = zip(found.rows, found.image_index.tolist(), found.crowd.tolist(), strict=True)
    for row, image, crowd in Progress(rows, "polygons", len(found.rows), unit="objects"):
        start = len(numbers)
        segmentation = None if crowd else row.get("segmentation")
        single: Any = segmentation[0] if isinstance(segmentation, list) and len(segmentation) == 1 else None
        if are_numbers(single) and len(single) >= 6 and len(single) % 2 == 0:
            numbers.extend(single)  # most are like this: no array is made of each
        elif images.usable[image] and segmentation:
            read = partial(read_polygon, segmentation, tuple(images.sizes[image].tolist()))
            numbers.frombytes(images.try_to(read, image, row, "is a box only", _NO_POINTS).tobytes())
        counts.append((len(numbers) - start) // 2)
    return Ragged(np.array(numbers).reshape(-1, 2), np.array(counts, np.int64))


def _keypoints(found: _Annotations, count: int, images: _Images) -> np.ndarray:
    """float32 ``[T, count, 3]``; zeros where there are none, or none that can be used."""
    keypoints = np.zeros((len(found.rows), count, 3), np.float32)
    for t in np.flatnonzero(images.usable[found.image_index] & ~found.crowd).tolist() if count else ():
        row, image = found.rows[t], int(found.image_index[t])
        if "keypoints" in row:
            read = partial(read_keypoints, row["keypoints"], count)
            keypoints[t] = images.try_to(read, image, row, "has none", keypoints[t])
    limits = images.sizes[found.image_index][:, None, ::-1]  # [T, 1, 2] width, height
    outside = ((keypoints[..., :2] < 0) | (keypoints[..., :2] > limits)).any(-1)  # [T, count]
    for t in np.flatnonzero(outside.any(1)).tolist():
        image = int(found.image_index[t])
        height, width = images.sizes[image].tolist()
        reason = f"{_where(found.rows[t])}: keypoints: {outside_text(int(outside[t].sum()), width, height)}"
        images.findings.append(Finding(image, False, reason, skipped=False, kept=True))
    keypoints[outside] = 0
    return keypoints


def outside_text(count: int, width: int, height: int) -> str:
    """What is said of so many labelled key points outside of their image."""
    return f"labelled points outside the image of {width} x {height} px: {count}; they are left out"


_NUMBERS = frozenset((int, float))
_COUNT_CHARACTERS = frozenset(map(chr, range(48, 112)))  # the alphabet of compressed counts
_MAX_COUNT_CHARACTERS = 6  # for any number below 2 ** 29; longer ones shift bits out of pycocotools' integers
_MAX_PIXELS = 1 << 28
_MAX_PARTS, _MAX_PAIRS = 2000, 10_000_000  # of a polygon; of points of two parts
_MAX_MASK_PARTS = 50  # of a run-length mask, whose parts and holes are joined where they are close
_NO_POINTS = np.zeros((0, 2), np.float32)


class ShapeError(Exception):
    """Why a polygon or key points cannot be used, without their place."""


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers. (JSON as Python reads it may hold NaN.)"""
    if not isinstance(values, list) or not _NUMBERS.issuperset(map(type, values)):
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number of hundreds of digits
        return False


# --- polygons --------------------------------------------------------------------------------------------------


def read_polygon(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The polygon of one object in an image of this height and width: float32 ``[K, 2]`` pixels, maybe without points.

    Polygons as `join_polygons` reads them, run-length masks as `polygon_of_mask` does.
    """
    return polygon_of_mask(segmentation, size) if isinstance(segmentation, dict) else join_polygons(segmentation)


def join_polygons(segmentation: Any) -> np.ndarray:
    """COCO's polygons of one object as a single one: float32 ``[K, 2]`` pixels.

    Parts are joined by going there and back between their closest vertices, so that the area stays the same.
    Lists that are no polygons (fewer than 3 points, odd or invalid numbers) give none: the object is a box then.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return _NO_POINTS
    if not all(are_numbers(part) and len(part) >= 6 and len(part) % 2 == 0 for part in segmentation):
        return _NO_POINTS
    return join_parts([np.array(part, np.float32).reshape(-1, 2) for part in segmentation])


def join_parts(polygons: list[np.ndarray]) -> np.ndarray:
    """Polygons ``[K, 2]`` of the parts of one object as a single one (see `join_polygons`).

    Raises `ShapeError` where that would take minutes, or gigabytes.
    """
    joined, *parts = polygons
    if len(polygons) > _MAX_PARTS:
        raise ShapeError(f"a polygon of {len(polygons)} parts; accepted: up to {_MAX_PARTS}")
    for part in parts:
        if len(joined) * len(part) > _MAX_PAIRS:
            raise ShapeError(f"a polygon whose parts have {len(joined)} and {len(part)} points, too many to be joined")
        squared = np.square(joined[:, None] - part[None]).sum(-1)  # [K, J]
        here, there = np.unravel_index(squared.argmin(), squared.shape)
        loop = np.concatenate((part[there:], part[: there + 1]))  # from the closest vertex around to itself
        joined = np.concatenate((joined[: here + 1], loop, joined[here:]))
    return joined


def polygon_of_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """The polygon around a run-length mask, counts compressed or not: float32 ``[K, 2]`` pixels, along pixel edges.

    Filled (see `rasterize`) it is exactly the mask, with its parts and holes; a mask without pixels has no polygon.
    Raises `ShapeError` for one that is broken or not of the image's ``size`` (height, width).
    """
    counts, height_width = (mask.get("counts"), mask.get("size")) if isinstance(mask, dict) else (None, None)
    if height_width != list(size):
        raise ShapeError(f"a run-length mask of the size {height_width!r}; accepted: [{size[0]}, {size[1]}]")
    rings = outline_rings(_decode(counts, size))
    if not rings:
        return _NO_POINTS
    few = len(rings) <= _MAX_MASK_PARTS and sum(map(len, rings)) ** 2 < _MAX_PAIRS
    return join_parts(rings) if few else joined(rings)  # it makes no difference where bridges are


def _decode(counts: Any, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if height * width > _MAX_PIXELS:
        raise ShapeError(f"a run-length mask of {width} x {height} px; accepted: up to {_MAX_PIXELS} px")
    runs = _runs(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not whole or sum(runs) != height * width:
        raise ShapeError(f"a run-length mask whose counts do not fill {width} x {height} px")
    kinds = (np.arange(len(runs)) % 2).astype(np.uint8)  # runs of zeros and ones in turn, down the columns
    pixels: np.ndarray = np.repeat(kinds, runs).reshape(width, height).T
    return pixels


def _runs(text: str) -> list[int]:
    """COCO's compressed counts as numbers: 5 bits a character, lowest first, from the third on as differences.

    (pycocotools would take a broken text as it is, and write beyond its memory.)
    """
    runs: list[int] = []
    if not _COUNT_CHARACTERS.issuperset(text):
        raise ShapeError("a run-length mask with characters that no count has")
    value = shift = 0
    for code in text.encode():
        code -= 48  # noqa: PLW2901
        value |= (code & 31) << shift
        shift += 5
        if shift > 5 * _MAX_COUNT_CHARACTERS:
            break
        if not code & 32:
            value -= (code & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ShapeError("a run-length mask that ends within a count")
    return runs


# --- key points ------------------------------------------------------------------------------------------------


def read_keypoints(values: Any, count: int) -> np.ndarray:
    """``x1, y1, v1, ...`` of one object: float32 ``[count, 3]``, zeros for points that are not labelled.

    Raises `ShapeError` for anything else than ``count`` points with a visibility of 0, 1 or 2.
    """
    if not are_numbers(values) or len(values) != 3 * count:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise ShapeError(f"keypoints: found {found}; accepted: {3 * count} numbers (x, y, visibility for each)")
    points = np.array(values, np.float64).reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ShapeError("keypoints: found a visibility other than 0, 1 and 2")
    points[points[:, 2] == 0] = 0
    return points.astype(np.float32)
