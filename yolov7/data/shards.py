"""Data sets as tar files (`yolov7 data shard`): few large files where a disk or a network is slow with many small ones.

A split is ``images/<split>/000000.tar`` and so on, with ``annotations/instances_<split>.json``, whose ``file_name`` is
``000000.tar/<image>``: a folder in COCO layout that every command reads. In a tar file an image stands beside a JSON of
its own (``000000000139.jpg``, ``000000000139.json``), which is webdataset's way, so that a tar file says all that there
is to say of its images. Nothing in a tar file is executed, unpickled or written to the disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from yolov7.config import InputError, RunError, atomic_path, checksum, read_bytes
from yolov7.config.options import ShardOptions
from yolov7.config.program import command
from yolov7.data.catalog import open_data, open_split
from yolov7.data.convert import check_output, chosen_splits, facts_of_keypoints, flat_names, use_of
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.data.images import MAX_BYTES
from yolov7.data.regular import read_regular
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

LIST = "shards.json"  # beside the tar files of a split: what they hold
MAX_LIST = 1 << 28  # bytes
SHOWN = 10
Record = tuple[dict[str, Any], list[dict[str, Any]]]  # of an image: its entry, and its annotations
EXECUTABLE = (".pickle", ".pkl", ".pyd", ".pth", ".pt")  # members that other readers would unpickle


class ShardError(RunError):
    """Tar files that do not hold what their list says."""


# --- writing -----------------------------------------------------------------------------------------------------


def write_shards(options: ShardOptions) -> Path:
    """Write splits of a data set as tar files, whole or not at all; returns the folder, which ``--data`` takes."""
    for flag, value in (("--data", options.data), ("--output", options.output)):
        if not value:
            raise InputError(f"{flag} is missing; accepted: a data set, and a folder to write")
    source = open_data(options.data)
    splits = chosen_splits(source, options.splits)
    output = Path(os.path.abspath(options.output))
    check_output(output, options.output)
    image_sets = [open_split(source, split, crowds=True) for split in splits]
    _check_room(image_sets, output.parent)
    count = size = 0
    with atomic_path(output) as temporary:
        for image_set in image_sets:
            listed = _write_split(image_set, temporary, options.images)
            count, size = count + len(listed), size + sum(row["bytes"] for row in listed)
    for image_set in image_sets:
        report_faults(image_set, output)
    written = Path(options.output)
    logger.info("%d images in %d tar files, %.1f MiB, written to %s\nnext:\n  %s\n  %s",
                sum(map(len, image_sets)), count, size / 2**20, written, use_of(written, image_sets),
                command("data shard", data=written, check=True))
    return written


def _check_room(image_sets: list[ImageSet], folder: Path) -> None:
    """Raise `InputError` where the images alone have no room; those in tar files are not counted."""
    needed = sum(os.path.getsize(path) for image_set in image_sets for path in image_set.paths if os.path.isfile(path))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"--output: the images have {needed / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} GiB "
                         "left")


def _write_split(image_set: ImageSet, folder: Path, per_file: int) -> list[dict[str, Any]]:
    """The tar files of a split, their list and its annotations; returns the list."""
    content, of_image = _annotations(image_set)
    target = folder / "images" / image_set.split
    target.mkdir(parents=True)
    names = flat_names(image_set.paths)
    listed: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    progress: Progress[None]
    with Progress(description=f"writing {image_set.split}", total=len(names), unit="images") as progress:
        for start in range(0, len(names), per_file):
            file = f"{start // per_file:06d}.tar"
            rows = [(names[index], image_set.paths[index], of_image(index))
                    for index in range(start, min(start + per_file, len(names)))]
            _write_tar(target / file, rows, progress)
            images += [image | {"file_name": f"{file}/{name}"} for name, _, (image, _) in rows]
            length, digest = checksum(target / file)
            listed.append({"name": file, "images": len(rows), "bytes": length, "sha256": digest})
    (target / LIST).write_text(json.dumps({"split": image_set.split, "files": listed}, indent=1) + "\n")
    annotations_file = folder / "annotations" / f"instances_{image_set.split}.json"
    annotations_file.parent.mkdir(exist_ok=True)
    annotations_file.write_text(json.dumps(content | {"images": images}, ensure_ascii=False), encoding="utf-8")
    return listed


def _annotations(image_set: ImageSet) -> tuple[dict[str, Any], Callable[[int], Record]]:
    """The content of the split's JSON but for its images, and the record and annotations of each image."""
    content = image_set.ground_truth()
    known = {image["id"]: image for image in content["images"]}
    categories, new_ids = _categories(image_set, content["categories"])
    kept = {*image_set.image_ids}
    annotations = [entry | {"category_id": new_ids[entry["category_id"]]} for entry in content["annotations"]
                   if entry["image_id"] in kept]
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        of_image[annotation["image_id"]].append(annotation)

    def record(index: int) -> Record:
        number = image_set.image_ids[index]
        height, width = image_set.sizes[index].tolist()
        return known[number] | {"height": height, "width": width}, of_image[number]

    return content | {"annotations": annotations, "categories": categories}, record


def _categories(image_set: ImageSet, old: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The categories as the data set names and orders them, and their ids by those before.

    Classes are read in the order of their ids; a data set that orders them otherwise gets new ones.
    """
    ids = image_set.category_ids
    new = ids if list(ids) == sorted(ids) else range(1, len(ids) + 1)
    new_ids = dict(zip(ids, new, strict=True))
    named = dict(zip(ids, image_set.names, strict=True))
    facts = facts_of_keypoints(image_set)
    categories = [entry | {"id": new_ids[entry["id"]], "name": named[entry["id"]]} | facts for entry in old]
    return sorted(categories, key=lambda entry: int(entry["id"])), new_ids


def _write_tar(file: Path, rows: list[tuple[str, str, Record]], progress: Progress[None]) -> None:
    """The bytes of each image under its name, and beside it what is known of it."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, path, (image, annotations) in rows:
            _add(tar, name, read_regular(path, MAX_BYTES))
            own = {"image": image | {"file_name": name}, "annotations": annotations}
            _add(tar, f"{os.path.splitext(name)[0]}.json", json.dumps(own, ensure_ascii=False).encode())
            progress.update()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of nobody, at no time: the same data makes the same bytes
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


# --- checking ----------------------------------------------------------------------------------------------------


def check_shards(options: ShardOptions) -> Path:
    """Read every byte of the tar files of a folder, and compare them with their lists.

    Raises `ShardError` with what is wrong, `InputError` for a folder without such lists.
    """
    folder = Path(options.data)
    lists = sorted(folder.glob(f"images/*/{LIST}"))
    if not lists:
        raise InputError(f"--data {options.data!r}: has no images/SPLIT/{LIST}; accepted with --check: a folder that "
                         f"{command('data shard')} has written")
    faults: list[str] = []
    total = 0
    for file in lists:
        entries = _read_list(file)
        total += len(entries)
        known = {entry["name"] for entry in entries}
        faults += [f"{other}: is in no list" for other in sorted(file.parent.glob("*.tar")) if other.name not in known]
        for entry in Progress(entries, f"checking {file.parent.name}", unit="files"):
            faults += _faults_of(file.parent / entry["name"], entry)
    if faults:
        shown = [*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])]
        raise ShardError("\n  ".join([f"{folder}: {len(faults)} faults in {total} tar files:", *shown]))
    logger.info("%s: %d tar files are what their lists say", folder, total)
    return folder


def _read_list(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(read_bytes(file, MAX_LIST))["files"]
        if not all(isinstance(entry["name"], str) and os.path.basename(entry["name"]) == entry["name"]
                   and isinstance(entry["sha256"], str) and isinstance(entry["images"], int) for entry in entries):
            raise ValueError("an entry is of another form")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is not a list of tar files ({error})") from None
    return list(entries)


def _faults_of(file: Path, entry: dict[str, Any]) -> Iterator[str]:
    if not file.is_file():
        yield f"{file}: is missing"
        return
    if checksum(file)[1] != entry["sha256"]:
        yield f"{file}: has other bytes than were written"
    try:
        with tarfile.open(file, "r:") as tar:
            members = list(tar)
    except tarfile.TarError as error:
        yield f"{file}: is not a whole tar file ({error})"
        return
    for member in members:
        if not member.isreg():
            yield f"{file}: {member.name!r} is no regular file, and is not read"
        elif member.name.lower().endswith(EXECUTABLE):
            yield f"{file}: {member.name!r} would be executed by readers that unpickle; here it is not read"
    found = {os.path.splitext(member.name)[0] for member in members if member.name.endswith(".json")}
    pairs = sum(os.path.splitext(member.name)[0] in found for member in members if not member.name.endswith(".json"))
    if pairs != entry["images"]:
        yield f"{file}: has {pairs} images with annotations, its list says {entry['images']}"
