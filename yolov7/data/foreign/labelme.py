"""labelme: a JSON file beside each image."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from yolov7.config.schema import shown
from yolov7.data.foreign.files import UnusableError, files_below, read_json
from yolov7.data.foreign.records import (
    Box,
    Item,
    Reading,
    Record,
    Request,
    box_around,
    class_name,
    corners_of,
    ellipse,
    joined,
    points_of,
    polygon_item,
    stated_size,
)

Row = dict[str, Any]
_NO_AREA = ("line", "linestrip", "point", "points")
_CROWD_FLAGS = ("difficult", "crowd", "iscrowd")
_IGNORED = "__ignore__"  # labelme's own name for what is no object


def read_labelme(request: Request) -> Reading:
    """Polygons, rectangles, circles and masks; shapes of one ``group_id`` and label are parts of one object."""
    reading = Reading()
    files = [str(request.path)] if request.path.is_file() else files_below(request.root, (".json",))
    reading.read_each(files, lambda file: _record(file, request, reading))
    reading.split_by_folder(request.root)
    return reading


def _record(file: str, request: Request, reading: Reading) -> Record | None:
    content = read_json(file)
    if not request.path.is_file() and (not isinstance(content, dict) or "shapes" not in content):
        reading.left_out["JSON files of another kind"] += 1
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UnusableError("is no labelme file: the key 'shapes' with a list is missing")
    name = content.get("imagePath")
    try:
        image = request.images.find(name if isinstance(name, str) else "", file,
                                    os.path.splitext(os.path.basename(file))[0])
    except UnusableError as error:
        inside = " (the file holds a copy of it, as imageData)" if content.get("imageData") else ""
        raise UnusableError(f"{error}{inside}") from None
    size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
    items: list[Item] = []
    for rows in _groups(content["shapes"]):
        items += _joined(reading.items(file, rows, _item))
    return Record(image, file, items, size)


def _groups(shapes: list[Any]) -> list[list[Any]]:
    """Shapes by label and ``group_id``; each without a group is one."""
    groups: dict[Any, list[Any]] = {}
    for place, shape in enumerate(shapes):
        group = shape.get("group_id") if isinstance(shape, dict) else None
        alone = group is None or not isinstance(group, (int, str))
        groups.setdefault(place if alone else (str(shape.get("label")), group), []).append(shape)
    return list(groups.values())


def _joined(parts: list[Item]) -> list[Item]:
    if len(parts) < 2:
        return parts
    polygons = [part.polygon if len(part.polygon) else corners_of(part.box) for part in parts]
    box = box_around(np.concatenate([corners_of(part.box) for part in parts]))
    return [Item(parts[0].name, box, joined(polygons), any(part.crowd for part in parts))]


def _item(shape: Row) -> Item | str:
    if not isinstance(shape, dict):
        raise UnusableError(f"is {shown(shape)}; accepted: keys")
    name, kind = class_name(shape.get("label")), shape.get("shape_type") or "polygon"
    if kind in _NO_AREA:
        return f"shapes without area ({kind})"
    if name == _IGNORED:
        return f"shapes labelled {_IGNORED}"
    points, flags = points_of(shape.get("points")), shape.get("flags")
    crowd = any(holder.get(flag) in (True, 1) for flag in _CROWD_FLAGS
                for holder in (shape, flags if isinstance(flags, dict) else {}))
    if kind in ("polygon", "rotation", "quadrilateral"):
        return polygon_item(name, points, crowd)
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        return polygon_item(name, ellipse(points[0].tolist(), (radius, radius)), crowd)
    if (kind == "rectangle" and len(points) in (2, 4)) or (kind == "mask" and len(points) == 2):
        return Item(name, _box(points, kind), crowd=crowd)
    raise UnusableError(f"a {shown(kind)} of {len(points)} points; accepted: polygon, rectangle, circle, mask")


def _box(points: np.ndarray, kind: str) -> Box:
    x1, y1, x2, y2 = box_around(points)
    beyond = kind == "mask"  # its points are the first and the last pixel
    return x1, y1, x2 + beyond, y2 + beyond
