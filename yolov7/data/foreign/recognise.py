"""Which tool's format a file or folder is in, told from a few of its bytes; and the command that converts it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from yolov7.config.program import command
from yolov7.data.foreign.columns import encoding_of, layout_of, split_row

_HEAD = 1 << 16  # bytes that are read at either end of a file
_MAX_DEPTH = 3
_MAX_FOLDERS = 60
_MAX_NAMES = 5000  # that are looked at in a folder
_OPENED = 3  # files of each suffix in a folder
_SUFFIXES = (".json", ".xml", ".csv")
_GENERIC = ("data", "annotations", "images", "labels", "train", "val", "valid", "test", "dataset", "jpegimages", "ann",
            "img")


@dataclass(frozen=True)
class ForeignFormat:
    """The format of another tool."""

    name: str  # for people
    files: tuple[str, ...]  # that gave it away
    command: str | None = None  # that converts it
    advice: str = ""  # where there is none
    readable: bool = False  # as it is, where a data-set YAML names it

    def __str__(self) -> str:
        others = ", ..." * (len(self.files) > 1)
        how = f"; the command that makes a data set of them: {self.command}" if self.command else f", {self.advice}"
        return f"found {self.name} ({self.files[0]}{others}){how}"


class _Kind(NamedTuple):
    name: str
    words: tuple[tuple[str, ...], ...]  # one of each group stands in the file
    converter: str = ""
    advice: str = ""
    per_image: bool = False  # a file for each image
    readable: bool = False  # as it is


_EXPORT = "which is not read; accepted: what its tool exports as "
_COCO_ADVICE = "which is read where a data-set YAML names it: train: {images: FOLDER, annotations: FILE.json}"
_JSON = (  # the first that fits counts
    _Kind("labelme annotations", (('"shapes"',), ('"imagePath"', '"shape_type"', '"imageData"')), "labelme",
          per_image=True),
    _Kind("a project of VIA 3", (('"__VIA_PROJECT_ID__"', '"vid_list"'),), advice=f"{_EXPORT}COCO, or VIA 2's JSON"),
    _Kind("annotations of the VGG Image Annotator (VIA)",
          (('"_via_img_metadata"', '"_via_settings"', '"shape_attributes"', '"file_attributes"'),), "via"),
    _Kind("LVIS annotations (COCO JSON)", (('"neg_category_ids"', '"not_exhaustive_category_ids"', '"synset"'),),
          advice=f"{_COCO_ADVICE}, with the folder of COCO's images", readable=True),
    _Kind("COCO JSON", (('"images"', '"annotations"'), ('"file_name"', '"category_id"', '"categories"', '"coco_url"')),
          advice=_COCO_ADVICE, readable=True),
    _Kind("an export of Label Studio", (('"from_name"', '"rectanglelabels"', '"polygonlabels"', '"brushlabels"'),),
          advice=f"{_EXPORT}COCO or YOLO"),
    _Kind("a project of Supervisely", (('"classTitle"', '"geometryType"'),), "supervisely", per_image=True),
    _Kind("a project of Supervisely", (('"classes"',), ('"title"',), ('"shape"', '"geometry_config"')), "supervisely"),
    _Kind("CreateML annotations", (('"coordinates"',), ('"annotations"', '"annotation"'), ('"label"',)), "createml"),
    _Kind("a project of VoTT", (('"boundingBox"',), ('"regions"', '"assets"')), advice=f"{_EXPORT}Pascal VOC or CSV"),
    _Kind("BDD100K labels", (('"box2d"',),), advice=f"{_EXPORT}COCO (bdd100k's to_coco)"),
    _Kind("an export of Labelbox", (('"data_row"', '"Labeled Data"'),), advice=f"{_EXPORT}COCO"),
    _Kind("Datumaro annotations", (('"dm_format_version"', '"label_id"'),), advice=f"{_EXPORT}COCO or YOLO"),
    _Kind("Cityscapes annotations", (('"imgHeight"',), ('"polygon"',)), advice=f"{_EXPORT}COCO"))
_XML = (
    _Kind("CVAT's XML", (("<annotations",), ("<image", "<meta", "<track")), advice=f"{_EXPORT}COCO or YOLO"),
    _Kind("Pascal VOC annotations", (("<annotation",), ("<object", "<filename", "<size")), "voc", per_image=True))
_CSV_KINDS = (
    _Kind("annotations of the VGG Image Annotator (VIA)", (("region_shape_attributes",),), "via"),)
_BOXES = _Kind("CSV with a box a row", (), "csv")
_OPEN_IMAGES = _Kind("Open Images annotations (CSV)", (), "csv")
_TFRECORD = _Kind("TFRecord files", (), advice="which are not read; accepted: the data that they were made of")


def refusal(*places: str | os.PathLike[str], readable: bool = True) -> str:
    """What to say of the first place that is in a foreign format, instead of what went wrong with it; else nothing.

    Without ``readable`` formats do not count that are read as they are.
    """
    for place in places:
        found = foreign_format(place)
        if found and (readable or not found.readable):
            return f"--data: {found}"
    return ""


def foreign_format(path: str | os.PathLike[str]) -> ForeignFormat | None:
    """The foreign format of a file, or of most files in a folder that have one; never an error.

    Only the ends of a few files are read, and nothing of them is executed.
    """
    found: dict[str, list[str]] = {}
    kinds: dict[str, _Kind] = {}
    path = Path(path)
    for file in [str(path)] if path.is_file() else _likely_files(path):
        if kind := _kind_of(file):
            found.setdefault(kind.name, []).append(file)
            kinds.setdefault(kind.name, kind)
    if not found:
        return None
    name = max(found, key=lambda name: len(found[name]))
    kind, files = kinds[name], tuple(found[name])
    data = path.parent if path.is_file() and kind.per_image else path
    return ForeignFormat(name, files, _command(kind.converter, data) if kind.converter else None, kind.advice,
                         kind.readable)


def _command(converter: str, data: Path) -> str:
    parts = [part for part in Path(os.path.abspath(data)).with_suffix("").parts if part.lower() not in _GENERIC]
    name = parts[-1] if len(parts) > 1 else "converted"
    return command("data convert", from_=converter, data=data, to="yolo", output=f"datasets/{name}")


# --- files -----------------------------------------------------------------------------------------------------


def _likely_files(root: Path) -> Iterator[str]:
    """The first files of each suffix in a folder and the folders in it, level by level, within bounds."""
    level, seen = [str(root)], 0
    for _ in range(_MAX_DEPTH + 1):
        found = [_entries(folder) for folder in level[: _MAX_FOLDERS - seen]]
        seen += len(found)
        for _, files in found:
            yield from (file for suffix in (*_SUFFIXES, "")
                        for file in [file for file in files if _suffix(file) == suffix][:_OPENED])
        level = [folder for folders, _ in found for folder in folders]


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Folders and files in a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.is_dir(), entry.path) for entry in islice(entries, _MAX_NAMES)
                     if not entry.name.startswith(".")]
    except OSError:
        return [], []
    folders, files = (sorted(path for is_folder, path in found if is_folder == kind) for kind in (True, False))
    return folders, files


def _suffix(file: str) -> str | None:
    """One of those that are looked into; empty for TFRecord files, None for others."""
    suffix = os.path.splitext(file)[1].lower()
    tfrecord = re.search(r"\.(tf)?records?(-\d+-of-\d+)?$", file.lower())
    return suffix if suffix in _SUFFIXES else "" if tfrecord else None


def _kind_of(file: str) -> _Kind | None:
    suffix = _suffix(file)
    if not suffix:
        return None if suffix is None else _TFRECORD
    text = _ends_of(file)
    kinds = {".json": _JSON, ".xml": _XML, ".csv": _CSV_KINDS}[suffix]
    for kind in kinds:
        if all(any(word in text for word in group) for group in kind.words):
            return kind
    return _kind_of_columns(text) if suffix == ".csv" else None


def _kind_of_columns(text: str) -> _Kind | None:
    first = text.partition("\n")[0].strip("\r")[:2000]
    layout = layout_of(split_row(first)[0])
    return None if layout is None else _OPEN_IMAGES if layout.fractions else _BOXES


def _ends_of(file: str) -> str:
    """The beginning and the end of a regular file as text, whatever is in it."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return ""
        with open(file, "rb") as stream:
            head = stream.read(_HEAD)
            stream.seek(max(os.fstat(stream.fileno()).st_size - _HEAD, len(head)))
            return (head + stream.read(_HEAD)).decode(encoding_of(head), "replace")
    except (OSError, ValueError):
        return ""
