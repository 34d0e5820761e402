"""What ``--source`` names: files, cameras and streams, as frames."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from yolov7.config import InputError, nearest
from yolov7.config.paths import check_path
from yolov7.data.images import IMAGE_SUFFIXES, load_image
from yolov7.data.streams import SCHEMES, NoStreamError, Streams
from yolov7.data.tar_members import is_there
from yolov7.data.video import (
    Frame,
    VideoInfo,
    is_address,
    load_address,
    missing_frames,
    path_of,
    read_video,
    shown_address,
    unique_names,
    video_info,
)

__all__ = ["Files", "Frame", "Streams", "VideoInfo", "open_images", "open_source"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
VIDEO_SUFFIXES = (".mov", ".avi", ".mp4", ".mpg", ".mpeg", ".m4v", ".wmv", ".mkv", ".webm")
ACCEPTED = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES)
BESIDE_IMAGES = (".txt", ".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".md", ".cache", ".names", ".data")
SHOWN = 5  # of what is left out
MAX_LIST = 2**26  # bytes of a list of sources
CAMERA = re.compile(r"^/dev/video(\d+)$")  # a camera, as Linux names it
ATTEMPTS = 10  # in a row to reach a dropped stream
MAX_STEM = 100  # characters of a name of what a server has


class Files:
    """Images, then videos; can be iterated more than once.

    What cannot be read is left out and told in ``faults``, complete after an iteration. A source of one file, or one
    without any frame that can be read, raises `InputError` instead.
    """

    live = False

    def __init__(self, source: str, images: Sequence[str], videos: Sequence[str]) -> None:
        self.source = source
        self.images = tuple(images)
        stems = [[_stem(path) for path in paths] for paths in (images, videos)]
        self._names = dict(zip((*images, *videos), unique_names(*stems), strict=True))
        self.faults: list[str] = []
        self.videos = {path: video for path in videos if (video := self._tried(video_info, path))}
        self._unusable = tuple(self.faults)

    def _tried(self, read: Callable[[str], T], path: str) -> T | None:
        try:
            return read(path)
        except InputError as error:
            if len(self._names) == 1:
                raise
            self.faults.append(str(error))
            return None

    def __len__(self) -> int:
        """Number of frames, as far as it is announced."""
        return len(self.images) + sum(video.frames for video in self.videos.values())

    def batches(self, size: int) -> Generator[list[Frame], None, None]:
        """The frames in their order, ``size`` at a time; their shapes may differ."""
        frames = iter(self)
        while batch := list(islice(frames, size)):
            yield batch

    def close(self) -> None:
        """Nothing stays open here."""

    def __iter__(self) -> Iterator[Frame]:
        self.faults = list(self._unusable)
        images = filter(None, map(self._image, self.images))
        videos = (self._frames(path, video) for path, video in self.videos.items())
        frame = None
        for frame in chain(images, *videos):
            yield frame
        if frame is None:
            reasons = "; ".join(self.faults[:3])
            raise InputError(f"--source {shown_address(self.source)!r}: none of {len(self._names)} files can be read: "
                             f"{reasons}")

    def _image(self, path: str) -> Frame | None:
        image = self._tried(load_address if is_address(path) else load_image, path)
        return None if image is None else Frame(image, shown_address(path), self._names[path], 0, None)

    def _frames(self, path: str, video: VideoInfo) -> Iterator[Frame]:
        shown = shown_address(path)
        index = read = 0
        for index, seconds, image in read_video(path, video.fps):
            read += 1
            yield Frame(image, shown, self._names[path], index, video, seconds)
        if missing := missing_frames(path, read, max(video.frames, index)):
            self.faults.append(f"{shown}: {missing} of its {read + missing} frames are damaged or missing")


# --- finding ---------------------------------------------------------------------------------------------------


def open_source(source: str, attempts: int = ATTEMPTS) -> Files | Streams:
    """What stands behind ``--source``, sorted, images first.

    A file, a folder (not searched recursively), a glob, the URL of an image or a video, a camera's number, the URL of
    a stream, or a text file with one of these a line. A URL by http is an image where its path ends as one does, or
    where the server says so; that is asked of one which brings no more than a frame. A camera or stream that drops is
    tried ``attempts`` times in a row. Raises `InputError` where nothing usable is found.
    """
    if not is_address(source):
        check_path(source, "--source")
    entries = _listed(source) if source.lower().endswith(".txt") and os.path.isfile(source) else [source]
    entries = list(dict.fromkeys(CAMERA.sub(r"\1", entry) for entry in entries))
    images: set[str] = set()  # addresses of which servers say so
    while True:
        streams = [entry for entry in entries if entry not in images and _is_stream(entry)]
        if not streams:
            return _files(source, entries, images)
        if len(streams) < len(entries):
            other = next(entry for entry in entries if entry not in streams)
            raise InputError(f"--source {source!r}: lists the stream {shown_address(streams[0])!r} and the file "
                             f"{shown_address(other)!r}; accepted: only streams and cameras, or only files")
        try:
            return Streams(streams, attempts)
        except NoStreamError as answer:
            images.update(answer.addresses)


def open_images(source: str) -> Files:
    """The images of a folder or glob, as `open_source` reads them, without videos, which is said.

    Raises `InputError` where there are none.
    """
    check_path(source, "--source")
    files = _find(source)
    images = [path for path in files if _suffix(path) in IMAGE_SUFFIXES]
    if not images:
        raise InputError(f"--source {source!r}: holds videos alone; accepted: images (model.stream() takes both)")
    if len(images) < len(files):
        logger.warning("%r: videos are left out (%d); model.stream() takes them, too", source, len(files) - len(images))
    return Files(source, images, ())


def _files(source: str, entries: Sequence[str], answers: Collection[str]) -> Files:
    files = dict.fromkeys(path for entry in entries for path in _find(entry))  # what two lines name is read once
    images = [path for path in files if path in answers or _suffix(path) in IMAGE_SUFFIXES]
    return Files(source, images, [path for path in files if path not in answers and _suffix(path) in VIDEO_SUFFIXES])


def _stem(path: str) -> str:
    """A name for files; what a server calls something may be too long for one, or hold what no name can."""
    stem = Path(path_of(path)).stem
    return re.sub(r"[^\w.%+=,() -]+", "_", stem)[:MAX_STEM] if is_address(path) else stem


def _listed(source: str) -> list[str]:
    try:
        if os.path.getsize(source) > MAX_LIST:
            raise InputError(f"--source {source!r}: is larger than {MAX_LIST >> 20} MiB; accepted: a source a line")
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--source {source!r}: cannot be read: {error}") from None
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        raise InputError(f"--source {source!r}: is empty; accepted: a source a line")
    return entries


def _is_stream(entry: str) -> bool:
    """A camera's number, or a URL that names neither a video file nor an image."""
    if not is_address(entry):
        return entry.isdecimal()
    scheme, suffix = entry.partition("://")[0].lower(), _suffix(entry)
    is_web = scheme in ("http", "https")
    if scheme not in SCHEMES or (suffix in IMAGE_SUFFIXES and not is_web):
        what = f"the scheme {scheme!r}" if scheme not in SCHEMES else f"an image by {scheme}"
        raise InputError(f"--source {shown_address(entry)!r}: {what} is not read from a server; accepted: videos "
                         f"and streams by {', '.join(SCHEMES)}, images by http and https")
    return not (is_web and suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _suffix(path: str) -> str:
    return Path(path_of(path).partition("/")[2] if is_address(path) else path).suffix.lower()


def _find(entry: str) -> list[str]:
    """The images and videos that a path, pattern or URL means, sorted."""
    if is_address(entry):
        return [entry]
    what, files = _candidates(entry)
    usable = [path for path in files if _suffix(path) in IMAGE_SUFFIXES + VIDEO_SUFFIXES and is_there(path)]
    if usable:
        _tell_what_is_left_out(entry, files, set(usable))
    else:
        others = f" ({len(files)} other files)" if len(files) > 1 else ""
        raise InputError(f"--source {entry!r}: {what}{others}; accepted: {ACCEPTED}")
    return usable


def _tell_what_is_left_out(entry: str, files: Sequence[str], usable: set[str]) -> None:
    """One line about what stands beside images and videos, but for what is meant to: labels, lists, settings."""
    left = [path for path in files if path not in usable and _suffix(path) not in BESIDE_IMAGES]
    if left:
        names = ", ".join(f"{Path(path).name}{_kind(path)}" for path in left[:SHOWN])
        logger.warning("%r: %d of %d entries are left out, as they are no images or videos that can be read: "
                       "%s%s", entry, len(left), len(files), names, ", ..." if len(left) > SHOWN else "")


def _kind(path: str) -> str:
    """What is wrong with an entry beside its suffix."""
    if not os.path.exists(path):
        return " (a broken link)"
    return "" if os.path.isfile(path) else " (a device or pipe)"


def _candidates(entry: str) -> tuple[str, list[str]]:
    """What to say if none of the files will do, and the files, sorted."""
    if not entry:
        raise InputError("--source: nothing is named; accepted: an image, video, folder, glob, camera or stream")
    if not os.path.isdir(entry) and os.path.lexists(entry) and (kind := _kind(entry)):
        raise InputError(f"--source {entry!r}: is {kind[2:-1]}; accepted: an image, video, folder, glob, "
                         "camera or stream")
    if is_there(entry):
        return f"suffix {Path(entry).suffix!r} is unknown", [entry]
    if os.path.isdir(entry):
        try:
            names = [name for name in os.listdir(entry) if not name.startswith(".")]
        except OSError as error:
            raise InputError(f"--source {entry!r}: cannot be read: {error.strerror or error}") from None
        what, paths = "the folder holds no image or video", {Path(entry, name) for name in names}
    elif glob.has_magic(entry):
        what, paths = "the pattern matches no image or video", set(map(Path, glob.glob(entry, recursive=True)))
    else:
        path = Path(entry)
        beside = (other.name for other in path.parent.glob("*"))
        raise InputError(f"--source {str(path)!r}: no such file or folder{nearest(path.name, beside)}")
    return what, [str(path) for path in sorted(paths) if not path.is_dir()]
