"""What a reader of a foreign format gives: images with named objects, and what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from yolov7.config import InputError
from yolov7.config.schema import shown
from yolov7.data.coco_annotations import ShapeError, join_parts
from yolov7.data.coco_content import number
from yolov7.data.foreign.files import ImageIndex, UnusableError, split_of_folders
from yolov7.data.image_set import Fault
from yolov7.runtime.progress import Progress

T = TypeVar("T")
Box = tuple[float, float, float, float]
NO_POLYGON = np.zeros((0, 2))
_MAX_PIXELS = 1e7  # of any coordinate
_MAX_OBJECTS = 5_000_000
_MAX_FAULTS = 100_000  # that are listed
_CORNERS = 32  # of the polygon of an ellipse


class Item(NamedTuple):
    """An object."""

    name: str  # of its class
    box: Box  # xyxy pixels, or fractions of width and height
    polygon: np.ndarray = NO_POLYGON  # float64 [K, 2]
    crowd: bool = False


@dataclass
class Record:
    """An image with its objects."""

    image: str
    file: str  # that its objects stand in
    items: list[Item] = field(default_factory=list)
    size: tuple[int, int] | None = None  # width and height as the file states them
    split: str = ""
    fractions: bool = False  # the unit of the boxes


@dataclass(frozen=True)
class Request:
    """What is to be read: ``--data``, its folder, the images, and what flags say."""

    path: Path
    root: Path
    images: ImageIndex
    attribute: str | None = None
    first_pixel: int | None = None
    class_name: str = "object"  # of objects in a format, or a file, that names no classes


@dataclass
class Reading:
    """What was found."""

    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # in the order in which the format lists them, if it does
    left_out: Counter[str] = field(default_factory=Counter)  # what, and how often
    notes: list[str] = field(default_factory=list)  # what was decided
    more_faults: int = 0  # that are counted only
    objects: int = 0

    def fault(self, file: str, reason: str, skipped: bool = False) -> None:
        """Something that cannot be used: an object, or an image with all of its objects."""
        if len(self.faults) < _MAX_FAULTS:
            what = "the image is skipped" if skipped else "the object is dropped"
            self.faults.append(Fault(file, f"{reason}; {what}", skipped))
        else:
            self.more_faults += 1

    def read_each(self, files: Sequence[str], read: Callable[[str], Record | None]) -> None:
        """The record of each file, where it can be read."""
        for file in Progress(files, "reading annotations", unit="files"):
            try:
                record = read(file)
            except UnusableError as error:
                self.fault(file, str(error), skipped=True)
            else:
                self.records += [record] if record else []

    def items(self, file: str, rows: Iterable[T], read: Callable[[T], Item | str]) -> list[Item]:
        """The objects of some rows (see `item`)."""
        return [item for place, row in enumerate(rows, 1) for item in self.item(file, f"object {place}", row, read)]

    def item(self, file: str, where: str, row: T, read: Callable[[T], Item | str]) -> list[Item]:
        """The object of a row, if it is one; a text instead of one says what is left out."""
        try:
            found = read(row)
        except UnusableError as error:
            self.fault(file, f"{where}: {error}")
            return []
        if isinstance(found, str):
            self.left_out[found] += 1
            return []
        self.objects += 1
        if self.objects > _MAX_OBJECTS:
            raise InputError(f"{file}: there are more than {_MAX_OBJECTS:,} objects; convert the data in parts")
        return [found]

    def split_by_folder(self, root: Path) -> None:
        """Give each image the split that the folders of its annotations, or its own, name."""
        for record in self.records:
            record.split = (record.split or split_of_folders(record.file, root)
                            or split_of_folders(record.image, root))


# --- values ----------------------------------------------------------------------------------------------------


def class_name(value: Any) -> str:
    """The name of a class; numbers are names, too. Raises `UnusableError`."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise UnusableError(f"the class is {shown(value)}; accepted: a name")
    name = " ".join(str(value).split())
    if len(name) > 200 or not name.isprintable():
        raise UnusableError(f"the class is {shown(value)}; accepted: a name of up to 200 characters")
    return name


def pixels(*values: Any) -> tuple[float, ...]:
    """Coordinates as numbers. Raises `UnusableError`."""
    found = [number(value) for value in values]
    for value, result in zip(values, found, strict=True):
        if result is None or abs(result) > _MAX_PIXELS:
            raise UnusableError(f"a coordinate is {shown(value)}; accepted: a number of pixels")
    return tuple(result for result in found if result is not None)


def points_of(values: Any) -> np.ndarray:
    """Points ``[[x, y], ...]`` as float64 ``[K, 2]``. Raises `UnusableError`."""
    if not isinstance(values, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        raise UnusableError(f"the points are {shown(values)}; accepted: pairs of numbers")
    return np.array([pixels(*point) for point in values], np.float64).reshape(-1, 2)


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height that a file states; zeros and what is no number state nothing."""
    found = [number(value) for value in (width, height)]
    if any(value is None or value < 1 for value in found):
        return None
    return tuple(map(int, found))  # type: ignore[arg-type,return-value]


# --- shapes ----------------------------------------------------------------------------------------------------


def box_around(points: np.ndarray) -> Box:
    """The box of points ``[K, 2]``."""
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def polygon_item(name: str, points: np.ndarray, crowd: bool = False) -> Item:
    """An object with a polygon ``[K, 2]`` and its box. Raises `UnusableError` for fewer than 3 points."""
    if len(points) < 3:
        raise UnusableError(f"a polygon of {len(points)} points; accepted: at least 3")
    return Item(name, box_around(points), points, crowd)


def joined(polygons: list[np.ndarray]) -> np.ndarray:
    """The parts and holes of one object as one polygon; none where they have too many points to be joined."""
    try:
        return join_parts(polygons)
    except ShapeError:
        return NO_POLYGON


def corners_of(box: Box) -> np.ndarray:
    """The polygon of a box: float64 ``[4, 2]``."""
    x1, y1, x2, y2 = box
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64)


def ellipse(centre: Sequence[float], radii: Sequence[float], turned: float = 0.0) -> np.ndarray:
    """The polygon in an ellipse, turned by an angle in radians: float64 ``[K, 2]``.

    The outermost points in x and y are among its corners, so its box is that of the ellipse.
    """
    (rx, ry), cosine, sine = radii, math.cos(turned), math.sin(turned)
    outermost = (math.atan2(-ry * sine, rx * cosine), math.atan2(ry * cosine, rx * sine))
    angles = np.concatenate((np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False),
                             *((angle % (2 * math.pi), (angle + math.pi) % (2 * math.pi)) for angle in outermost)))
    angles = np.unique(angles.round(12))
    x, y = rx * np.cos(angles), ry * np.sin(angles)
    return np.column_stack((centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine))
