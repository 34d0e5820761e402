"""The same number for the same object from frame to frame, by the trackers of the package ``trackers``.

Every video and every stream has a tracker of its own; the images of a source are taken as one film, in their order.
Times of frames count, not their number: where frames were dropped, objects are looked for further on. Trackers get
detections from the score `LOW` on, with which ByteTrack and BoT-SORT continue tracks; only those above the threshold
begin one, and are told without one.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from yolov7.config import InputError
from yolov7.data.images import cv2
from yolov7.data.video import Frame
from yolov7.inference.column_forms import TRACK
from yolov7.inference.draw import Overlay, class_colour, class_name, line_width
from yolov7.structures import Instances

NO_TRACK = -1  # in the column `TRACK`, int64 [N]
LOW = 0.1  # score
TAIL = 1.5  # seconds
FPS = 30.0  # of images, which have no times
TRACKERS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "botsort": "BoTSORTTracker",
            "sort": "SORTTracker"}


@dataclass(frozen=True)
class TrackOptions:
    """How objects are followed."""

    tracker: str = "ocsort"  # the best one on the made films of scripts/evaluate_tracking.py
    confidence: float = 0.25  # of a detection that begins a track
    buffer: float = 2.0  # seconds that a lost object is remembered


class Tracks:
    """The trackers of a source, and the tails of what they follow."""

    def __init__(self, options: TrackOptions) -> None:
        self.options = options
        self._make = _tracker_class(options.tracker)
        self._of: dict[str, _Follower] = {}

    def update(self, frame: Frame, found: Instances) -> Instances:
        """The detections of the next frame of its film, with the column ``track``; called for frames in their order."""
        if frame.film not in self._of:
            if frame.video is not None and not frame.video.live:
                self._of.clear()  # one comes after the other
            self._of[frame.film] = _Follower(self._make, self.options, frame.video.fps if frame.video else FPS)
        seconds = None if frame.video is None else frame.seconds
        return self._of[frame.film].follow(found, seconds, frame.image)

    def tails(self, frame: Frame) -> Mapping[int, Sequence[tuple[float, float]]]:
        """Where each object of the frame was in the last `TAIL` seconds, the newest place last, by track."""
        follower = self._of.get(frame.film)
        return {} if follower is None else {track: [place for _, place in tail]
                                            for track, tail in follower.tails.items()}


@dataclass
class _Follower:
    """One film."""

    make: Any
    options: TrackOptions
    fps: float
    tails: dict[int, deque[tuple[float, tuple[float, float]]]] = field(default_factory=dict)
    _clock: float = 0.0

    def __post_init__(self) -> None:
        self.fps = self.fps if 0 < self.fps < 1000 else FPS  # as files and cameras say it
        confidence = self.options.confidence
        wanted = {"frame_rate": self.fps, "lost_track_buffer": max(round(30 * self.options.buffer), 1),
                  "track_activation_threshold": confidence, "high_conf_det_threshold": confidence}
        accepted = inspect.signature(self.make.__init__).parameters
        self._tracker = self.make(**{name: value for name, value in wanted.items() if name in accepted})

    def follow(self, found: Instances, seconds: float | None, image: np.ndarray) -> Instances:
        """One frame."""
        import supervision

        boxes = found.boxes.float().numpy().reshape(-1, 4)
        given = supervision.Detections(xyxy=boxes, confidence=found.scores.float().numpy(),
                                       class_id=found.labels.numpy(), data={"row": np.arange(len(boxes))})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this tracker needs no frame, or that a clock was set back
            told = self._tracker.update(given, frame=image, timestamp=seconds)
        tracks = np.full(len(boxes), NO_TRACK)
        if len(told):
            tracks[told.data["row"]] = told.tracker_id
        self._clock = self._clock + 1 / self.fps if seconds is None else seconds
        self._note(boxes, tracks)
        kept = torch.from_numpy((tracks != NO_TRACK) | (found.scores.numpy() > self.options.confidence))
        column = torch.from_numpy(tracks.astype(np.int64))
        return replace(found, extra={**found.extra, TRACK: column})[kept]

    def _note(self, boxes: np.ndarray, tracks: np.ndarray) -> None:
        for box, track in zip(boxes.tolist(), tracks.tolist(), strict=True):
            if track != NO_TRACK:
                place = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                self.tails.setdefault(track, deque()).append((self._clock, place))
        for track, tail in list(self.tails.items()):
            while tail and not 0 <= self._clock - tail[0][0] <= TAIL:
                tail.popleft()
            if not tail:
                del self.tails[track]


def _tracker_class(name: str) -> Any:
    try:
        import trackers
    except ImportError:
        raise InputError("--track: needs the package trackers: pip install 'yolov7-framework[track]'") from None
    found = getattr(trackers, TRACKERS[name], None)
    if found is None:
        raise InputError(f"--track {name}: this version of the package trackers has no {TRACKERS[name]}; accepted: a "
                         "newer one (pip install -U trackers)")
    return found


@dataclass(frozen=True)
class TrackOverlay:
    """A task's overlay for objects with numbers: each in a colour of its own, with its number and its tail.

    What has no number yet is not drawn.
    """

    overlay: Overlay
    tails: Mapping[int, Sequence[tuple[float, float]]]  # as `Tracks.tails` gives them

    def __call__(self, image: np.ndarray, found: Instances, names: Sequence[str],
                 with_scores: bool = True) -> np.ndarray:
        """See `Overlay`."""
        shown = found[found.extra[TRACK] != NO_TRACK]
        numbers: list[int] = shown.extra[TRACK].tolist()
        canvas = _with_tails(image, {track: self.tails.get(track, ()) for track in numbers})
        texts = [""] * (max(numbers, default=0) + 1)
        for track, label in zip(numbers, shown.labels.tolist(), strict=True):
            texts[track] = f"{class_name(label, names)} #{track}"
        return self.overlay(canvas, replace(shown, labels=shown.extra[TRACK]), texts, with_scores)


def _with_tails(image: np.ndarray, tails: Mapping[int, Sequence[tuple[float, float]]]) -> np.ndarray:
    canvas: np.ndarray = np.ascontiguousarray(image).copy()
    for track, places in tails.items():
        if len(places) > 1:
            points = np.round(np.array(places)).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(canvas, [points], False, class_colour(track), line_width(canvas.shape), cv2.LINE_AA)
    return canvas
