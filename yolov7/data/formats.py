"""Formats of data sets: which one a split has, and what a format must be able to do.

Another format is one file with a subclass of `Format` and one call of `register`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.label_cache import LabelCache

logger = logging.getLogger(__name__)

_MAX_PARTS = 8  # of a path of another machine

Entry = dict[str, str] | str | tuple[str, ...]  # what a data-set YAML says of a split: keys, or a path or several


class Keypoints(NamedTuple):
    """What a data set says of the key points of its objects."""

    names: tuple[str, ...] = ()
    values: int = 3  # of each in a row of a label file: 2 (x y) or 3 (x y visibility)
    flip: tuple[int, ...] = ()  # which one each becomes in a mirrored image; none: not known
    limbs: tuple[tuple[int, int], ...] = ()  # pairs that are drawn as lines; none: not known
    sigmas: tuple[float, ...] = ()  # of OKS; none: not known
    named: bool = True  # the names are the data set's own, not made up for it

    @property
    def columns(self) -> int:
        """Of a row, behind its box."""
        return len(self.names) * self.values


@dataclass(frozen=True)
class SplitSource:
    """A split as its data set names it, and where its relative paths may lead."""

    split: str
    entry: Entry
    data: str  # the data set's YAML or folder, for messages
    bases: tuple[Path, ...]  # folders that relative paths are tried in
    download: str | None = None  # where the images are to be had, for messages
    keypoints: Keypoints | None = None  # that the YAML announces

    @property
    def where(self) -> str:
        """The place of the entry, for messages."""
        return f"{self.data}, {self.split}"

    def candidates(self, path: str) -> list[str]:
        """Absolute paths that a path of the entry may mean, the likeliest first."""
        return [os.path.abspath(base / way) for way in ways_of_writing(path) for base in self.bases]

    def find(self, path: str, key: str = "") -> Path:
        """A path of the entry, made absolute; ``key`` is where it stands. Raises `InputError` if there is none."""
        where = f"{self.where}.{key}" if key else self.where
        if path.startswith("pipe:"):
            raise InputError(f"{where}: {path!r} would run a command; accepted: files and folders")
        candidates = self.candidates(path)
        if found := next(filter(os.path.exists, candidates), ""):
            if found not in candidates[: len(self.bases)]:
                logger.info("%s: %r was not found as it is written; taken: %s", where, path, found)
            return Path(found)
        hint = f"; {self.download}" if self.download else ""
        raise InputError(f"{where}: {path!r} was not found; looked for {', '.join(dict.fromkeys(candidates))}{hint}")

    def cache(self, places: Sequence[Path]) -> LabelCache:
        """The cache of what is read from these places: of the base that the first was found in, or of its folder."""
        near = next((base for base in self.bases if places[0].is_relative_to(base)), places[0].parent)
        return LabelCache(near, self.split, places)


def ways_of_writing(path: str) -> tuple[str, ...]:
    """A path as it stands in a file, and what else it may mean, the likeliest first.

    Tools write ``..\\images`` where slashes are meant, ``../train`` where the folder beside the YAML is meant, and
    Darknet's ones ``data/train.txt`` for a file that lies anywhere. Of an absolute path of another machine the end may
    be right: ``/content/blood/train/images`` where ``train/images`` is.
    """
    slashed = path.replace("\\", "/")
    below = re.sub(r"^(\.\.?/)+", "", slashed)
    ways = [path, slashed, below, below.removeprefix("data/")]
    if is_elsewhere := re.match(r"/|[A-Za-z]:/", slashed):
        parts = [part for part in slashed[is_elsewhere.end() :].split("/") if part][-_MAX_PARTS:]
        ways += ["/".join(parts[start:]) for start in range(len(parts))]
    return tuple(dict.fromkeys(way for way in ways if way))


class Format(Protocol):
    """How the splits of one format are recognised and read; what only some formats have is optional."""

    name: str  # as `yolov7 data convert --to` calls it
    entries: str  # what it accepts in a data-set YAML, for messages

    def claims(self, entry: Entry) -> bool:
        """Whether this is an entry of a data-set YAML in this format."""

    def layouts(self, split: str) -> list[str]:
        """Patterns of the files that make a folder a data set in this format, for messages."""
        return []

    def entry_of_folder(self, root: Path, split: str) -> Entry | None:
        """The entry of a split that a folder holds by its layout. Raises `InputError` where several would do."""
        return None

    def class_names(self, source: SplitSource) -> tuple[tuple[str, ...], str] | None:
        """The names of the classes and the file of the split that has them; None where only a YAML can name them."""
        return None

    def headings(self, source: SplitSource) -> tuple[str, ...] | None:
        """Classes of the split that no object has, and that only stand above others; None: not known."""
        return ()

    def read(self, source: SplitSource, names: tuple[str, ...] | None) -> ImageSet:
        """Read and check a split, its crowds included. ``names`` are those that the YAML lists, if it does."""


_FORMATS: list[Format] = []


def register(kind: Format) -> None:
    """Make a format known; one that is registered later is asked first."""
    _FORMATS.insert(0, kind)


def formats() -> tuple[Format, ...]:
    """All that are known, in the order in which they are asked."""
    return tuple(_FORMATS)


def format_of(source: SplitSource) -> Format:
    """The format of a split. Raises `InputError` for an entry that none claims."""
    for kind in _FORMATS:
        if kind.claims(source.entry):
            return kind
    accepted = ", or ".join(kind.entries for kind in _FORMATS)
    found = f"the keys {', '.join(source.entry)}" if isinstance(source.entry, dict) else repr(source.entry)
    raise InputError(f"{source.where}: found {found}; accepted: {accepted}")
