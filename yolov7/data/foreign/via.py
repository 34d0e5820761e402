"""VGG Image Annotator: one JSON or CSV file for all images."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from yolov7.config import InputError, unknown
from yolov7.config.schema import shown
from yolov7.data.foreign.files import UnusableError, files_below, read_bytes, read_json, split_of_name, text_of
from yolov7.data.foreign.records import (
    Item,
    Reading,
    Record,
    Request,
    class_name,
    ellipse,
    pixels,
    polygon_item,
)

_NO_AREA = ("point", "polyline", "line")
_CLASS_KEYS = ("class", "label", "name", "class_name", "category", "type", "object")  # the likeliest first


class _Image(NamedTuple):
    """An image as a file has it."""

    file: str
    name: str
    regions: list[Any]


def read_via(request: Request) -> Reading:
    """Rectangles, polygons, circles and ellipses; the class is one attribute of a region (``--attribute``)."""
    reading = Reading()
    files = [str(request.path)] if request.path.is_file() else files_below(request.root, (".json", ".csv"))
    images: list[_Image] = []
    for file in files:
        try:
            images += _images_in_csv(file) if file.lower().endswith(".csv") else _images_in_json(file)
        except UnusableError as error:
            reading.notes.append(f"{file}: {error}; the file is left out")
    key = _class_key(images, request.attribute, reading)
    for image in images:
        _add_record(image, key, request, reading)
    reading.split_by_folder(request.root)
    for record in reading.records:
        record.split = record.split or split_of_name(record.file)
    return reading


# --- files -----------------------------------------------------------------------------------------------------


def _images_in_json(file: str) -> Iterator[_Image]:
    content = read_json(file)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not any(isinstance(row, dict) and "regions" in row for row in rows):
        raise UnusableError("is no file of the VGG Image Annotator: no image in it has 'regions'")
    for row in rows:
        if isinstance(row, dict) and "filename" in row:
            regions = row.get("regions") or []
            regions = list(regions.values()) if isinstance(regions, dict) else regions
            yield _Image(file, str(row["filename"]), regions if isinstance(regions, list) else [regions])


def _images_in_csv(file: str) -> Iterator[_Image]:
    regions: dict[str, list[Any]] = {}
    try:
        for row in csv.DictReader(StringIO(text_of(read_bytes(file)), newline="")):
            name = row.get("filename") or row.get("#filename")
            if not name or "region_shape_attributes" not in row:
                raise UnusableError("is no file of the VGG Image Annotator: it lacks the columns filename and "
                                    "region_shape_attributes")
            region = {key: _json_of(row.get(f"region_{key}")) for key in ("shape_attributes", "attributes")}
            region["region_attributes"] = region.pop("attributes")
            regions.setdefault(name, []).extend([region] if region["shape_attributes"] else [])
    except csv.Error as error:
        raise UnusableError(f"is not valid CSV ({error})") from None
    return (_Image(file, name, found) for name, found in regions.items())


def _json_of(text: str | None) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


# --- classes ---------------------------------------------------------------------------------------------------


def _class_key(images: list[_Image], wanted: str | None, reading: Reading) -> str | None:
    """The attribute of regions that is their class; None where not one region has an attribute."""
    keys: Counter[str] = Counter()
    for region in chain.from_iterable(image.regions for image in images):
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        keys.update(attributes.keys() if isinstance(attributes, dict) else ())
    likely = [key for word in _CLASS_KEYS for key in keys if key.lower() == word]
    if wanted is not None and wanted not in keys:
        raise InputError(f"--attribute: {unknown('attribute of regions', wanted, keys)}")
    key = wanted or next(iter(likely or (keys if len(keys) == 1 else ())), None)
    if keys and key is None:
        raise InputError(f"--attribute is missing: regions have the attributes {', '.join(list(keys)[:20])}; accepted: "
                         "the one that is the class")
    if len(keys) > 1:
        others = ", ".join(other for other in list(keys)[:20] if other != key)
        reading.notes.append(f"the class of a region is its attribute {key!r}; others are not read: {others}")
    return key


def _name_of(region: dict[str, Any], key: str | None, alone: str) -> str:
    """The value of the class attribute; of a checkbox the one that is ticked."""
    if key is None:
        return alone
    attributes = region.get("region_attributes")
    value = attributes.get(key) if isinstance(attributes, dict) else None
    if isinstance(value, dict):
        ticked = [name for name, is_set in value.items() if is_set]
        value = ticked[0] if len(ticked) == 1 else value
    return class_name(value)


# --- regions -----------------------------------------------------------------------------------------------------


def _add_record(image: _Image, key: str | None, request: Request, reading: Reading) -> None:
    try:
        path = request.images.find(image.name, image.file)
    except UnusableError as error:
        reading.fault(image.file, str(error), skipped=True)
        return
    where = f"{image.file}, {image.name}"
    items = reading.items(where, image.regions, lambda region: _item(region, key, request.class_name))
    if key is None and items:
        reading.notes += [f"no region has an attribute: all are of the one class {request.class_name!r} (--names names "
                          "it)"] if not reading.names else []
        reading.names = [request.class_name]
    reading.records.append(Record(path, where, items))


def _item(region: Any, key: str | None, alone: str) -> Item | str:
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise UnusableError(f"is {shown(region)}; accepted: keys shape_attributes and region_attributes")
    kind, name = shape.get("name"), ""
    if kind in _NO_AREA:
        return f"regions without area ({kind})"
    name = _name_of(region, key, alone)
    if kind == "rect":
        x, y, width, height = pixels(*(shape.get(part) for part in ("x", "y", "width", "height")))
        return Item(name, (x, y, x + width, y + height))
    if kind in ("polygon", "polygone"):
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise UnusableError("a polygon whose all_points_x and all_points_y are no lists of one length")
        return polygon_item(name, np.column_stack((pixels(*xs), pixels(*ys))))
    if kind in ("circle", "ellipse"):
        x, y = pixels(shape.get("cx"), shape.get("cy"))
        radii = pixels(*((shape.get("r"),) * 2 if kind == "circle" else (shape.get("rx"), shape.get("ry"))))
        return polygon_item(name, ellipse((x, y), radii, *pixels(shape.get("theta") or 0)))
    raise UnusableError(f"a shape {shown(kind)}; accepted: rect, polygon, circle, ellipse")
