"""What the first row of a CSV file tells: which column is what."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

from yolov7.data.images import IMAGE_SUFFIXES

_IMAGE = ("imageid", "filename", "imagename", "image", "imagepath", "imagefile", "file", "path", "img")
_CLASS = ("labelname", "classname", "class", "label", "category", "name", "object")
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
_SIZES = (("x", "y", "w", "h"), ("xmin", "ymin", "w", "h"), ("bboxx", "bboxy", "bboxwidth", "bboxheight"))
_WIDTH, _HEIGHT = ("width", "imagewidth", "imgwidth"), ("height", "imageheight", "imgheight")
_CROWD = ("isgroupof", "iscrowd", "difficult")
_DELIMITERS = ",;\t"


class Layout(NamedTuple):
    """Which column is what; -1: none."""

    image: int
    label: int
    box: tuple[int, ...]  # four columns, or one with four numbers x, y, width, height
    corners: bool  # xmin, ymin, xmax, ymax, not x, y, width, height
    width: int = -1
    height: int = -1
    crowd: int = -1
    fractions: bool = False
    header: bool = True


def layout_of(first: Sequence[str]) -> Layout | None:
    """The layout that the first row of a file announces, if it is one of boxes."""
    names = ["".join(filter(str.isalnum, name.lower())) for name in first]
    if len(first) == 6 and first[0].lower().endswith(IMAGE_SUFFIXES) and all(
            re.fullmatch(r"\s*|\s*-?\d+(\.\d*)?\s*", value) for value in first[1:5]):
        return Layout(0, 5, (1, 2, 3, 4), corners=True, header=False)  # keras-retinanet's, without a header

    def column(accepted: Sequence[str]) -> int:
        return next((names.index(name) for name in accepted if name in names), -1)

    for accepted, corners in ((_CORNERS, True), (_SIZES, False), ((("bbox",),), False)):
        box = next((four for four in accepted if set(four) <= set(names)), None)
        if box and (image := column(_IMAGE)) >= 0:
            return Layout(image, column(_CLASS), tuple(map(names.index, box)), corners, column(_WIDTH),
                          column(_HEIGHT), column(_CROWD), {"imageid", "labelname"} <= set(names))
    return None


def split_row(text: str) -> tuple[list[str], str]:
    """The values of the first row of a file, and the character between them."""
    delimiter = max(_DELIMITERS, key=text.count)
    try:
        return next(csv.reader([text], delimiter=delimiter), []), delimiter
    except csv.Error:
        return [], delimiter


def encoding_of(head: bytes) -> str:
    """The encoding that a byte-order mark tells, else UTF-8."""
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
