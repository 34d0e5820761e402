"""Frames of images, videos and streams; videos by OpenCV: opening, asking what they hold, reading, writing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from yolov7.config import InputError, RunError, atomic_path
from yolov7.config.messages import without_secrets
from yolov7.data.images import cv2

FALLBACK_FPS = 30.0  # for videos that do not say
MAX_FPS = 1000.0  # of a video; above it stands a unit of time rather than a rate
MAX_LIVE_FPS = 120.0
TIMEOUT = 10_000  # milliseconds without an answer from a server, in opening and in reading
TICK = 0.002  # seconds: containers with times in whole milliseconds
NUMBERED = re.compile(r"(.+)_\d+")
EXACT = (".mp4", ".m4v", ".mov", ".avi")  # containers that count their frames; of others it is an estimate


# --- frames ----------------------------------------------------------------------------------------------------


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
    """An image, or one frame of a video or stream."""

    image: np.ndarray  # uint8 [H, W, 3] RGB
    path: str  # file or address, without a password
    name: str  # of the file or stream, unique within the source: for output files
    index: int  # 1, 2, ... in a video or stream, 0 for an image
    video: VideoInfo | None
    seconds: float = 0.0  # since the start of the video; of a stream since 1970, when it arrived

    @property
    def film(self) -> str:
        """What it is a frame of: the video or stream by its name; all images of a source are one film, ''."""
        return self.name if self.video else ""

    @property
    def unique_name(self) -> str:
        """``name`` of an image, ``name_index`` of a frame of a video: unlike that of any other frame."""
        return f"{self.name}_{self.index}" if self.index else self.name


def unique_names(images: Sequence[str], videos: Sequence[str]) -> list[str]:
    """Names for the output files of images, then of videos: their stems, numbered where that is needed.

    No two are equal, also where only the case differs, and no image is named like a frame of a video (``clip_7``).
    """
    reserved = {stem.casefold() for stem in (*images, *videos)}  # no other file's name after numbering
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
    for stem in images:
        take(stem, set())
    before_numbers = {numbered[1] for name in taken if (numbered := NUMBERED.fullmatch(name))}
    for stem in videos:
        take(stem, before_numbers)
    return names


# --- addresses -------------------------------------------------------------------------------------------------


def is_address(path: str) -> bool:
    """Whether this is a URL rather than a path."""
    return "://" in path


def shown_address(path: str) -> str:
    """A URL without what is secret in it, as it may be shown and stored; a path stays as it is."""
    return without_secrets(path) if is_address(path) else path


def path_of(address: str) -> str:
    """Host and path of a URL, without user, query and what is secret; anything else as it is."""
    if not is_address(address):
        return address
    rest = re.sub("^[^/]*@", "", without_secrets(address).partition("://")[2])
    return re.split("[?#]", rest, maxsplit=1)[0]


def load_address(address: str) -> np.ndarray:
    """The image at an address of http or https: see `yolov7.data.web.read_web_image`."""
    from yolov7.data.web import read_web_image  # what it needs is slow to import

    return read_web_image(address)


# --- reading ---------------------------------------------------------------------------------------------------


@contextmanager
def open_capture(address: str | int) -> Iterator[Any]:
    """OpenCV's reader of a file, a URL or a camera; it may turn out not to be opened."""
    _silence()
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
    with_limits = isinstance(address, str) and is_address(address)
    backend = _file_backend() if isinstance(address, str) else cv2.CAP_ANY
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits) if with_limits else cv2.VideoCapture(address, backend)
    try:
        yield capture
    finally:
        capture.release()


def _file_backend() -> int:
    """FFmpeg where OpenCV has it: others write what a damaged file holds to the terminal."""
    return cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends() else cv2.CAP_ANY


def describe_capture(capture: Any, first: np.ndarray, live: bool = False) -> VideoInfo:
    """What an open video says of itself; the size is that of its first frame ``[H, W, 3]``."""
    fps = _usable_fps(capture.get(cv2.CAP_PROP_FPS), MAX_LIVE_FPS if live else MAX_FPS)
    frames = 0 if live else capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return VideoInfo(fps, first.shape[1], first.shape[0], int(frames) if 0 < frames < 2**31 else 0, live)


def video_info(path: str) -> VideoInfo:
    """Open a video and decode its first frame. Raises `InputError`."""
    if not is_address(path) and os.path.getsize(path) == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    with open_capture(path) as capture:
        read, image = capture.read()
        if not read:
            shown = shown_address(path)
            raise InputError(f"{shown}: is not a video that can be read, or holds no frame (truncated?)")
        return describe_capture(capture, image)


def read_video(path: str, fps: float) -> Iterator[tuple[int, float, np.ndarray]]:
    """The frames (uint8 ``[H, W, 3]`` RGB) with their numbers 1, 2, ... and the seconds at which they are shown.

    What cannot be decoded is left out. ``fps`` counts where the video does not say when a frame is shown, and where it
    says the same to a millisecond or two.
    """
    index, seconds = 0, 0.0
    with open_capture(path) as capture:
        while capture.grab():
            index += 1
            seconds = _shown_at(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, (index - 1) / fps, seconds)
            decoded, image = capture.retrieve()
            if decoded:
                yield index, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _shown_at(said: float, regular: float, before: float) -> float:
    """Time never runs backwards; 0 for all frames is what is said where nothing is known."""
    if not said >= before or said == 0 or abs(said - regular) < TICK:
        return max(regular, before)
    return said


def missing_frames(path: str, read: int, announced: int) -> int:
    """How many of a video's frames could not be read; one is forgiven where their number is an estimate."""
    missing = max(announced - read, 0)
    return missing if missing > 1 or Path(path).suffix.lower() in EXACT else 0


def _silence() -> None:
    """Messages of OpenCV and FFmpeg would stand above a sentence of ours. FFmpeg's level is read but once."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _usable_fps(fps: float, highest: float = MAX_FPS) -> float:
    return fps if 0 < fps <= highest else FALLBACK_FPS


# --- writing ---------------------------------------------------------------------------------------------------


class VideoWriter:
    """An MP4 file (codec mp4v) of frames of one size, as a context manager; ``fps`` of 0 becomes 30.

    Written under a temporary name and renamed when the context is left; removed if it is left by an exception
    or without a frame. OpenCV cuts the last column of an odd width and the last row of an odd height.
    Raises `InputError` where OpenCV cannot open it, `RunError` where the disk does not take all of it.
    """

    def __init__(self, path: str | Path, fps: float, width: int, height: int) -> None:
        self.path = Path(path)
        self.size = (height, width)
        self.frames = 0
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(atomic_path(self.path, ".mp4"))
        _silence()
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), codec, _usable_fps(fps), (width, height))
        if not self._writer.isOpened():
            self.close(keep=False)
            raise InputError(f"{self.path}: OpenCV cannot open a video of {width} x {height} pixels for writing (MP4, "
                             "codec mp4v): is the folder writable, and has this OpenCV been built with FFmpeg?")

    def write(self, image: np.ndarray) -> None:
        """Append a frame: uint8 ``[H, W, 3]`` RGB of the video's size."""
        if image.shape != (*self.size, 3):
            raise ValueError(f"{self.path}: a frame of shape {image.shape} in a video of {(*self.size, 3)}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self, keep: bool = True) -> None:
        """Finish the file, or remove it."""
        self._writer.release()
        whole = not keep or not self.frames or self._is_whole()
        if not (keep and self.frames and whole):
            self._temporary.unlink(missing_ok=True)
        self._stack.close()
        if not whole:
            raise RunError(f"{self.path}: cannot be written as a whole; is the disk full?")

    def _is_whole(self) -> bool:
        """OpenCV does not say what the disk has refused; a whole file holds all its frames."""
        with open_capture(str(self._temporary)) as capture:
            return bool(capture.get(cv2.CAP_PROP_FRAME_COUNT) >= self.frames)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(keep=kind is None)
