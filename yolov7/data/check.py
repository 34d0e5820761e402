"""What a data set holds and what is wrong with it: `yolov7 data check`, and what a failing training shows."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.data_yaml import RunSettings
from yolov7.data.duplicates import difference_hash, groups_of_near
from yolov7.data.formats import format_of
from yolov7.data.image_set import SHOWN_FAULTS, Fault, ImageSet
from yolov7.data.images import load_image
from yolov7.data.scan import map_chunks
from yolov7.data.shape_facts import ShapeFacts, shape_facts
from yolov7.data.yolo_txt import label_paths
from yolov7.keypoints import KeypointLayout
from yolov7.runtime.tables import aligned

logger = logging.getLogger(__name__)

GOOD, FAULTY, UNUSABLE = 0, 1, 2
_SHOWN_FOLDERS = 3
_SHOWN_ALIKE = 4  # images of a group
_CHUNK = 50  # images that are decoded between two steps of the progress bar
_PARALLEL_FROM = 200  # images; decoding takes longer than reading headers
_READERS = logging.getLogger("yolov7.data")


@dataclass(frozen=True)
class SplitFacts:
    """What was understood of one split."""

    split: str
    format: str = ""
    images_in: tuple[str, ...] = ()  # folders
    labels_in: tuple[str, ...] = ()  # folders, or the one JSON file
    images: int = 0  # that can be used
    background: int = 0  # of them without objects
    objects: int = 0
    crowds: int = 0
    polygons: int = 0
    shapes: ShapeFacts = field(default_factory=ShapeFacts)
    per_class: tuple[int, ...] = ()  # objects, in the order of the data set's classes
    sizes: tuple[tuple[int, int], ...] = ()  # width, height of the images by area: smallest, median, largest
    faults: tuple[Fault, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()  # path and digest of the pixels of each image, where they were decoded
    hashes: tuple[bytes, ...] = field(default=(), repr=False)  # what each of them looks like (`duplicates`)
    image_set: ImageSet | None = field(default=None, repr=False, compare=False)
    error: str = ""  # why it cannot be used

    @property
    def repeated(self) -> int:
        """Images that are the same as an earlier one."""
        return len(self.digests) - len({digest for _, digest in self.digests})


@dataclass(frozen=True)
class DataFacts:
    """What was understood of a data set. ``error`` says why nothing could be."""

    data: str
    file: str = ""
    names: tuple[str, ...] = ()
    names_in: str = ""  # the file that they were read from
    keypoint_names: tuple[str, ...] = ()
    mirror_known: bool = False  # of the key points
    splits: tuple[SplitFacts, ...] = ()
    notes: tuple[str, ...] = ()  # what the readers decided
    error: str = ""
    settings: Mapping[str, RunSettings] = field(default_factory=dict, repr=False)  # of a training, by model

    @property
    def shared(self) -> tuple[tuple[str, str, str, str], ...]:
        """The same image in two splits: split, path, other split, other path."""
        found: list[tuple[str, str, str, str]] = []
        first: dict[str, tuple[str, str]] = {}
        for facts in self.splits:
            for path, digest in facts.digests:
                split, earlier = first.setdefault(digest, (facts.split, path))
                if split != facts.split:
                    found.append((split, earlier, facts.split, path))
        return tuple(found)

    @cached_property
    def alike(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Groups of images that look alike, but are not the same: split and path of each, the largest group first.

        Of images that are the same to the pixel the first one stands for all.
        """
        first: dict[str, tuple[str, str, bytes]] = {}
        for facts in self.splits:
            for (path, digest), signs in zip(facts.digests, facts.hashes, strict=True):
                first.setdefault(digest, (facts.split, path, signs))
        images = list(first.values())
        return tuple(tuple(images[place][:2] for place in group)
                     for group in groups_of_near([signs for _, _, signs in images]))

    @property
    def errors(self) -> tuple[str, ...]:
        """Why it cannot be used."""
        return tuple(dict.fromkeys(error for error in (self.error, *(facts.error for facts in self.splits)) if error))

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong; 1: it can be used, not all of it; 2: it cannot be used."""
        if self.errors:
            return UNUSABLE
        return FAULTY if self.shared or any(facts.faults for facts in self.splits) else GOOD

    def text(self, every: bool = False) -> str:
        """For people; of faults the first, or ``every`` one."""
        lines = [f"data set: {self.file or self.data}"]
        if self.names:
            lines += [f"classes: {len(self.names)}, named in {self.names_in}"]
        if self.keypoint_names:
            mirror = "" if self.mirror_known else "; which of them change places in a mirrored image is not known"
            lines += [f"key points: {len(self.keypoint_names)}: {', '.join(self.keypoint_names)}{mirror}"]
        lines += [f"note: {note}" for note in self.notes]
        usable = [facts for facts in self.splits if not facts.error]
        lines += ["", *_table_of_splits(usable), "", *_table_of_classes(self.names, usable)] if usable else []
        for facts in self.splits:
            lines += _places(facts, every) + _faults(facts, every)
        lines += _shared(self.shared, every) + _alike(self.alike, every)
        lines += [f"\ncannot be used: {error}" for error in self.errors]
        return "\n".join(lines)


# --- reading -----------------------------------------------------------------------------------------------------


def check_data(data: str, decode: bool = True) -> DataFacts:
    """Open every split of a data set, as training and evaluation do, and ``decode`` every image."""
    with _heard() as notes:
        try:
            source = open_data(data)
        except InputError as error:
            return DataFacts(data, notes=tuple(notes), error=str(error))
        splits = tuple(_check_split(source, split, decode) for split in source.splits)
    layout = next((facts.image_set.keypoint_layout for facts in splits if facts.image_set is not None),
                  KeypointLayout())
    return DataFacts(data, source.file, source.names, source.names_file or source.file, layout.names, bool(layout.flip),
                     splits, tuple(dict.fromkeys(notes)), settings=source.settings)


@contextmanager
def explained(data: str) -> Iterator[None]:
    """Where a data set cannot be used, say what was understood of it; the error goes on."""
    try:
        yield
    except InputError:
        facts = check_data(data, decode=False)
        if facts.splits:
            logger.warning("%s\n", facts.text())
        raise


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What the readers log in the block; nothing of it reaches the console."""
    notes: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    propagates = _READERS.propagate
    _READERS.addHandler(listener)
    _READERS.propagate = False
    try:
        yield notes
    finally:
        _READERS.propagate = propagates
        _READERS.removeHandler(listener)


def _check_split(source: DataSource, split: str, decode: bool) -> SplitFacts:
    kind = format_of(source.splits[split]).name
    try:
        image_set = open_split(source, split, training=split == "train", crowds=True, labelled=split == "val")
    except InputError as error:
        return SplitFacts(split, kind, error=str(error))
    decoded = _decoded(image_set) if decode else []
    damaged = tuple(Fault(image.path, f"{image.reason}; the image is skipped") for image in decoded if image.reason)
    whole = [image for image in decoded if not image.reason]
    objects = image_set.objects[~image_set.objects.crowd]
    sizes = image_set.sizes[np.argsort(image_set.sizes.astype(np.int64).prod(1), kind="stable")]
    return SplitFacts(
        split, kind, images_in=_folders(image_set.paths), labels_in=_labels_in(image_set),
        images=len(image_set) - len(damaged), background=image_set.background_count, objects=len(objects),
        crowds=int(image_set.objects.crowd.sum()), polygons=int(objects.has_polygon.sum()),
        shapes=shape_facts(image_set),
        per_class=tuple(np.bincount(objects.labels, minlength=len(source.names)).tolist()),
        sizes=tuple((int(sizes[i, 1]), int(sizes[i, 0])) for i in (0, len(sizes) // 2, -1)),
        faults=(*image_set.faults, *damaged), digests=tuple((image.path, image.digest) for image in whole),
        hashes=tuple(image.signs for image in whole), image_set=image_set)


class _Decoded(NamedTuple):
    """What is kept of an image's pixels."""

    path: str
    digest: str = ""
    signs: bytes = b""
    reason: str = ""  # why it cannot be decoded


def _decoded(image_set: ImageSet) -> list[_Decoded]:
    """Every image, those that only look whole from outside, too."""
    parts = map_chunks(_decode, (image_set.paths,), f"{image_set.split}: decoding", _CHUNK, _PARALLEL_FROM)
    return [image for part in parts for image in part]


def _decode(paths: Sequence[str]) -> list[_Decoded]:
    return [_decode_one(path) for path in paths]


def _decode_one(path: str) -> _Decoded:
    try:
        image = load_image(path)
    except InputError as error:
        return _Decoded(path, reason=str(error).removeprefix(f"{path}: "))
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return _Decoded(path, digest.hexdigest(), difference_hash(image))


def _folders(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(os.path.dirname, paths)))


def _labels_in(image_set: ImageSet) -> tuple[str, ...]:
    return (image_set.annotation_file,) if image_set.annotation_file else _folders(label_paths(image_set.paths))


# --- text --------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as needed, numbers to the right."""
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return aligned(texts, left=(0,))


def _table_of_splits(splits: Sequence[SplitFacts]) -> list[str]:
    columns = ("split", "format", "images", "without objects", "objects", "crowds", "polygons", "key points",
               "smallest", "median", "largest")
    return _table([columns, *((
        facts.split, facts.format, facts.images, facts.background, facts.objects, facts.crowds, facts.polygons,
        facts.shapes.with_keypoints, *(f"{width}x{height}" for width, height in facts.sizes)) for facts in splits)])


def _table_of_classes(names: Sequence[str], splits: Sequence[SplitFacts]) -> list[str]:
    rows = [(name, *(facts.per_class[index] for facts in splits)) for index, name in enumerate(names)]
    return _table([("class", *(facts.split for facts in splits)), *rows])


def _places(facts: SplitFacts, every: bool) -> list[str]:
    if facts.error:
        return []
    some = partial(_some, shown=_SHOWN_FOLDERS)
    repeated = [f"  {facts.repeated} images are the same as another one of this split"] if facts.repeated else []
    return ["", f"{facts.split}:", f"  images in {some(facts.images_in)}", f"  labels in {some(facts.labels_in)}",
            *(f"  {line}" for line in facts.shapes.lines()), *_listed(facts.shapes.far_off, every), *repeated]


def _some(texts: Sequence[str], shown: int) -> str:
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def _listed(lines: Sequence[str], every: bool) -> list[str]:
    kept = lines if every else lines[:SHOWN_FAULTS]
    more = [f"    and {len(lines) - len(kept)} more: --all shows them"] if len(kept) < len(lines) else []
    return [f"    {line}" for line in kept] + more


def _faults(facts: SplitFacts, every: bool) -> list[str]:
    if not facts.faults:
        return []
    skipped, kept = sum(fault.skipped for fault in facts.faults), sum(fault.kept for fault in facts.faults)
    return [f"  faults: {len(facts.faults)} (images skipped: {skipped}, objects dropped: "
            f"{len(facts.faults) - skipped - kept}, objects kept without a part: {kept})",
            *_listed([str(fault) for fault in facts.faults], every)]


def _shared(shared: Sequence[tuple[str, str, str, str]], every: bool) -> list[str]:
    if not shared:
        return []
    lines = [f"{split}: {path} = {other}: {place}" for split, path, other, place in shared]
    return ["", f"the same image in two splits: {len(shared)}", *_listed(lines, every)]


def _alike(groups: Sequence[Sequence[tuple[str, str]]], every: bool) -> list[str]:
    """Groups that look alike: how many there are, and those that two splits share."""
    if not groups:
        return []
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    lines = [", ".join(f"{split}: {path}" for split, path in group[:_SHOWN_ALIKE]) + (
        f" and {len(group) - _SHOWN_ALIKE} more" if len(group) > _SHOWN_ALIKE else "") for group in across]
    images = sum(map(len, groups))
    return ["", f"images that look alike: {images} in {len(groups)} groups, {len(across)} of them across splits",
            *_listed(lines, every)]
