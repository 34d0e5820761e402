"""A foreign data set -> an `ImageSet` for each split: the classes, the splits, the sizes of the images."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from yolov7.config import InputError, unknown
from yolov7.config.names import check_names
from yolov7.config.options import MAX_CLASSES, ConvertOptions
from yolov7.data.coco import scan_headers
from yolov7.data.foreign.csv_rows import read_csv
from yolov7.data.foreign.files import ImageIndex, split_of_folders
from yolov7.data.foreign.labelme import read_labelme
from yolov7.data.foreign.others import read_createml, read_supervisely
from yolov7.data.foreign.recognise import foreign_format
from yolov7.data.foreign.records import Item, Reading, Record, Request
from yolov7.data.foreign.via import read_via
from yolov7.data.foreign.voc import read_voc
from yolov7.data.image_set import Fault, ImageSet, category_ids
from yolov7.data.objects import Ragged, no_objects
from yolov7.data.scan import SOURCE, Entries, image_set_of, join, map_chunks, tidy

logger = logging.getLogger(__name__)

READERS: dict[str, Callable[[Request], Reading]] = {
    "voc": read_voc, "labelme": read_labelme, "via": read_via, "csv": read_csv, "supervisely": read_supervisely,
    "createml": read_createml}
_SPLITS = ("train", "val", "test")
_SHOWN = 20  # names in a message


def open_foreign(options: ConvertOptions) -> list[ImageSet]:
    """The splits of the data set ``--data`` in the format ``--from``; boxes and polygons are float64.

    What is decided (classes, splits, what is left out) is told. Raises `InputError` where nothing can be read.
    """
    request = _request(options)
    assert options.from_ is not None
    reading = READERS[options.from_](request)
    for note in dict.fromkeys(reading.notes):
        logger.info("%s", note)
    if not reading.records:
        raise InputError(f"--data {request.path}: nothing of the format {options.from_} can be used"
                         f"{_reasons(reading)}{_hint(request.path, options.from_)}")
    _leave_out(reading, request, options)
    sizes = _sizes(reading)
    names = _names(reading, options.names)
    splits = _divide(reading.records, options)
    if reading.more_faults:
        more = f"{reading.more_faults} objects and images more cannot be used, and are not listed"
        reading.faults.append(Fault(str(request.path), more, skipped=False))
    image_sets = [_image_set(records, split, names, sizes) for split, records in splits.items()]
    first = image_sets[0]
    return [replace(first, faults=(*reading.faults, *first.faults)), *image_sets[1:]]


def _request(options: ConvertOptions) -> Request:
    path = Path(os.path.abspath(options.data))
    if not path.exists():
        raise InputError(f"--data {options.data!r}: no such file or folder")
    if path.suffix.lower() in (".yaml", ".yml"):
        raise InputError(f"--data {options.data!r}: is a data-set YAML; accepted with --from: the folder or the file "
                         "of the annotations")
    root = path if path.is_dir() else path.parent
    images = Path(os.path.abspath(options.images)) if options.images else root
    if not images.is_dir():
        raise InputError(f"--images {options.images!r}: no such folder")
    if options.names:
        check_names(options.names, "--names")
    alone = options.names[0] if options.names and len(options.names) == 1 else "object"
    return Request(path, root, ImageIndex(images), options.attribute, options.first_pixel, alone)


def _reasons(reading: Reading) -> str:
    found = [*map(str, reading.faults[:3]), *(f"{count} {what}" for what, count in reading.left_out.items())]
    found += reading.notes[-2:]
    return f": {'; '.join(found)}" if found else ""


def _hint(path: Path, given: str) -> str:
    found = foreign_format(path)
    return f"; {found}" if found and f"--from {given} " not in str(found) else ""


def _leave_out(reading: Reading, request: Request, options: ConvertOptions) -> None:
    """Tell what is left out; ``--background`` keeps images without annotations, but not those of faulty ones."""
    faulty = {os.path.splitext(fault.path)[0] for fault in reading.faults if fault.skipped}
    faulty = {os.path.basename(path) for path in faulty}
    without = [path for path in request.images.paths if path not in request.images.found
               and os.path.splitext(os.path.basename(path))[0] not in faulty]
    for what, count in reading.left_out.items():
        logger.warning("left out: %d %s", count, what)
    if options.background or not without:
        reading.records += [Record(path, path, split=split_of_folders(path, request.images.root)) for path in without]
    else:
        logger.warning("left out: %d images that no annotation names (the first: %s); --background keeps such images, "
                       "as images without objects", len(without), without[0])


# --- classes ---------------------------------------------------------------------------------------------------


def _names(reading: Reading, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """``--names``, else the classes as the format lists them, then the others sorted (as numbers if all are)."""
    found = Counter(item.name for record in reading.records for item in record.items)
    if not found:
        raise InputError(f"none of the {len(reading.records)} images has an object{_reasons(reading)}")
    numbers = all(name.isascii() and name.isdecimal() for name in found)
    others = sorted(set(found) - set(reading.names), key=lambda name: (int(name) if numbers else 0, name))
    names = wanted or (*reading.names, *others)
    for name in found:
        if name not in names:
            raise InputError(f"--names: the data has a class that is not among them: {unknown('class', name, names)}")
    if len(names) > MAX_CLASSES:
        raise InputError(f"found {len(names)} classes; accepted: up to {MAX_CLASSES}")
    order = "--names" if wanted else "in the order of the data" if reading.names else "sorted"
    listed = ", ".join(f"{name} ({found[name]})" for name in names[:_SHOWN])
    logger.info("classes (%s): %d, with objects: %s%s", order, len(names), listed, ", ..." * (len(names) > _SHOWN))
    alike = [name for name, count in Counter(map(str.casefold, names)).items() if count > 1]
    if alike:
        logger.warning("classes that differ in case only: %s", ", ".join(name for name in names[:1000]
                                                                        if name.casefold() in alike))
    return names


# --- splits ----------------------------------------------------------------------------------------------------


def _divide(records: list[Record], options: ConvertOptions) -> dict[str, list[Record]]:
    """The records of each split; an image stands in one only.

    Images that nothing assigns to a split are training images. Where none is for validation, ``--val-fraction`` of the
    training images are, chosen by ``--seed``.
    """
    split_of: dict[str, str] = {}
    for record in records:
        if split_of.get(record.image) in (None, ""):
            split_of[record.image] = record.split
    found = Counter(split_of.values())
    said = ", ".join(f"{split} ({found[split]} images)" for split in _SPLITS if found[split])
    rest = f"; {found['']} images in none of them are train" if found[""] else ""
    logger.info("%s", f"splits of the data: {said}{rest}" if said else "the data has no splits: all images are train")
    train = sorted(image for image, split in split_of.items() if split in ("", "train"))
    chosen: set[str] = set()
    if not found["val"] and options.val_fraction and len(train) > 1:
        count = min(max(round(len(train) * options.val_fraction), 1), len(train) - 1)
        chosen = set(random.Random(options.seed).sample(train, count))
        logger.info("no image is val: %d of the %d images of train, chosen at random, become val (--val-fraction %g "
                    "--seed %d; --val-fraction 0: none)", count, len(train), options.val_fraction, options.seed)
    divided: dict[str, list[Record]] = {split: [] for split in _SPLITS}
    for record in records:
        split = split_of[record.image] or "train"
        divided["val" if record.image in chosen else split].append(record)
    divided = {split: rows for split, rows in divided.items() if rows}
    for split in options.splits:
        if split not in divided:
            raise InputError(f"--splits: {unknown('split', split, divided)}")
    return {split: rows for split, rows in divided.items() if split in (options.splits or divided)}


# --- images ----------------------------------------------------------------------------------------------------


def _sizes(reading: Reading) -> dict[str, tuple[int, int]]:
    """Height and width of each image; records of those that cannot be used become faults."""
    images = sorted({record.image for record in reading.records})
    headers = join(map_chunks(scan_headers, (images,), "reading headers"))
    reading.faults += [Fault(images[item.entry], item.reason.replace(SOURCE, "its annotations"))
                       for item in headers.findings]
    sizes = {image: (height, width) for image, (height, width), usable in
             zip(images, headers.sizes.tolist(), headers.usable.tolist(), strict=True) if usable}
    for record in reading.records:
        height, width = sizes.get(record.image, (0, 0))
        if height and record.size not in (None, (width, height)) and not record.fractions:
            stated = " x ".join(map(str, record.size or ()))  # coordinates are in pixels of that size
            reading.fault(record.image, f"{record.file} says {stated}, the image is {width} x {height}", skipped=True)
            del sizes[record.image]
    reading.records = [record for record in reading.records if record.image in sizes]
    if not sizes:
        raise InputError(f"none of the {len(images)} images can be used{_reasons(reading)}")
    return sizes


def _image_set(records: list[Record], split: str, names: tuple[str, ...],
               sizes: dict[str, tuple[int, int]]) -> ImageSet:
    by_image: dict[str, list[Record]] = {}
    for record in records:
        by_image.setdefault(record.image, []).append(record)
    if merged := len(records) - len(by_image):
        logger.warning("%s: %d images are named more than once: their objects are taken together", split, merged)
    images = sorted(by_image)
    groups = [by_image[image] for image in images]
    entries = _entries(groups, np.array([sizes[image] for image in images], np.int32), names)
    return image_set_of(entries, images, range(1, len(images) + 1), [group[0].file for group in groups], split,
                        names=names, category_ids=category_ids(names), split=split)


def _entries(groups: Sequence[list[Record]], sizes: np.ndarray, names: tuple[str, ...]) -> Entries:
    """The objects of all images in pixels, tidied."""
    label_of = {name: label for label, name in enumerate(names)}
    items: list[Item] = [item for group in groups for record in group for item in record.items]
    counts = np.array([sum(len(record.items) for record in group) for group in groups], np.int64)
    fractions = np.array([record.fractions for group in groups for record in group for _ in record.items], bool)
    boxes = np.array([item.box for item in items], np.float64).reshape(-1, 4)
    sides = np.tile(np.repeat(sizes, counts, axis=0)[:, ::-1].astype(np.float64), 2)  # [T, 4]
    boxes = np.where(fractions[:, None], boxes * sides, boxes)
    labels = np.array([label_of[item.name] for item in items], np.int64)
    polygons = Ragged(np.concatenate([np.zeros((0, 2)), *(item.polygon for item in items)]),
                      np.array([len(item.polygon) for item in items], np.int64))
    objects = no_objects().like(boxes, labels, polygons=polygons, crowd=np.array([i.crowd for i in items], bool))
    if reach := int(((boxes < 0) | (boxes > sides)).any(1).sum()):
        logger.warning("%d boxes reach out of their images: they are clipped", reach)
    return tidy(objects, counts, sizes, np.ones(len(sizes), bool), (), lambda t: f"an object {items[t].name!r}",
                exact=True)
