"""What detection looks at: a picture, or one frame of a video or stream; and their names in the output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUMBERED = re.compile(r"(.+)_\d+")


@dataclass(frozen=True)
class VideoInfo:
    """What a video or stream says of itself."""

    fps: float
    width: int  # pixels, of its first frame
    height: int
    frames: int  # as announced; some containers only estimate it, and some say 0
    live: bool = False  # a stream: what is not read in time is gone


@dataclass(frozen=True)
class Frame:
    """A picture, or one frame of a video or stream."""

    image: np.ndarray  # uint8 [H, W, 3] RGB
    path: str  # file or address, without a password
    name: str  # of the file or stream, unique within the source: for output files
    index: int  # 1, 2, ... in a video or stream, 0 for a picture
    video: VideoInfo | None
    seconds: float = 0.0  # since the start of the video; of a stream since 1970, when it arrived

    @property
    def unique_name(self) -> str:
        """``name`` of a picture, ``name_index`` of a frame of a video: unlike that of any other frame."""
        return f"{self.name}_{self.index}" if self.index else self.name


def unique_names(pictures: Sequence[str], videos: Sequence[str]) -> list[str]:
    """Names for the output files of pictures, then of videos: their stems, numbered where that is needed.

    No two are equal, also where only the case differs, and no picture is named like a frame of a video (``clip_7``).
    """
    reserved = {stem.casefold() for stem in (*pictures, *videos)}  # no other file's name after numbering
    taken: set[str] = set()
    names: list[str] = []

    def take(stem: str, refused: set[str]) -> None:
        name = stem
        while (key := name.casefold()) in taken or key in refused or (name != stem and key in reserved):
            numbers[stem.casefold()] += 1
            name = f"{stem}_{numbers[stem.casefold()]}"
        taken.add(key)
        names.append(name)

    numbers = Counter({stem: 1 for stem in reserved})
    for stem in pictures:
        take(stem, set())
    before_numbers = {numbered[1] for name in taken if (numbered := NUMBERED.fullmatch(name))}
    for stem in videos:
        take(stem, before_numbers)
    return names
