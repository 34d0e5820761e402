"""COCO JSON -> `ImageSet` (spec of the data, section 6), and folders in COCO layout."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from yolov7.config import InputError, nearest
from yolov7.data.coco_shapes import ShapeError, are_numbers, keypoint_names, read_keypoints, read_outline
from yolov7.data.image_set import (
    Fault,
    ImageRecord,
    ImageSet,
    ObjectRecord,
    build_image_set,
    no_outline,
    picture_size,
    tidy_objects,
)

# --- the file --------------------------------------------------------------------------------------------------


def read_annotations(file: Path) -> dict[str, Any]:
    """A COCO JSON file whose ``images`` and ``categories`` have what is needed of them."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}; accepted: COCO's keys images, categories, ...")
    _check_rows(content, "images", ("id", "file_name"), file)
    _check_rows(content, "categories", ("id", "name"), file)
    _check_rows(content, "annotations", ("id", "image_id", "category_id", "bbox"), file)
    if not content["categories"]:
        raise InputError(f"{file}: `categories` is empty; accepted: at least one class")
    return content


def _check_rows(content: dict[str, Any], key: str, needed: tuple[str, ...], file: Path) -> None:
    if key == "annotations":
        content.setdefault(key, [])  # COCO's test splits have none
    if key not in content:
        raise InputError(f"{file}: the key {key!r} is missing{nearest(key, content)}")
    rows = content[key]
    if not isinstance(rows, list):
        raise InputError(f"{file}, {key}: holds a {type(rows).__name__}; accepted: a list")
    for number, row in enumerate(rows):
        for name in needed:
            if not isinstance(row, dict) or name not in row:
                raise InputError(f"{file}, {key}[{number}]: the key {name!r} is missing")


def read_categories(content: dict[str, Any], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes, sorted by id: label ``i`` is the i-th of them."""
    categories = content["categories"]
    for category in categories:
        if not isinstance(category["id"], int) or isinstance(category["id"], bool):
            raise InputError(f"{file}, categories: found the id {category['id']!r}; accepted: whole numbers")
    categories = sorted(categories, key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids[:-1], ids[1:], strict=True) if a == b)
        raise InputError(f"{file}, categories: the id {twice} stands twice")
    return ids, tuple(str(category["name"]) for category in categories)


def read_coco(folders: Sequence[Path], file: Path, names: tuple[str, ...] | None, split: str) -> ImageSet:
    """Read one split. ``names`` replace the file's own class names and must match them in number.

    Of several ``folders`` the first that has the pictures is used.
    Crowds are no training objects. Faulty pictures and objects are listed in the result's ``faults``.
    """
    content = read_annotations(file)
    category_ids, own_names = read_categories(content, file)
    if names is not None and len(names) != len(own_names):
        raise InputError(f"{file}: has {len(own_names)} categories, but the data set names {len(names)} classes")
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    faults: list[Fault] = []
    rows = _rows_by_image(content, label_of, file, faults)
    folder = _picture_folder(folders, content["images"], file)
    points = keypoint_names(content["categories"], file)
    records = _image_records(content["images"], rows, folder, (file, len(points)), faults)
    place: dict[str, Any] = {"annotation_file": str(file), "split": split, "source": str(file)}
    return build_image_set(records, names or own_names, category_ids, faults, keypoint_names=points, **place)


Row = tuple[int, dict[str, Any]]  # label, annotation


def _rows_by_image(
    content: dict[str, Any], label_of: dict[int, int], file: Path, faults: list[Fault]
) -> dict[Any, list[Row]]:
    images = {image["id"] for image in content["images"]}
    rows: dict[Any, list[Row]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            where = f"annotation {annotation['id']}"
            reason = f"{where}: image_id {annotation['image_id']!r} is not in `images`; the object is dropped"
            faults.append(Fault(str(file), reason, skipped=False))
            continue
        label = label_of.get(annotation["category_id"])
        if label is None:
            known = ", ".join(map(str, list(label_of)[:100]))
            raise InputError(
                f"{file}, annotation {annotation['id']}: found category_id {annotation['category_id']!r}; "
                f"accepted: the ids in `categories`: {known}"
            )
        if not annotation.get("iscrowd", 0):
            rows[annotation["image_id"]].append((label, annotation))
    return rows


def _image_records(
    images: list[dict[str, Any]],
    rows: dict[Any, list[Row]],
    folder: Path,
    source: tuple[Path, int],
    faults: list[Fault],
) -> list[ImageRecord]:
    records, seen, file = [], set(), source[0]
    for image in images:
        image_id, path = image["id"], os.path.join(folder, str(image["file_name"]))
        if image_id in seen:
            faults.append(Fault(path, f"{file} has two pictures with the id {image_id!r}; the second is skipped"))
            continue
        seen.add(image_id)
        if not os.path.exists(path):
            faults.append(Fault(path, f"missing, but named by {file}; the picture is skipped"))
            continue
        size = picture_size(path, faults)
        objects = _objects(rows.get(image_id, ()), path, size, source, faults) if size else None
        if size and objects is not None:
            records.append(ImageRecord(path, image_id, size, tidy_objects(objects, size, str(file), faults)))
    return records


def _objects(
    rows: Iterable[Row], path: str, size: tuple[int, int], source: tuple[Path, int], faults: list[Fault]
) -> list[ObjectRecord] | None:
    """The objects of one picture, or nothing where one of them is garbage: then the picture is skipped."""
    objects, (file, count) = [], source
    for label, annotation in rows:
        where, box = f"annotation {annotation['id']}", annotation["bbox"]
        if not are_numbers(box) or len(box) != 4:
            reason = f"{file}, {where}: bbox is {box!r}; accepted: four numbers x, y, width, height"
            faults.append(Fault(path, f"{reason}; the picture is skipped"))
            return None
        x, y, width, height = map(float, box)
        outline, points = no_outline(), None
        try:
            outline = read_outline(annotation.get("segmentation"), size)
        except ShapeError as error:
            faults.append(Fault(str(file), f"{where}: {error}; the object is a box only", skipped=False, kept=True))
        try:
            points = read_keypoints(annotation["keypoints"], count, size) if "keypoints" in annotation else None
        except ShapeError as error:
            faults.append(Fault(str(file), f"{where}: {error}; the object has none", skipped=False, kept=True))
        objects.append(ObjectRecord((x, y, x + width, y + height), label, outline, where, points))
    return objects


# --- folders ---------------------------------------------------------------------------------------------------


def coco_patterns(split: str) -> list[str]:
    """Where the JSON file of a split is looked for in a folder in COCO layout."""
    stems = [f"instances_{split}*", split] + (["image_info_test-dev*"] if split == "test" else [])
    folders = [split, "valid"] if split == "val" else [split]
    return [f"annotations/{stem}.json" for stem in stems] + [f"{folder}/_annotations.coco.json" for folder in folders]


def find_coco_file(root: Path, split: str) -> Path | None:
    """The JSON file of a split in a folder in COCO layout. Raises `InputError` where several fit."""
    files = sorted({file for pattern in coco_patterns(split) for file in root.glob(pattern)})
    if len(files) > 1:
        found = ", ".join(file.name for file in files)
        raise InputError(f"--data {root}: several files fit the split {split!r}: {found}; name one in a data-set YAML")
    return files[0] if files else None


def coco_picture_folders(root: Path, file: Path, split: str) -> list[Path]:
    """Where the pictures of a JSON file may be in a folder in COCO layout, likeliest first."""
    year = file.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    patterns = [f"images/{year}", year, f"images/{split}*", f"{split}*", "images"]
    found = [folder for pattern in patterns for folder in sorted(root.glob(pattern)) if folder.is_dir()]
    return [*dict.fromkeys(found), root]


def _picture_folder(folders: Sequence[Path], images: list[dict[str, Any]], file: Path) -> Path:
    """Of several folders the first that has one of the first pictures."""
    if len(folders) == 1:
        return folders[0]
    names = [str(image["file_name"]) for image in images[:20]]
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    tried = ", ".join(map(str, folders))
    raise InputError(f"{file}: none of its first pictures ({', '.join(names[:3])}) was found in: {tried}")
