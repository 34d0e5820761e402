"""What detection writes: images, videos, crops, label files, and rows of JSON or CSV.

Every writer takes one `Result` after the other, so that memory does not grow with their number. File names come from
`Frame.name` and `Frame.unique_name`, which no two files of a source share.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yolov7.config import atomic_path
from yolov7.config.options import DetectOptions
from yolov7.config.paths import writing
from yolov7.data.image_set import category_ids
from yolov7.data.images import cv2, encode_image
from yolov7.data.timed_video import TimedVideoWriter, browser_codec
from yolov7.data.video import Frame, VideoInfo, VideoWriter, path_of
from yolov7.inference.column_forms import coco_values, json_values, label_values, table_columns, tracks_of
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.structures import Instances

logger = logging.getLogger(__name__)

MAX_COPIES = 1000  # of a frame in a row: no time that a file states makes a video without end
MAX_GAP = 3600.0  # seconds, the same with PyAV, which repeats nothing
MAX_STILL = 1.0  # seconds that a stream's video stands still where no frame came
COLUMNS = ("path", "frame", "label", "name", "score", "x1", "y1", "x2", "y2")
WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Result:
    """A frame and what was found in it, in pixels of the frame."""

    frame: Frame
    detections: Instances
    milliseconds: dict[str, float]  # by stage; of a batch, the frame's share
    overlay: Overlay = draw_instances  # the task's

    @cached_property
    def drawn(self) -> np.ndarray:
        """The frame with its detections, uint8 ``[H, W, 3]`` RGB."""
        return self.overlay(self.frame.image, self.detections, self.detections.names, True)

    @property
    def rows(self) -> list[tuple[int, float, list[float]]]:
        """Label, score and box of every detection, the best first."""
        found = self.detections
        return list(zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True))


Write = Callable[[Result], None]
Rows = Callable[[Result], Iterable[str]]  # the lines or objects of a result


def open_writers(options: DetectOptions, folder: Path, names: tuple[str, ...], stack: ExitStack) -> list[Write]:
    """The writers that the flags ask for; leaving ``stack`` finishes their files."""
    writers: list[Write] = []
    if not options.nosave:
        writers.append(Images(folder, stack).write)
    if options.save_txt:
        writers.append(partial(write_labels, folder / "labels", options.save_conf))
    if options.save_crop:
        writers.append(partial(write_crops, folder / "crops", options.crop_masks))
    if options.save_json:
        writers.append(stack.enter_context(open_array(folder / "detections.json", json_rows)))
    if options.save_coco:
        rows = partial(coco_rows, category_ids(names), {})
        writers.append(stack.enter_context(open_array(folder / "predictions.json", rows)))
    if options.save_jsonl:
        writers.append(stack.enter_context(open_lines(folder / "detections.jsonl", json_rows)))
    if options.save_mot:
        writers.append(Mot(folder / "mot", stack).write)
    if options.save_csv:
        writers.append(stack.enter_context(open_lines(folder / "detections.csv", csv_rows, csv_header)))
    return writers


# --- images and videos -----------------------------------------------------------------------------------------


class Images:
    """An image for every image, in its own format where OpenCV writes that, and an MP4 file for every video.

    A video keeps its size and runs as time does: a frame is shown until the next one, of a stream `MAX_STILL` at most.
    With PyAV it is H.264 or VP9, each frame with its own time; else OpenCV's mp4v at one frame rate, for which frames
    are repeated and left out where the rate varies, and which no browser plays.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._videos: dict[str, _Video] = {}
        self._codec: str | None = None  # not looked for yet: PyAV is slow to import
        stack.callback(self._tell)
        self._files = stack.enter_context(ExitStack())

    def write(self, result: Result) -> None:
        """The frame with its detections."""
        frame, info = result.frame, result.frame.video
        if info is None:
            suffix = Path(path_of(frame.path)).suffix
            suffix = suffix if suffix.lower() in WRITABLE else ".png"
            return save_image(self._folder / f"{frame.name}{suffix}", result.drawn)
        if frame.name not in self._videos:
            if not info.live:
                self._files.close()  # one video comes after the other
                self._videos.clear()
            self._videos[frame.name] = self._open(self._folder / f"{frame.name}.mp4", info)
        return self._videos[frame.name].add(result.drawn, frame.seconds)

    def _open(self, path: Path, info: VideoInfo) -> _Video:
        if self._codec is None:
            self._codec = browser_codec()
        if self._codec:
            timed = TimedVideoWriter(path, self._codec, info.fps, info.width, info.height)
            return _TimedVideo(self._files.enter_context(timed), info)
        writer = VideoWriter(path, info.fps, info.width, info.height)
        video = _RegularVideo(self._files.enter_context(writer), info)
        self._files.callback(video.tell)
        return video

    def _tell(self) -> None:
        if self._codec == "":
            logger.info("videos are written as mp4v, which browsers do not play; H.264, which they do: pip install "
                        "'yolov7-framework[video]'")


class _Video(Protocol):
    """What is written of one video or stream."""

    def add(self, image: np.ndarray, seconds: float) -> None:
        """The next frame, and its time."""


class _TimedVideo:
    """Each frame at its time, from 0 on; gaps are cut short where they are longer than a file or stream may have."""

    def __init__(self, writer: TimedVideoWriter, info: VideoInfo) -> None:
        self._writer, self._info = writer, info
        self._before: float | None = None
        self._left_out = 0.0  # seconds

    def add(self, image: np.ndarray, seconds: float) -> None:
        """See `_Video`."""
        most = MAX_STILL if self._info.live else MAX_GAP
        passed = 0.0 if self._before is None else seconds - self._before
        shown = min(passed, most) if passed >= 0 else 1 / self._info.fps  # a clock that was set back
        self._left_out = seconds if self._before is None else self._left_out + passed - shown
        self._before = seconds
        self._writer.write(_fitted(image, self._writer.size), seconds - self._left_out)


class _RegularVideo:
    """At one frame rate: a frame is repeated until the next one comes, or left out."""

    def __init__(self, writer: VideoWriter, info: VideoInfo) -> None:
        self._writer, self._info = writer, info
        self._clock = 0.0  # seconds of the video
        self._before: float | None = None
        self._repeated = self._left_out = 0

    def add(self, image: np.ndarray, seconds: float) -> None:
        """See `_Video`."""
        image = _fitted(image, self._writer.size)
        copies = self._copies_live(seconds) if self._info.live else self._copies(seconds)
        self._repeated += max(copies - 1, 0)
        self._left_out += copies == 0
        for _ in range(copies):
            self._writer.write(image)

    def tell(self) -> None:
        """Say what was done to keep time."""
        if not self._info.live and (self._repeated or self._left_out):
            logger.info("%s: the frame rate varies; written at %.4g a second, with %d frames repeated and %d left out",
                        self._writer.path, self._info.fps, self._repeated, self._left_out)

    def _copies(self, seconds: float) -> int:
        return min(max(round(seconds * self._info.fps) + 1 - self._writer.frames, 0), MAX_COPIES)

    def _copies_live(self, seconds: float) -> int:
        passed = 0.0 if self._before is None else seconds - self._before
        self._before = seconds
        self._clock += min(max(passed, 0.0), MAX_STILL)
        return max(round(self._clock * self._info.fps) + 1 - self._writer.frames, 1)


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A stream that has come back in another size keeps that of its video."""
    height, width = size
    return image if image.shape[:2] == size else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def write_crops(folder: Path, by_mask: bool, result: Result) -> None:
    """``CLASS/NAME_RANK.jpg`` for every detection of one pixel or more; rank 1 is the best.

    ``by_mask`` it is a PNG that is transparent outside of the object's mask.
    """
    image, found = result.frame.image, result.detections
    height, width = image.shape[:2]
    for rank, (label, _, (left, top, right, bottom)) in enumerate(result.rows, start=1):
        x1, y1 = max(math.floor(left), 0), max(math.floor(top), 0)
        x2, y2 = min(math.ceil(right), width), min(math.ceil(bottom), height)
        if x1 < x2 and y1 < y2:
            kind = folder / re.sub(r"[^\w -]", "_", found.names[label])
            kind.mkdir(parents=True, exist_ok=True)
            crop, name = image[y1:y2, x1:x2], f"{result.frame.unique_name}_{rank}"
            if by_mask:
                one = slice(rank - 1, rank)
                mask = found.extra["masks"][one].dense()[0].numpy()[y1:y2, x1:x2]
                save_image(kind / f"{name}.png", np.dstack((crop, np.uint8(255) * mask)))
            else:
                save_image(kind / f"{name}.jpg", crop)


def save_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 ``[H, W, 3]`` RGB, of PNG also ``[H, W, 4]`` with alpha, in the format of the suffix."""
    _save(path, encode_image(image, path.suffix))


def _save(path: Path, data: bytes) -> None:
    """Rename into place: a reader never sees half of it. Not flushed to the disk, as there may be many."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


# --- text ------------------------------------------------------------------------------------------------------


def write_labels(folder: Path, with_score: bool, result: Result) -> None:
    """``NAME.txt``: see `label_text`; empty where nothing was found."""
    folder.mkdir(exist_ok=True)
    text = label_text(result.detections, result.frame.image.shape[:2], with_score)
    _save(folder / f"{result.frame.unique_name}.txt", text.encode())


def label_text(detections: Instances, size: tuple[int, ...], with_score: bool) -> str:
    """Lines ``class ... [score] [track]``, least certain first: see `label_values`."""
    rows = zip(detections.labels.tolist(), label_values(detections, (size[0], size[1])), detections.scores.tolist(),
               tracks_of(detections), strict=True)
    lines = [" ".join(f"{value:g}" for value in (label, *values, *([score] if with_score else []), *track))
             for label, values, score, track in rows]
    return "".join(f"{line}\n" for line in reversed(lines))


@contextmanager
def open_lines(path: Path, rows: Rows, header: Rows = lambda _: ()) -> Iterator[Write]:
    """A file of lines, which can be read while it grows; the header is that of the first result."""
    path.unlink(missing_ok=True)  # a link is not followed
    # bytes of a path that are no text stand there as JSON has them
    with open(path, "x", encoding="utf-8", errors="backslashreplace", newline="") as file, ExitStack() as ending:
        ending.enter_context(writing(path))  # what is left is flushed

        def write(result: Result) -> None:
            with writing(path):
                file.writelines(f"{row}\n" for row in chain(() if file.tell() else header(result), rows(result)))
                file.flush()

        yield write


@contextmanager
def open_array(path: Path, rows: Rows) -> Iterator[Write]:
    """A JSON array, written row by row under a temporary name and renamed when it is whole."""
    separators = chain(["\n"], repeat(",\n"))
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:

        def write(result: Result) -> None:
            with writing(path):
                file.writelines(f"{next(separators)}{row}" for row in rows(result))

        file.write("[")
        yield write
        file.write("\n]\n")


class Mot:
    """``mot/NAME.txt`` for each video or stream: ``frame,track,left,top,width,height,score,-1,-1,-1``, as MOT has it.

    Images are the frames of ``mot/images.txt``, from 1. Only objects with a number are written.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._files: dict[str, Write] = {}
        self._images = 0

    def write(self, result: Result) -> None:
        """A frame."""
        name = result.frame.film or "images"
        self._images += not result.frame.film
        if name not in self._files:
            self._folder.mkdir(exist_ok=True)
            self._files[name] = self._stack.enter_context(open_lines(self._folder / f"{name}.txt", self._rows))
        self._files[name](result)

    def _rows(self, result: Result) -> list[str]:
        index = result.frame.index or self._images
        return _csv([(index, *track, *(round(x, 2) for x in (left, top, right - left, bottom - top)), round(score, 5),
                      -1, -1, -1) for (_, score, (left, top, right, bottom)), track in
                     zip(result.rows, tracks_of(result.detections), strict=True) if track and track[0] >= 0])


def json_rows(result: Result) -> list[str]:
    """One object a frame: see `json_record`."""
    frame = result.frame
    return [json_record(frame.path, frame.index, None if frame.video is None else frame.seconds, frame.image.shape,
                        result.detections)]


def json_record(path: str, index: int, seconds: float | None, size: tuple[int, ...], found: Instances) -> str:
    """An object with everything that was found in a frame of ``size`` (height, width).

    Columns of a task stand behind the box; ``seconds`` only where there are any.
    """
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    entries: list[dict[str, Any]] = [
        {"label": label, "name": found.names[label], "score": round(score, 5), "box": [round(x, 2) for x in box]}
        for label, score, box in rows]
    for name, values in json_values(found).items():
        for entry, value in zip(entries, values, strict=True):
            entry[name] = value
    record: dict[str, Any] = {"path": path, "frame": index}
    if seconds is not None:
        record["seconds"] = round(seconds, 3)
    return json.dumps(record | {"width": size[1], "height": size[0], "detections": entries})


def csv_header(result: Result) -> list[str]:
    """`COLUMNS`, then those of a task: see `table_columns`."""
    return _csv([(*COLUMNS, *table_columns(result.detections))])


def csv_rows(result: Result) -> list[str]:
    """One line a detection: see `csv_header`; boxes in pixels."""
    names, frame, columns = result.detections.names, result.frame, table_columns(result.detections).values()
    return _csv([(frame.path, frame.index, label, names[label], round(score, 5), *(round(x, 2) for x in box),
                  *(column[row] for column in columns)) for row, (label, score, box) in enumerate(result.rows)])


def _csv(rows: Iterable[Sequence[Any]]) -> list[str]:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().splitlines()


def coco_rows(categories: Sequence[int], numbers: dict[int, str], result: Result) -> list[str]:
    """One COCO result a detection. ``image_id`` is the number that names the image, else its name; ``numbers``
    keeps whose each number is (7.jpg and 007.jpg). Masks and key points of a task stand beside the box."""
    name = result.frame.unique_name
    is_number = name.isdecimal() and numbers.setdefault(int(name), name) == name
    return [json.dumps({"image_id": int(name) if is_number else name, "category_id": categories[label],
                        "bbox": [round(x, 3) for x in (left, top, right - left, bottom - top)],
                        "score": round(score, 5), **of_task})
            for (label, score, (left, top, right, bottom)), of_task in zip(
                result.rows, coco_values(result.detections), strict=True)]
