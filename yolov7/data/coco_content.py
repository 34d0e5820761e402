"""The content of a COCO JSON file, for reading objects and for scoring alike.

Tools write numbers in other dress: ids as 1.0, sizes as "160", an ``image_id`` as text. What is a number is taken as
one; an annotation that cannot be used costs itself and is listed; what makes the whole file doubtful is an
`InputError`.
"""

from __future__ import annotations

import json
import logging
import math
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

from yolov7.config import InputError, nearest, read_bytes
from yolov7.config.errors import shown
from yolov7.config.names import readable
from yolov7.data.foreign.recognise import refusal
from yolov7.runtime.memory import without_collector

logger = logging.getLogger(__name__)

Row = dict[str, Any]
FAULTS = "yolov7 faults"  # the key of what was left out: (reason, whether it is an image)
MAX_JSON = 4 << 30  # bytes; the annotations of Objects365 have 1.5 GB
_LARGE = 50_000_000  # bytes: about a second
_CLEAN = frozenset((int, float))


def read_annotations(file: Path) -> dict[str, Any]:
    """A COCO JSON file as it is used; what was left out, and why, stands under `FAULTS`.

    Raises `InputError` for a file that is not JSON, or without the keys that are needed.
    """
    try:
        if (size := file.stat().st_size) > _LARGE:
            logger.info("reading %s (%d MB)", file, size / 1e6)
        with without_collector():
            content = json.loads(read_bytes(file, MAX_JSON))  # UTF-8 or UTF-16, with or without a byte-order mark
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(refusal(file, readable=False) or
                         f"{file}: holds a {type(content).__name__}; accepted: COCO's keys images, categories, ...")
    _name_images(content.get("images"), file)
    _check_rows(content, "images", ("id", "file_name"), file)
    _check_rows(content, "categories", ("id", "name"), file)
    content.setdefault("annotations", [])  # COCO's test splits have none
    _check_rows(content, "annotations", (), file)
    if not content["categories"]:
        raise InputError(f"{file}: `categories` is empty; accepted: at least one class")
    with without_collector():
        _dress_images(content["images"], file)
        _dress_categories(content["categories"], file)
        content["annotations"], content[FAULTS] = _usable(content)
        content[FAULTS] += _merge_images(content)
    return content


def grouping_categories(content: dict[str, Any]) -> list[str]:
    """Names of categories that no annotation has, and that are only a heading: another one's ``supercategory``."""
    used = {row["category_id"] for row in content["annotations"]}
    above = ((row.get("supercategory"), row["name"]) for row in content["categories"])
    headings = {word for word, name in above if isinstance(word, str) and word != name}
    return [row["name"] for row in content["categories"] if row["id"] not in used and row["name"] in headings]


def whole_number(value: Any) -> int | None:
    """A number in any dress, if it is a whole one: 12, 12.0, "12"."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().lstrip("-").isdecimal() and len(value) < 20:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None


def number(value: Any) -> float | None:
    """A finite number in any dress: 12, 12.5, "12.5"."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or (isinstance(value, str) and "_" in value):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _check_rows(content: dict[str, Any], key: str, needed: tuple[str, ...], file: Path) -> None:
    if key not in content:
        raise InputError(refusal(file, readable=False) or
                         f"{file}: the key {key!r} is missing{nearest(key, content)}")
    rows = content[key]
    if not isinstance(rows, list):
        raise InputError(f"{file}, {key}: holds a {type(rows).__name__}; accepted: a list")
    for place, row in enumerate(rows):
        for name in needed:
            if not isinstance(row, dict) or name not in row:
                raise InputError(f"{file}, {key}[{place}]: the key {name!r} is missing")


def _name_images(rows: Any, file: Path) -> None:
    """LVIS has addresses for file names: http://.../train2017/1.jpg is train2017/1.jpg."""
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict) or "file_name" in rows[0]:
        return
    addresses = [row.get("coco_url") for row in rows if isinstance(row, dict) and "file_name" not in row]
    if all(isinstance(address, str) and address.count("/") > 1 for address in addresses):
        logger.info("%s: has the categories and addresses of LVIS; it is scored as COCO is: its lists of what is "
                    "not there or not complete in an image are not used", file)
        for row in rows:
            row.setdefault("file_name", "/".join(str(row.get("coco_url")).split("/")[-2:]))


def _merge_images(content: dict[str, Any]) -> list[tuple[str, bool]]:
    """Images of one file become one image, the first, with the objects of all; returns what was done.

    An object of a later one that the first has as well (category, box and crowd) is the same.
    """
    first: dict[str, Row] = {}
    merged: dict[Any, Row] = {}
    for row in content["images"]:
        name = posixpath.normpath(row["file_name"].replace("\\", "/"))
        if first.setdefault(name, row) is not row and row["id"] != first[name]["id"]:
            merged[row["id"]] = first[name]
    if not merged:
        return []
    content["images"] = [row for row in content["images"] if row["id"] not in merged]
    whole = {row["id"] for row in merged.values()}
    seen = {_object(row) for row in content["annotations"] if row["image_id"] in whole}
    kept, reasons = [], {image: [0, 0] for image in merged}
    for row in content["annotations"]:
        if (image := row["image_id"]) in merged:
            row["image_id"] = merged[image]["id"]
            reasons[image][_object(row) in seen] += 1
            if _object(row) in seen:
                continue
            seen.add(_object(row))
        kept.append(row)
    content["annotations"] = kept
    return [(f"the images {row['id']!r} and {image!r} are one file, {shown(row['file_name'])}: taken as one image; of "
             f"the second's objects {reasons[image][0]} are new, {reasons[image][1]} the first has as well", True)
            for image, row in merged.items()]


def _object(row: Row) -> tuple[Any, ...]:
    return row["image_id"], row["category_id"], *row["bbox"], row.get("iscrowd", 0)


def _dress_images(rows: list[Row], file: Path) -> None:
    for place, row in enumerate(rows):
        found = row["id"]
        if isinstance(found, float):
            found = whole_number(found)
        if not isinstance(found, (int, str)) or isinstance(found, bool):
            raise InputError(f"{file}, images[{place}]: found the id {shown(row['id'])}; accepted: a number or a text")
        row["id"] = found
        name = row["file_name"]
        if not isinstance(name, str) or "\0" in name or _has_surrogate(name):
            raise InputError(f"{file}, images[{place}]: found the file_name {shown(name)}; accepted: a text")
        for side in ("width", "height"):
            if type(row.get(side)) is not int and row.get(side) is not None:
                row[side] = whole_number(row[side]) or row[side]


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _dress_categories(rows: list[Row], file: Path) -> None:
    for place, row in enumerate(rows):
        found = whole_number(row["id"])
        if found is None:
            raise InputError(f"{file}, categories: found the id {shown(row['id'])}; accepted: whole numbers")
        row["id"] = found
        name = row["name"]
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or _has_surrogate(str(name)):
            raise InputError(f"{file}, categories[{place}]: found the name {shown(name)}; accepted: a text")
        row["name"] = readable(str(name))
    twice = [name for name, count in Counter(row["name"] for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"{file}, categories: the name {twice[0]!r} stands twice; accepted: names that differ")


def _usable(content: dict[str, Any]) -> tuple[list[Row], list[tuple[str, bool]]]:
    """The annotations that can be used, each with a number for an id, and why the others cannot."""
    ids = {row["id"] for row in content["images"]}
    by_number = {whole_number(image_id): image_id for image_id in ids}
    kept, faults = [], []
    for place, row in enumerate(content["annotations"]):
        reason = "is not an object with keys" if not isinstance(row, dict) else _dress(row, ids, by_number)
        if reason and isinstance(row, dict) and row.get("iscrowd") == 1:
            continue  # a fault of a crowd is no fault
        if reason:
            name = row.get("id", f"[{place}]") if isinstance(row, dict) else f"[{place}]"
            faults.append((f"annotation {shown(name)}: {reason}; the object is dropped", False))
        else:
            kept.append(row)
    numbers = [row.get("id") for row in kept]
    if not all(type(found) is int for found in numbers) or len(set(numbers)) < len(numbers):
        for place, row in enumerate(kept, 1):
            row["id"] = place
    return kept, faults


def _dress(row: Row, ids: set[Any], by_number: dict[Any, Any]) -> str:
    """Numbers as numbers; returns what makes the annotation useless."""
    for key in ("image_id", "category_id", "bbox"):
        if key not in row:
            return f"the key {key!r} is missing"
    image_id = row["image_id"]
    if not isinstance(image_id, (int, str)) or image_id not in ids:
        found = whole_number(image_id)
        if found is None or found not in by_number:
            return f"image_id {shown(image_id)} is not in `images`"
        row["image_id"] = by_number[found]
    if type(row["category_id"]) is not int:
        found = whole_number(row["category_id"])
        if found is None:
            return f"found the category_id {shown(row['category_id'])}; accepted: a whole number"
        row["category_id"] = found
    if reason := _dress_box(row):
        return reason
    return _dress_rest(row)


def _dress_box(row: Row) -> str:
    box = row["bbox"]
    if type(box) is list and len(box) == 4 and _CLEAN.issuperset(map(type, box)) and all(map(_is_finite, box)):
        return ""
    values = [number(value) for value in box] if isinstance(box, (list, tuple)) and len(box) == 4 else [None]
    if None in values:
        return f"bbox is {shown(box)}; accepted: four numbers x, y, width, height"
    row["bbox"] = values
    return ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _dress_rest(row: Row) -> str:
    """``iscrowd`` and ``area``; an area that is no number is not known."""
    crowd = row.get("iscrowd", 0)
    if type(crowd) is not int or crowd not in (0, 1):
        crowd = 0 if crowd is None else whole_number(int(crowd) if isinstance(crowd, bool) else crowd)
        if crowd not in (0, 1):
            return f"iscrowd is {shown(row['iscrowd'])}; accepted: 0 or 1"
        row["iscrowd"] = crowd
    if "area" in row and (type(row["area"]) not in _CLEAN or not _is_finite(row["area"])):
        area = number(row["area"])
        if area is None:
            del row["area"]
        else:
            row["area"] = area
    return ""
