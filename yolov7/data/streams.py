"""Cameras and streams: always the newest frame; a stream that drops is reached again, or the run ends.

(docs/reference.md, Inference sources)
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from yolov7.config import InputError, RunError
from yolov7.data.images import cv2
from yolov7.data.video import (
    Frame,
    VideoInfo,
    describe_capture,
    is_address,
    open_capture,
    path_of,
    shown_address,
    unique_names,
)

logger = logging.getLogger(__name__)

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp")
FIRST_WAIT = 1.0  # seconds before a dropped stream is tried again; doubled after every attempt that fails
MAX_WAIT = 30.0
START_ATTEMPTS = 2  # before a stream that brought nothing yet is refused: many a camera fails the first
MAX_STEM = 100  # characters of a name for files
PATIENCE = 1.0  # seconds that closing waits for a reader, which may be in the midst of a read


class StreamError(RunError):
    """A stream that stays away; the run has failed."""


class NoStreamError(Exception):
    """Addresses that turned out to be those of images."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__()
        self.addresses = addresses


class Streams:
    """Cameras (a number) and streams (a URL), read at the same time.

    Each has a thread that reads all its frames and keeps the newest: the lag does not grow however long the network
    takes. After ``attempts`` in a row that bring no frame a stream is given up; the others go on, and when none is
    left, that is `StreamError`. Raises `InputError` where none of them brings a frame at the start, `NoStreamError`
    where a server has an image there instead.
    """

    live = True

    def __init__(self, addresses: Sequence[str], attempts: int) -> None:
        self._closed = False
        self._news = threading.Condition()
        names = unique_names([], [_stem(address) for address in addresses])
        self._streams = [_Stream(address, name, attempts, self._news)
                         for address, name in zip(addresses, names, strict=True)]
        with self._news:
            self._news.wait_for(lambda: all(stream.tried for stream in self._streams))
        if images := [stream.address for stream in self._streams if stream.is_image]:
            self.close()
            raise NoStreamError(images)
        if not any(stream.info for stream in self._streams):
            self.close()
            kind = "camera" if addresses[0].isdecimal() else "stream"
            raise InputError(f"--source {self._streams[0].shown!r}: no frame comes from this {kind}; accepted: a "
                             f"{kind} that can be reached, or an image, video, folder or glob{_hint(addresses[0])}")
        for stream in self._streams:
            if not stream.info:
                logger.warning("%s: no frame yet; it is tried again", stream.shown)

    def __len__(self) -> int:
        return 0

    def batches(self, size: int) -> Generator[list[Frame], None, None]:
        """The newest frame of every stream that has a new one, as soon as one has; ``size`` has no meaning here."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._end() or any(s.newest for s in self._streams))
                frames = [frame for stream in self._streams if (frame := stream.take())]
                end = self._end()
            if self._closed:
                return
            if end and not (frames and isinstance(end, StreamError)):
                raise end
            yield [replace(frame, image=cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB)) for frame in frames]

    def _end(self) -> Exception | None:
        """What ends all: the last stream's end, or an error of ours."""
        ends = [stream.end for stream in self._streams]
        ours = [end for end in ends if end and not isinstance(end, StreamError)]
        return ours[0] if ours else ends[-1] if all(ends) else None

    @property
    def faults(self) -> list[str]:
        """What was not seen of each stream."""
        return [fault for stream in self._streams if (fault := stream.fault())]

    def close(self) -> None:
        """End the readers, and `batches`."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        for stream in self._streams:
            stream.stopped.set()
        for stream in self._streams:
            stream.thread.join(PATIENCE)


class _Stream:
    """One camera or stream, and the thread that reads it."""

    def __init__(self, address: str, name: str, attempts: int, news: threading.Condition) -> None:
        self.shown = shown_address(address)
        self.info: VideoInfo | None = None
        self.newest: Frame | None = None  # BGR
        self.tried = False  # whether a frame came, by http a second one, or the first attempts are over
        self.is_image = False  # what a server has there
        self.end: Exception | None = None
        self.stopped = threading.Event()
        self.address, self._name, self._attempts, self._news = address, name, attempts, news
        self._may_be_image = address.lower().startswith(("http://", "https://"))
        self._read = self._skipped = self._drops = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def take(self) -> Frame | None:
        """The newest frame, once, still BGR. To be called under the lock."""
        frame, self.newest = self.newest, None
        return frame

    def fault(self) -> str:
        """What was not seen, in one sentence; nothing where all was."""
        parts = [f"{self._skipped} of {self._read} frames left out for newer ones"] if self._skipped else []
        parts += [f"dropped {self._drops} times"] if self._drops else []
        parts += ["given up"] if self.end else []
        return f"{self.shown}: {', '.join(parts)}" if parts else ""

    def _run(self) -> None:
        try:
            self._keep_reading()
        except Exception as error:  # raised over there, by `Streams.batches`
            logger.warning("%s: given up", self.shown)
            self.end = error
        with self._news:
            self.tried = True
            self._news.notify_all()

    def _keep_reading(self) -> None:
        failures = 0
        while True:
            frames = self._read_until_it_drops()
            if self.stopped.is_set() or self._finds_image():
                return
            failures = 0 if frames else failures + 1
            self._drops += frames > 0
            if failures >= self._attempts:
                raise StreamError(f"{self.shown}: stays away: {failures} attempts to reach it brought no frame (it had "
                                 f"dropped {self._drops} times; {self._read} frames were read)")
            wait = min(FIRST_WAIT * 2**failures, MAX_WAIT)
            if self.info:
                what = f"attempt {failures} of {self._attempts} failed" if failures else "dropped"
                logger.warning("%s: %s; trying again in %g s", self.shown, what, wait)
            with self._news:
                self.tried |= self._read > 0 or failures >= START_ATTEMPTS
                self._news.notify_all()
            self.stopped.wait(wait)

    def _finds_image(self) -> bool:
        """Whether there is an image; asked once, of an address that brought a frame at most."""
        if self._may_be_image and self._read <= 1:
            from yolov7.data.web import is_image  # what it needs is slow to import

            self.is_image = is_image(self.address)
        self._may_be_image = False
        return self.is_image

    def _read_until_it_drops(self) -> int:
        """How many frames came."""
        frames = 0
        with open_capture(int(self.address) if self.address.isdecimal() else self.address) as capture:
            while not self.stopped.is_set():
                read, image = capture.read()
                if not read:
                    break
                frames += 1
                if frames == 1:
                    self.info = describe_capture(capture, image, live=True)
                self._offer(image)
        return frames

    def _offer(self, image: np.ndarray) -> None:
        with self._news:
            self._read += 1
            self._skipped += self.newest is not None
            self.newest = Frame(image, self.shown, self._name, self._read, self.info, time.time())
            self.tried |= self._read > 1 or not self._may_be_image
            self._news.notify_all()


def _hint(address: str) -> str:
    """What to do with a password that a URL cannot hold as it is."""
    user = address.partition("://")[2].rpartition("@")[0]
    return "; in a password write %2F for /, %3F for ?, %23 for #, %40 for @, %5B for [" \
        if re.search(r"[/?#@\[\]\s]", user) else ""


def _stem(address: str) -> str:
    """A name for files: host and path of a URL, without what may be secret."""
    if not is_address(address):
        return f"camera{address}"
    return re.sub(r"[^\w.-]+", "_", re.sub(r":\d+(?=/|$)", "", path_of(address))).strip("_")[:MAX_STEM]
