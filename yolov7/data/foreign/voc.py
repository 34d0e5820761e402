"""Pascal VOC: an XML file for each image, lists of the splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from yolov7.data.foreign.files import UnusableError, files_below, lines_of, read_bytes
from yolov7.data.foreign.records import (
    Item,
    Reading,
    Record,
    Request,
    box_around,
    class_name,
    pixels,
    polygon_item,
    stated_size,
)

_MAX_BYTES = 4 * 2**20
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Builder(ElementTree.TreeBuilder):
    """Elements of XML without definitions of its own: entities would grow beyond any bound."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise UnusableError(f"has a document type ({name[:40]}), which is not read")


def read_voc(request: Request) -> Reading:
    """Boxes and polygons; ``difficult`` objects are crowds. The splits are those of ``ImageSets/Main``, or folders'."""
    reading = Reading()
    root = request.root.parent if request.root.name.lower() == "annotations" else request.root
    files = [str(request.path)] if request.path.is_file() else files_below(request.root, (".xml",))
    reading.read_each(files, lambda file: _record(file, request, reading))
    _count_from_zero(reading, request.first_pixel)
    if difficult := sum(item.crowd for record in reading.records for item in record.items):
        reading.notes.append(f"{difficult} objects marked difficult are crowds (iscrowd=1), which are no objects in "
                             "training")
    if lists := _lists(root, reading):
        _split_by_lists(reading, lists)
    reading.split_by_folder(root)
    return reading


# --- one image ---------------------------------------------------------------------------------------------------


def _record(file: str, request: Request, reading: Reading) -> Record | None:
    root = parse_xml(read_bytes(file, _MAX_BYTES))
    if root.tag != "annotation":
        reading.left_out["XML files of another kind"] += 1
        return None
    stem = os.path.splitext(os.path.basename(file))[0]
    image = request.images.find((root.findtext("filename") or "").strip(), file, stem)
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    return Record(image, file, reading.items(file, root.findall("object"), _item), size)


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root of an XML document, without a document type. Raises `UnusableError`."""
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that there is not
        raise UnusableError(f"is not valid XML ({error})") from None


def _item(element: ElementTree.Element) -> Item | str:
    name = class_name(element.findtext("name"))
    if (element.findtext("deleted") or "").strip() == "1":
        return "objects marked deleted"
    crowd = (element.findtext("difficult") or "").strip().lower() in ("1", "true")
    box, polygon = element.find("bndbox"), element.find("polygon")
    points = np.zeros((0, 2)) if polygon is None else _points(polygon)
    if box is None and len(points):
        return polygon_item(name, points, crowd)
    if box is None:
        return "objects without a bndbox"
    x1, y1, x2, y2 = pixels(*(box.findtext(corner) for corner in _CORNERS))
    return Item(name, (x1, y1, x2, y2), points if len(points) > 2 else points[:0], crowd)


def _points(polygon: ElementTree.Element) -> np.ndarray:
    """Points as ``<pt><x/><y/></pt>`` or as ``<x1/><y1/><x2/><y2/>``."""
    values: list[Any] = [point.findtext(axis) for point in polygon.findall("pt") for axis in ("x", "y")]
    place = 1
    while not polygon.findall("pt") and polygon.find(f"x{place}") is not None:
        values += [polygon.findtext(f"x{place}"), polygon.findtext(f"y{place}")]
        place += 1
    return np.array(pixels(*values), np.float64).reshape(-1, 2)


def _count_from_zero(reading: Reading, first_pixel: int | None) -> None:
    """Corners as edges of pixels, from 0 on.

    The devkit numbers pixels from 1, and both corners lie inside: the left edge of pixel ``xmin`` is at xmin - 1, the
    right edge of pixel ``xmax`` at xmax. A set in which a corner is 0 was not numbered so.
    """
    boxes = [item.box for record in reading.records for item in record.items if _is_numbered(item)]
    zero = any(0 <= value < 1 for box in boxes for value in box[:2])
    first = first_pixel if first_pixel is not None else 0 if zero else 1
    why = "--first-pixel" if first_pixel is not None else "a corner is 0" if zero else "as in the VOC devkit"
    taken = "taken less 1" if first else "taken as they are"
    if not boxes:
        return
    reading.notes.append(f"the first pixel is {first} ({why}): xmin and ymin are {taken}; --first-pixel {1 - first} if "
                         "that is wrong")
    for record in reading.records if first else ():
        record.items = [item._replace(box=(item.box[0] - 1, item.box[1] - 1, *item.box[2:])) if _is_numbered(item)
                        else item for item in record.items]


def _is_numbered(item: Item) -> bool:
    """Whether the corners are numbers of pixels; those of a polygon are points."""
    return not len(item.polygon) or box_around(item.polygon) != item.box


# --- splits ------------------------------------------------------------------------------------------------------


def _lists(root: Path, reading: Reading) -> dict[tuple[str, str], str]:
    """The split of each name in the lists of ``ImageSets/Main``, with the folder that holds ``ImageSets``."""
    split_of: dict[tuple[str, str], str] = {}
    twice = 0
    for folder in sorted(found for depth in ("", "*/", "*/*/") for found in root.glob(f"{depth}ImageSets/Main")):
        halves = any((folder / f"{split}.txt").is_file() for split in ("train", "val"))
        for name in ("train", "val", "test") if halves else ("trainval", "test"):
            split = "train" if name == "trainval" else name
            for key in _names_in(folder / f"{name}.txt", reading):
                twice += split_of.setdefault((str(folder.parents[1]), key), split) != split
    if twice:
        reading.notes.append(f"{twice} images stand in several lists of ImageSets/Main: the first of train, val, test "
                             "counts")
    return split_of


def _names_in(file: Path, reading: Reading) -> list[str]:
    try:
        return [line.split()[0] for line in lines_of(file)] if file.is_file() else []
    except UnusableError as error:
        reading.notes.append(f"{file}: {error}; the list is left out")
        return []


def _split_by_lists(reading: Reading, lists: dict[tuple[str, str], str]) -> None:
    bases = sorted({base for base, _ in lists}, key=len, reverse=True)
    kept = []
    for record in reading.records:
        base = next((base for base in bases if record.file.startswith(base + os.sep)), "")
        stem = os.path.splitext(os.path.basename(record.file))[0]
        record.split = lists.get((base, stem), "")
        kept += [record] if record.split else []
    if left := len(reading.records) - len(kept):
        reading.left_out["images that no list in ImageSets/Main names"] += left
    reading.notes.append("the splits are those of ImageSets/Main")
    reading.records = kept
