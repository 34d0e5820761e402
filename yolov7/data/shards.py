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
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from yolov7.data.mirror import Mirror, open_mirror
from yolov7.data.regular import read_regular
from yolov7.data.remote import RemoteError, RemoteFolder, check_address, is_address
from yolov7.data.shard_list import (
    LIST,
    MAX_LIST,
    SPLITS,
    Listed,
    ShardList,
    annotations_path,
    list_path,
    parse_list,
)
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

SHOWN = 10
Record = tuple[dict[str, Any], list[dict[str, Any]]]  # of an image: its entry, and its annotations
EXECUTABLE = (".pickle", ".pkl", ".pyd", ".pth", ".pt")  # members that other readers would unpickle


class ShardError(RunError):
    """Tar files that do not hold what their list says."""


# --- writing -----------------------------------------------------------------------------------------------------


def write_shards(options: ShardOptions) -> Path | str:
    """Write splits of a data set as tar files; returns the folder or address, which ``--data`` takes.

    A folder is written whole or not at all.
    """
    for flag, value in (("--data", options.data), ("--output", options.output)):
        if not value:
            raise InputError(f"{flag} is missing; accepted: a data set, and a folder to write")
    source = open_data(options.data)
    splits = chosen_splits(source, options.splits)
    with _target(options.output) as (folder, place):
        image_sets = [open_split(source, split, crowds=True) for split in splits]
        if not is_address(options.output):
            _check_room(image_sets, folder.parent)
        lists = [_write_split(image_set, folder, options.images, place) for image_set in image_sets]
    for image_set in image_sets:
        report_faults(image_set, None if is_address(options.output) else Path(options.output))
    files = [file for one in lists for file in one.files]
    logger.info("%d images in %d tar files, %.1f MiB, written to %s\nnext:\n  %s\n  %s",
                sum(map(len, image_sets)), len(files), sum(file.bytes for file in files) / 2**20, options.output,
                use_of(options.output, image_sets), command("data shard", data=options.output, check=True))
    return options.output if is_address(options.output) else Path(options.output)


@contextmanager
def _target(output: str) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A folder to write to, and what to do with each of its files as soon as it is whole.

    A folder of this disk gets its name at the end. On a server files come one after the other, the list of a split
    behind all that it names: what is there without its list is no data set.
    """
    if not is_address(output):
        folder = Path(os.path.abspath(output))
        check_output(folder, output)
        with atomic_path(folder) as temporary:
            yield temporary, lambda file: None
        return
    remote = RemoteFolder(check_address(output, "--output"))
    for split in SPLITS:
        if remote.read(list_path(split), MAX_LIST) is not None:
            raise InputError(f"--output {output}: has a {list_path(split)}; accepted: a folder that is new or empty")
    with tempfile.TemporaryDirectory(prefix="yolov7-shards-") as local:

        def send(file: Path) -> None:
            remote.upload(file, file.relative_to(local).as_posix())
            file.unlink()

        yield Path(local), send


def _check_room(image_sets: list[ImageSet], folder: Path) -> None:
    """Raise `InputError` where the images alone have no room; those in tar files are not counted."""
    needed = sum(os.path.getsize(path) for image_set in image_sets for path in image_set.paths if os.path.isfile(path))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"--output: the images have {needed / 2**30:.1f} GiB, {folder} has {free / 2**30:.1f} GiB "
                         "left")


def _write_split(image_set: ImageSet, folder: Path, per_file: int, place: Callable[[Path], None]) -> ShardList:
    """The tar files of a split, its annotations and the list of both."""
    content, of_image = _annotations(image_set)
    target = folder / "images" / image_set.split
    target.mkdir(parents=True)
    names = flat_names(image_set.paths)
    listed: list[Listed] = []
    images: list[dict[str, Any]] = []
    progress: Progress[None]
    with Progress(description=f"writing {image_set.split}", total=len(names), unit="images") as progress:
        for start in range(0, len(names), per_file):
            file = f"{start // per_file:06d}.tar"
            rows = [(names[index], image_set.paths[index], of_image(index))
                    for index in range(start, min(start + per_file, len(names)))]
            _write_tar(target / file, rows, progress)
            images += [image | {"file_name": f"{file}/{name}"} for name, _, (image, _) in rows]
            listed.append(Listed(file, *checksum(target / file), len(rows)))
            place(target / file)
    annotations = folder / annotations_path(image_set.split)
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps(content | {"images": images}, ensure_ascii=False), encoding="utf-8")
    found = ShardList(image_set.split, listed, Listed(annotations.name, *checksum(annotations), len(images)))
    place(annotations)
    (folder / list_path(image_set.split)).write_text(found.text())
    place(folder / list_path(image_set.split))
    return found


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


def check_shards(options: ShardOptions) -> Path | str:
    """Read every byte of the tar files of a folder, and compare them with their lists.

    Raises `ShardError` with what is wrong, `InputError` for a folder without such lists.
    """
    mirror = open_mirror(options.data) if is_address(options.data) else None
    folder = mirror.root if mirror else Path(options.data)
    lists = sorted(folder.glob(f"images/*/{LIST}"))
    if not lists:
        raise InputError(f"--data {options.data!r}: has no images/SPLIT/{LIST}; accepted with --check: a folder that "
                         f"{command('data shard')} has written")
    faults: list[str] = []
    total = 0
    for file in lists:
        found = parse_list(read_bytes(file, MAX_LIST), file)
        total += len(found.files)
        known = {entry.name for entry in found.files}
        faults += [f"{other}: is in no list" for other in sorted(file.parent.glob("*.tar")) if other.name not in known]
        for entry in Progress(found.files, f"checking {file.parent.name}", unit="files"):
            faults += _faults_of(file.parent / entry.name, entry, mirror)
        annotations = folder / annotations_path(found.split)
        if not annotations.is_file() or checksum(annotations) != found.annotations[1:3]:
            faults.append(f"{annotations}: has other bytes than were written, or is missing")
    if faults:
        shown = [*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])]
        raise ShardError("\n  ".join([f"{options.data}: {len(faults)} faults in {total} tar files:", *shown]))
    logger.info("%s: %d tar files are what their lists say", options.data, total)
    return options.data if mirror else folder


def _faults_of(file: Path, entry: Listed, mirror: Mirror | None) -> Iterator[str]:
    try:
        if mirror:
            mirror.provide(str(file))
    except RemoteError as error:
        yield str(error)
        return
    if not file.is_file():
        yield f"{file}: is missing"
        return
    if checksum(file)[1] != entry.sha256:
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
    if pairs != entry.images:
        yield f"{file}: has {pairs} images with annotations, its list says {entry.images}"
