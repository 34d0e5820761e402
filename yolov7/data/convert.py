"""Data sets from COCO JSON to YOLO txt and back, and from other tools' formats to both: `yolov7 data convert`.

What the formats cannot both hold: label files have no crowds (``iscrowd=1`` annotations are not used for training), no
category ids (classes count from 0) and no image ids (they are the file names); a polygon there has no box but its own,
and an object with key points has no polygon. Parts and holes are one closed line there; in COCO JSON parts are
polygons of their own, and a mask with holes is run lengths.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from yolov7.config import InputError, atomic_path, unknown
from yolov7.config.options import ConvertOptions
from yolov7.config.program import command
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.foreign.read import open_foreign
from yolov7.data.formats import format_of
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.data.images import IMAGE_SUFFIXES
from yolov7.data.outlines import COCO_DECIMALS, INSET, segmentation_of
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

EXACT = 1e-4  # pixels, within which boxes and polygons survive there and back
# A box edge is off by at most 0.75 units of the last decimal, times the side: at 20,000 px nine decimals make it
# 1.5e-5 px, eight would make it 1.5e-4. Rounding to float32 on reading then returns the number that was written
# wherever its neighbours are further away than that.
DECIMALS = 9
MIN_WIDTH = 0.01  # pixels; a polygon narrower than this could be read back as nothing


@dataclass
class _Tally:
    """What was written, for the report."""

    crowds: int = 0  # that are left out
    linked: int = 0
    copied: int = 0
    moved: int = 0  # objects whose box becomes that of their polygon
    furthest: float = 0.0  # pixels, by which it moves at most
    shapeless: int = 0  # objects whose polygon is left out for their key points


def convert(options: ConvertOptions) -> Path:
    """Write splits of a data set in the other format, whole or not at all; returns what ``--data`` takes.

    Raises `InputError` for a set that has the format already and for an output folder that is not empty.
    """
    options = _checked(options)
    output = Path(os.path.abspath(options.output))
    if options.from_:
        check_output(output, options.output)
        image_sets = open_foreign(options)
    else:
        source, splits = _open_source(options)
        check_output(output, options.output)
        image_sets = [open_split(source, split, crowds=True) for split in splits]
    splits = tuple(image_set.split for image_set in image_sets)
    tally = _Tally(crowds=sum(int(image_set.objects.crowd.sum()) for image_set in image_sets))
    if options.to == "yolo":
        image_sets = [image_set.only(~image_set.objects.crowd) for image_set in image_sets]
    with atomic_path(output) as temporary:
        for image_set in image_sets:
            write = _write_yolo if options.to == "yolo" else _write_coco
            write(image_set, temporary, options, tally)
        if options.to == "yolo":
            _write_yaml(image_sets[0], splits, temporary / "data.yaml", _writes_keypoints(image_sets[0], options))
    for image_set in image_sets:
        report_faults(image_set, Path(options.output))
    written = Path(options.output, "data.yaml" if options.to == "yolo" else "")
    _report(written, image_sets, tally, options)
    return written


# --- before anything is written --------------------------------------------------------------------------------


def _checked(options: ConvertOptions) -> ConvertOptions:
    """With what is needed; a format that is read from another tool is written as label files, unless told otherwise."""
    if options.from_ and not options.to:
        options = replace(options, to="yolo")
    for flag, value, accepted in (
        ("--data", options.data, "a YAML file, a shipped name, or a folder in COCO layout"),
        ("--to", options.to, "yolo, coco"),
        ("--output", options.output, "a folder, new or empty"),
    ):
        if not value:
            raise InputError(f"{flag} is missing; accepted: {accepted}")
    if options.copy and options.link:
        raise InputError("--copy and --link exclude each other; accepted: one of them, or neither")
    if not options.from_ and (options.images or options.names or options.attribute):
        raise InputError("--images, --names and --attribute go with --from, which is missing; accepted: the format of "
                         "the annotations")
    return options


def _open_source(options: ConvertOptions) -> tuple[DataSource, tuple[str, ...]]:
    source = open_data(options.data)
    splits = chosen_splits(source, options.splits)
    for split in splits:
        if format_of(source.splits[split]).name == options.to:
            other = {"coco": "yolo", "yolo": "coco"}[options.to]
            raise InputError(f"--to {options.to}: {source.file}, {split} is in this format already; accepted: {other}")
    return source, splits


def chosen_splits(source: DataSource, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits that ``--splits`` names, each once; all of the data set where it names none."""
    for split in wanted:
        if split not in source.splits:
            raise InputError(f"--splits: {unknown('split', split, source.splits)}")
    return tuple(dict.fromkeys(wanted)) or tuple(source.splits)


def check_output(output: Path, name: str) -> None:
    """Raise `InputError` for a folder that cannot be written; makes those above it."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {name!r}: exists; accepted: a folder that is new or empty")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {name!r}: cannot be made: {error.strerror}") from None


# --- images --------------------------------------------------------------------------------------------------


def flat_names(paths: Sequence[str]) -> list[str]:
    """A file name for each image in one folder: its own, with a number behind it where another one has the stem.

    Stems are told apart without case, as file systems may. Suffixes that no folder is searched for get ``.jpg``
    behind them (images are known by their content).
    """
    names: list[str] = []
    last: dict[str, int] = {}
    for path in paths:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix.lower() not in IMAGE_SUFFIXES:
            stem, suffix = stem + suffix, ".jpg"
        unique, key = stem, stem.casefold()
        while unique.casefold() in last:
            last[key] += 1
            unique = f"{stem}_{last[key]}"
        last[unique.casefold()] = 1
        names.append(unique + suffix)
    return names


def _placed_images(image_set: ImageSet, folder: Path, options: ConvertOptions,
                   tally: _Tally) -> Iterator[tuple[int, str]]:
    """Index and name of each image, as soon as it stands in ``images/<split>`` of the folder."""
    target = folder / "images" / image_set.split
    target.mkdir(parents=True)
    names = flat_names(image_set.paths)
    for index, name in enumerate(Progress(names, f"writing {image_set.split}", unit="images")):
        _place_image(image_set.paths[index], target / name, options, tally)
        yield index, name


def _place_image(path: str, target: Path, options: ConvertOptions, tally: _Tally) -> None:
    original = os.path.realpath(path)  # a hard link to a symbolic link would point nowhere
    if not options.copy:
        try:
            os.link(original, target)
            tally.linked += 1
            return
        except OSError as error:
            if options.link:
                raise InputError(f"--link: {path} cannot be linked ({error.strerror}); accepted: --copy") from None
    shutil.copyfile(original, target)
    tally.copied += 1


# --- YOLO txt --------------------------------------------------------------------------------------------------


def _write_yolo(image_set: ImageSet, folder: Path, options: ConvertOptions, tally: _Tally) -> None:
    labels = folder / "labels" / image_set.split
    labels.mkdir(parents=True)
    for index, name in _placed_images(image_set, folder, options, tally):
        text = "".join(f"{row}\n" for row in _rows(image_set, index, options, tally))
        (labels / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def _writes_keypoints(image_set: ImageSet, options: ConvertOptions) -> bool:
    return bool(image_set.keypoint_names) and not options.boxes and not options.polygons


def _rows(image_set: ImageSet, index: int, options: ConvertOptions, tally: _Tally) -> list[str]:
    """The lines of one label file: boxes with key points, polygons where there are some, else boxes.

    A polygon that would be read as nothing, or as the same object as an earlier one, is written as its box.
    """
    height, width = image_set.sizes[index].tolist()
    objects = image_set.objects_of(index)
    if _writes_keypoints(image_set, options):
        tally.shapeless += int(objects.has_polygon.sum())
        return [_line(label, [*_centred(box, width, height), *_placed(points, width, height)])
                for box, label, points in zip(objects.boxes, objects.labels, objects.keypoints, strict=True)]
    rows, seen = [], set()
    for box, label, polygon in zip(objects.boxes, objects.labels, objects.polygons, strict=True):
        around = np.concatenate((polygon.min(0), polygon.max(0))) if len(polygon) else box
        usable = (around[2:] - around[:2]).min() >= MIN_WIDTH and (label, *around.tolist()) not in seen
        if options.boxes or not len(polygon) or not usable:
            values, around = _centred(box, width, height), box
        else:
            values = (polygon.astype(np.float64) / (width, height)).ravel().tolist()
        distance = np.abs(around - box)
        distance[np.abs(distance - INSET) < EXACT] = 0  # the outline of a mask runs inside of it
        moved = float(distance.max())
        tally.moved += moved > EXACT
        tally.furthest = max(tally.furthest, moved)
        seen.add((label, *around.tolist()))
        rows.append(_line(label, values))
    return rows


def _line(label: int, values: Sequence[float]) -> str:
    return " ".join([str(label), *(f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".") for value in values)])


def _centred(box: np.ndarray, width: int, height: int) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]


def _placed(points: np.ndarray, width: int, height: int) -> list[float]:
    """Key points ``[K, 3]`` as they stand behind a box; nothing where none is labelled."""
    placed: list[float] = (points.astype(np.float64) / (width, height, 1)).ravel().tolist()
    return placed if points[:, 2].any() else []


def _write_yaml(image_set: ImageSet, splits: Sequence[str], file: Path, with_keypoints: bool) -> None:
    names = image_set.names
    content: dict[str, Any] = {split: f"images/{split}" for split in splits} | {"nc": len(names), "names": list(names)}
    if with_keypoints:
        facts = {"flip_idx": list(image_set.keypoint_flip), "skeleton": _skeleton(image_set),
                 "kpt_sigmas": list(image_set.keypoint_sigmas)}
        content |= {"kpt_shape": [len(image_set.keypoint_names), 3], "kpt_names": list(image_set.keypoint_names),
                    **{key: value for key, value in facts.items() if value}}
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


# --- COCO JSON -------------------------------------------------------------------------------------------------


def _write_coco(image_set: ImageSet, folder: Path, options: ConvertOptions, tally: _Tally) -> None:
    file = folder / "annotations" / f"instances_{image_set.split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = image_set.image_ids
    if not all(isinstance(image_id, int) for image_id in ids):
        ids = tuple(range(1, len(ids) + 1))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, name in _placed_images(image_set, folder, options, tally):
        height, width = image_set.sizes[index].tolist()
        images.append({"id": ids[index], "file_name": name, "height": height, "width": width})
        objects = image_set.objects_of(index)
        for box, label, polygon, points, crowd in zip(objects.boxes, objects.labels, objects.polygons,
                                                      objects.keypoints, objects.crowd, strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": ids[index],
                          "category_id": image_set.category_ids[label]}
            shape = _shape(box, polygon[:0] if options.boxes or crowd else polygon, (height, width))
            shape["iscrowd"] = int(crowd)
            annotations.append(annotation | shape | _keypoints(points))
    categories = [{"id": i, "name": name} | facts_of_keypoints(image_set)
                  for i, name in zip(image_set.category_ids, image_set.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def facts_of_keypoints(image_set: ImageSet) -> dict[str, Any]:
    """COCO's keys of a category with key points, and beside them what COCO has no key for."""
    if not image_set.keypoint_names:
        return {}
    more = {"flip_idx": list(image_set.keypoint_flip), "sigmas": list(image_set.keypoint_sigmas)}
    return {"keypoints": list(image_set.keypoint_names), "skeleton": _skeleton(image_set),
            **{key: value for key, value in more.items() if value}}


def _skeleton(image_set: ImageSet) -> list[list[int]]:
    """Limbs as COCO counts them, from 1."""
    return [[a + 1, b + 1] for a, b in image_set.keypoint_limbs]


def _shape(box: np.ndarray, polygon: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's keys of one object; the area is that of the polygon, else that of the box."""
    x1, y1, x2, y2 = map(float, box)
    shape: dict[str, Any] = {"bbox": [round(v, COCO_DECIMALS) for v in (x1, y1, x2 - x1, y2 - y1)],
                             "area": round((x2 - x1) * (y2 - y1), COCO_DECIMALS), "segmentation": [], "iscrowd": 0}
    if len(polygon):
        shape["segmentation"], area = segmentation_of(polygon, size)
        shape["area"] = round(area, COCO_DECIMALS)
    return shape


def _keypoints(points: np.ndarray) -> dict[str, Any]:
    """COCO's keys of key points ``[K, 3]``, if there are any."""
    if not len(points):
        return {}
    values = [round(v, COCO_DECIMALS) for v in points.ravel().tolist()]
    return {"keypoints": values, "num_keypoints": int((points[:, 2] > 0).sum())}


# --- report ----------------------------------------------------------------------------------------------------


def _report(written: Path, image_sets: Sequence[ImageSet], tally: _Tally, options: ConvertOptions) -> None:
    if tally.moved:
        logger.warning(
            "polygons whose box is not their object's: %d (off by more than %g px, by %.4g px at most); in label files "
            "the polygon's box counts; --boxes keeps the objects' boxes and leaves the polygons out",
            tally.moved, EXACT, tally.furthest)
    if options.to == "yolo" and options.polygons and any(image_set.keypoint_names for image_set in image_sets):
        logger.warning("--polygons: key points are left out; a row of a label file holds a polygon or key points")
    if tally.shapeless:
        logger.warning("a row of a label file holds key points or a polygon: %d polygons are left out (--polygons "
                       "writes them instead)", tally.shapeless)
    if options.to == "yolo" and tally.crowds:
        logger.warning("label files have no crowds: %d are left out; detections of them will count as wrong",
                       tally.crowds)
    logger.info("%d images linked, %d copied; written to %s\nnext:\n  %s", tally.linked, tally.copied,
                options.output, use_of(written, image_sets))


def use_of(written: str | Path, image_sets: Sequence[ImageSet]) -> str:
    """The command that goes on with the data set that was written."""
    splits = [image_set.split for image_set in image_sets]
    if {"train", "val"} <= {*splits}:
        return command("train", data=written)
    return command("test", data=written, task=splits[0])
