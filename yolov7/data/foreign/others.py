"""Supervisely's folders and CreateML's JSON."""

from __future__ import annotations

import base64
import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolov7.config.schema import shown
from yolov7.data.foreign.files import UnusableError, files_below, read_json, split_of_name
from yolov7.data.foreign.records import (
    Box,
    Item,
    Reading,
    Record,
    Request,
    box_around,
    class_name,
    joined,
    pixels,
    points_of,
    polygon_item,
    stated_size,
)

Row = dict[str, Any]
_NO_AREA = ("point", "line", "polyline", "graph", "point_3d")
_MAX_BITMAP = 2**24  # bytes of a PNG
_MAX_PIXELS = 2**26
_SPLIT_TAGS = ("train", "val", "test")


# --- Supervisely -----------------------------------------------------------------------------------------------


def read_supervisely(request: Request) -> Reading:
    """Rectangles, polygons with holes, and bitmaps as their boxes; classes in the order of ``meta.json``."""
    reading = Reading()
    files = files_below(request.root, (".json",))
    for file in (file for file in files if os.path.basename(file) == "meta.json"):
        reading.names += [name for name in _listed_classes(file, reading) if name not in reading.names]
    reading.read_each([file for file in files if os.path.basename(os.path.dirname(file)) == "ann"],
                      lambda file: _supervisely_record(file, request, reading))
    reading.split_by_folder(request.root)
    return reading


def _listed_classes(file: str, reading: Reading) -> list[str]:
    try:
        content = read_json(file)
        rows = content.get("classes") if isinstance(content, dict) else None
        return [class_name(row.get("title")) for row in (rows if isinstance(rows, list) else ())
                if isinstance(row, dict)]
    except UnusableError as error:
        reading.notes.append(f"{file}: {error}; the order of the classes is not known from it")
        return []


def _supervisely_record(file: str, request: Request, reading: Reading) -> Record:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise UnusableError("is no annotation of Supervisely: the key 'objects' with a list is missing")
    name = os.path.basename(file).removesuffix(".json")
    image = request.images.find(os.path.join("..", "img", name), file, name)
    size = content["size"] if isinstance(content.get("size"), dict) else {}
    listed = content.get("tags")
    tags = [tag.get("name") for tag in (listed if isinstance(listed, list) else ()) if isinstance(tag, dict)]
    split = next((tag for tag in _SPLIT_TAGS if tag in tags), "")
    items = reading.items(file, content["objects"], _supervisely_item)
    return Record(image, file, items, stated_size(size.get("width"), size.get("height")), split)


def _supervisely_item(row: Row) -> Item | str:
    if not isinstance(row, dict):
        raise UnusableError(f"is {shown(row)}; accepted: keys")
    name, points = class_name(row.get("classTitle")), row.get("points")
    kind = row.get("geometryType") or ("bitmap" if row.get("bitmap") else "polygon")
    if kind in _NO_AREA:
        return f"objects without area ({kind})"
    if kind == "bitmap":
        return Item(name, _bitmap_box(row.get("bitmap")))
    points = points if isinstance(points, dict) else {}
    exterior, interior = points_of(points.get("exterior")), points.get("interior")
    if kind == "rectangle" and len(exterior) == 2:
        return Item(name, box_around(exterior))
    if kind != "polygon":
        raise UnusableError(f"a {shown(kind)} of {len(exterior)} points; accepted: rectangle, polygon, bitmap")
    holes = [points_of(hole) for hole in interior] if isinstance(interior, list) else []
    outline = polygon_item(name, exterior)
    return outline._replace(polygon=joined([exterior, *(hole for hole in holes if len(hole) > 2)]))


def _bitmap_box(bitmap: Any) -> Box:
    """The box around the pixels of a compressed mask."""
    if not isinstance(bitmap, dict) or not isinstance(bitmap.get("data"), str):
        raise UnusableError("a bitmap without data")
    (left, top), = points_of([bitmap.get("origin")]).tolist()
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(bitmap["data"]), _MAX_BITMAP)
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise UnusableError(f"a bitmap of {image.width} x {image.height} px; accepted: up to {_MAX_PIXELS} px")
            mask = np.array(image.convert("RGBA"))[..., 3] if "A" in image.getbands() else np.array(image.convert("L"))
    except (ValueError, zlib.error, OSError, SyntaxError, Image.DecompressionBombError):
        raise UnusableError("a bitmap that cannot be decoded") from None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise UnusableError("a bitmap without pixels")
    return (left + float(columns[0]), top + float(rows[0]), left + float(columns[-1]) + 1, top + float(rows[-1]) + 1)


# --- CreateML --------------------------------------------------------------------------------------------------


def read_createml(request: Request) -> Reading:
    """Boxes by their centres, in pixels; a file for all images of a folder."""
    reading = Reading()
    for file in [str(request.path)] if request.path.is_file() else files_below(request.root, (".json",)):
        try:
            rows = read_json(file)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise UnusableError("is no file of CreateML: a list of images is missing")
        except UnusableError as error:
            reading.notes.append(f"{file}: {error}; the file is left out")
            continue
        for row in rows:
            _add_createml(row, file, request, reading)
    reading.split_by_folder(request.root)
    for record in reading.records:
        record.split = record.split or split_of_name(record.file)
    return reading


def _add_createml(row: Row, file: str, request: Request, reading: Reading) -> None:
    name = next((row[key] for key in ("image", "imagefilename", "filename") if isinstance(row.get(key), str)), "")
    annotations = row.get("annotations", row.get("annotation"))
    try:
        image = request.images.find(name, file)
        if not isinstance(annotations, list):
            raise UnusableError(f"{shown(name)} has no list of annotations")
    except UnusableError as error:
        reading.fault(file, str(error), skipped=True)
        return
    where = f"{file}, {Path(name).name}"
    reading.records.append(Record(image, where, reading.items(where, annotations, _createml_item)))


def _createml_item(row: Row) -> Item:
    centre = row.get("coordinates") if isinstance(row, dict) else None
    if not isinstance(centre, dict):
        raise UnusableError(f"is {shown(row)}; accepted: keys label and coordinates")
    x, y, width, height = pixels(*(centre.get(key) for key in ("x", "y", "width", "height")))
    return Item(class_name(row.get("label")), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
