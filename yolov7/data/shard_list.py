"""``images/<split>/shards.json``: the tar files of a split, and its annotations, with the checksums of all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from yolov7.config import InputError

LIST = "shards.json"  # beside the tar files of a split: what they hold
MAX_LIST = 1 << 28  # bytes
SPLITS = ("train", "val", "test")  # of a data set
_HEX = frozenset("0123456789abcdef")


class Listed(NamedTuple):
    """A file of a data set as it was written."""

    name: str
    bytes: int
    sha256: str
    images: int = 0

    def check(self) -> None:
        """Raise `ValueError` for what is no such file."""
        if not isinstance(self.name, str) or os.path.basename(self.name) != self.name or "\\" in self.name:
            raise ValueError(f"{self.name!r} is no name of a file")
        if not all(type(number) is int and number >= 0 for number in (self.bytes, self.images)):
            raise ValueError(f"{self.name}: a number is missing")
        if not isinstance(self.sha256, str) or len(self.sha256) != 64 or not _HEX.issuperset(self.sha256):
            raise ValueError(f"{self.name}: has no checksum")


class ShardList(NamedTuple):
    """The files of a split."""

    split: str
    files: list[Listed]
    annotations: Listed

    def text(self) -> str:
        """As it stands in the file."""
        content = {"split": self.split, "annotations": self.annotations._asdict(),
                   "files": [file._asdict() for file in self.files]}
        return json.dumps(content, indent=1) + "\n"


def list_path(split: str) -> str:
    """Where the list of a split stands in its data set."""
    return f"images/{split}/{LIST}"


def annotations_path(split: str) -> str:
    """Where the annotations of a split stand in its data set."""
    return f"annotations/instances_{split}.json"


def parse_list(content: bytes, where: str | Path) -> ShardList:
    """Raises `InputError` for what is no such list."""
    try:
        said = json.loads(content)
        files = [Listed(**entry) for entry in said["files"]]
        annotations = Listed(**said["annotations"])
        for file in (*files, annotations):
            file.check()
        if not isinstance(said["split"], str):
            raise ValueError("the split has no name")
        return ShardList(said["split"], files, annotations)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: is not a list of tar files ({error}); `yolov7 data shard` writes such lists"
                         ) from None
