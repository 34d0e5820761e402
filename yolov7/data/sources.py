"""What detection reads: pictures and videos, frame by frame; and the video that it writes.

Spec of the data, section 15.
"""

from __future__ import annotations

import glob
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from yolov7.config import InputError, nearest
from yolov7.data.images import IMAGE_SUFFIXES, cv2, load_image

VIDEO_SUFFIXES = (".mov", ".avi", ".mp4", ".mpg", ".mpeg", ".m4v", ".wmv", ".mkv")
FALLBACK_FPS = 30.0  # for videos that do not say
ACCEPTED = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES)


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself."""

    fps: float
    width: int  # pixels, of its first frame
    height: int
    frames: int  # as announced; some containers only estimate it, and some say 0


@dataclass(frozen=True)
class Frame:
    """A picture, or one frame of a video."""

    image: np.ndarray  # uint8 [H, W, 3] RGB
    path: str
    name: str  # the file's stem, made unique within the source: for output files
    index: int  # 1, 2, ... in a video, 0 for a picture
    video: VideoInfo | None


class Source:
    """Pictures, then videos; can be iterated more than once.

    What cannot be read is left out and listed in ``faults`` as (path, reason), complete after an iteration.
    A source of one file, or one without any frame that can be read, raises `InputError` instead.
    """

    def __init__(self, source: str, pictures: Sequence[Path], videos: Sequence[Path]) -> None:
        self.source = source
        self.pictures = tuple(map(str, pictures))
        self._names = _unique_names((*self.pictures, *map(str, videos)))
        self._unusable: list[tuple[str, str]] = []
        self.videos: dict[str, VideoInfo] = {}
        for path in map(str, videos):
            self._probe(path)
        self.faults = list(self._unusable)

    def _probe(self, path: str) -> None:
        try:
            self.videos[path] = _video_info(path)
        except InputError as error:
            if len(self._names) == 1:
                raise
            self._unusable.append((path, str(error)))

    def __len__(self) -> int:
        """Number of frames, as far as it is announced."""
        return len(self.pictures) + sum(video.frames for video in self.videos.values())

    def __iter__(self) -> Iterator[Frame]:
        self.faults = list(self._unusable)
        count = 0
        for path in self.pictures:
            image = self._picture(path)
            if image is not None:
                count += 1
                yield Frame(image, path, self._names[path], 0, None)
        for path, video in self.videos.items():
            for frame in self._frames(path, video):
                count += 1
                yield frame
        if not count:
            reasons = "; ".join(reason for _, reason in self.faults[:3])
            raise InputError(f"{self.source}: none of its {len(self._names)} files can be read: {reasons}")

    def _picture(self, path: str) -> np.ndarray | None:
        try:
            return load_image(path)
        except InputError as error:
            if len(self._names) == 1:
                raise
            self.faults.append((path, str(error)))
            return None

    def _frames(self, path: str, video: VideoInfo) -> Iterator[Frame]:
        capture = _capture(path)
        index = read = 0
        try:
            while capture.grab():
                index += 1
                decoded, image = capture.retrieve()
                if not decoded:
                    self.faults.append((path, f"{path}: frame {index} cannot be decoded"))
                    continue
                read += 1
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), path, self._names[path], index, video)
        finally:
            capture.release()
        if index < video.frames - 1:  # an estimate may be one too many
            self.faults.append((path, f"{path}: ends after {index} of {video.frames} frames"))


# --- finding ---------------------------------------------------------------------------------------------------


def open_source(source: str) -> Source:
    """The pictures and videos behind ``--source``: a file, a folder (not searched recursively) or a glob.

    Sorted, pictures first. Raises `InputError` where nothing usable is found.
    """
    if not source:
        raise InputError("--source: nothing is named; accepted: a picture, a video, a folder or a glob")
    what, files = _find(source)
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not pictures and not videos:
        others = f" ({len(files)} other files)" if len(files) > 1 else ""
        raise InputError(f"--source {source!r}: {what}{others}; accepted: {ACCEPTED}")
    return Source(source, pictures, videos)


def _find(source: str) -> tuple[str, list[Path]]:
    """What to say if none of the files will do, and the files, sorted."""
    if os.path.isfile(source):
        return f"suffix {Path(source).suffix!r} is unknown", [Path(source)]
    if os.path.isdir(source):
        try:
            names = [name for name in os.listdir(source) if not name.startswith(".")]
        except OSError as error:
            raise InputError(f"--source {source!r}: cannot be read: {error.strerror or error}") from None
        what, paths = "the folder holds no picture or video", {Path(source, name) for name in names}
    elif glob.has_magic(source):
        what, paths = "the pattern matches no picture or video", set(map(Path, glob.glob(source, recursive=True)))
    else:
        raise _missing(Path(source))
    return what, sorted(path for path in paths if path.is_file())


def _missing(path: Path) -> InputError:
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
    return InputError(f"--source {str(path)!r}: no such file or folder{nearest(path.name, names)}")


def _unique_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for each path: its stem, numbered where another file has it, also where only the case differs."""
    stems = {path: Path(path).stem for path in paths}
    taken = {stem.casefold() for stem in stems.values()}
    seen: Counter[str] = Counter()
    names = {}
    for path, stem in stems.items():
        key, name = stem.casefold(), stem
        seen[key] += 1
        if seen[key] > 1:
            while (name := f"{stem}_{seen[key]}").casefold() in taken:
                seen[key] += 1
        taken.add(name.casefold())
        names[path] = name
    return names


# --- video -----------------------------------------------------------------------------------------------------


def _capture(path: str) -> Any:
    # read once, when the first video is opened: FFmpeg's own messages stand above a sentence of ours
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return cv2.VideoCapture(path)


def _video_info(path: str) -> VideoInfo:
    """Open a video and decode its first frame. Raises `InputError`."""
    if os.path.getsize(path) == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    capture = _capture(path)
    try:
        read, image = capture.read()
        if not read:
            raise InputError(f"{path}: is not a video that can be read, or holds no frame (truncated?)")
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return VideoInfo(
            fps=_usable_fps(capture.get(cv2.CAP_PROP_FPS)),
            width=image.shape[1],
            height=image.shape[0],
            frames=int(frames) if 0 < frames < 2**31 else 0,
        )
    finally:
        capture.release()


def _usable_fps(fps: float) -> float:
    return fps if math.isfinite(fps) and fps > 0 else FALLBACK_FPS


class VideoWriter:
    """An MP4 file (codec mp4v) of frames of one size, as a context manager.

    Written under a temporary name and renamed when the context is left; removed if it is left by an exception
    or without a frame.
    OpenCV cuts the last column of an odd width and the last row of an odd height.
    """

    def __init__(self, path: str | Path, fps: float, width: int, height: int) -> None:
        self.path = Path(path)
        self.size = (height, width)
        self.frames = 0
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp.mp4")
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), codec, _usable_fps(fps), (width, height))
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: OpenCV cannot open a video of {width} x {height} pixels for writing (MP4, codec mp4v): "
                "is the folder writable, and has this OpenCV been built with FFmpeg?"
            )

    def write(self, image: np.ndarray) -> None:
        """Append a frame: uint8 ``[H, W, 3]`` RGB of the video's size."""
        if image.shape != (*self.size, 3):
            raise ValueError(f"{self.path}: a frame of shape {image.shape} in a video of {(*self.size, 3)}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._writer.release()
        if kind is None and self.frames:
            os.replace(self._temporary, self.path)
        self._temporary.unlink(missing_ok=True)


def open_video_writer(path: str | Path, fps: float, width: int, height: int) -> VideoWriter:
    """A writer for an MP4 file; ``fps`` of 0 becomes 30. Raises `InputError` where OpenCV cannot open it."""
    return VideoWriter(path, fps, width, height)
