"""Writing videos that browsers play, by PyAV: each frame has its own time."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from yolov7.config import InputError, RunError, atomic_path
from yolov7.config.errors import reason_of
from yolov7.data.images import cv2
from yolov7.data.video import FALLBACK_FPS, MAX_FPS

CLOCK = 90_000  # ticks of a second: those of frame rates such as 30 and 30000 / 1001 are whole
MIN_STEP = round(CLOCK / MAX_FPS)  # ticks between two frames
CODECS: dict[str, dict[str, str]] = {  # by what PyAV calls the encoder, the first choice first
    "libx264": {"preset": "veryfast", "crf": "23", "bf": "0"},  # frames in another order would be too short or long
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "row-mt": "1", "crf": "33", "b": "0"},
}
# limited range and BT.601, as OpenCV reads every file; written into it, so that browsers do not guess otherwise
COLOURS = {"color_range": 1, "colorspace": 6, "color_primaries": 1, "color_trc": 1}


def browser_codec() -> str:
    """PyAV's encoder for videos that browsers play; '' where PyAV is not installed, or has none."""
    try:
        import av
    except ImportError:
        return ""
    return next((name for name in CODECS if name in av.codecs_available), "")


class TimedVideoWriter:
    """An MP4 file (H.264 or VP9) of frames of one size, each with its own time, as a context manager.

    ``fps`` is the usual rate, which is that of the last frame, too. An odd side gets one more pixel, as these codecs
    need even ones; what players need first stands at the front. Written under a temporary name and renamed when the
    context is left; removed if it is left by an exception or without a frame. Raises `InputError` where the encoder
    does not take the size, `RunError` where the disk does not take all of it.
    """

    def __init__(self, path: str | Path, codec: str, fps: float, width: int, height: int) -> None:
        self.path = Path(path)
        self.size = (height, width)
        self.frames = 0
        self._ticks = -MIN_STEP
        self._container: Any = None
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(atomic_path(self.path, ".mp4"))
        try:
            self._open(codec, fps if 0 < fps <= MAX_FPS else FALLBACK_FPS)
        except (OSError, ValueError, self._fault()) as error:
            self.close(keep=False)
            raise InputError(f"{self.path}: PyAV cannot open a video of {width} x {height} pixels for writing (MP4, "
                             f"codec {codec}): {reason_of(error)}") from None

    @staticmethod
    def _fault() -> type[Exception]:
        import av

        return av.error.FFmpegError  # type: ignore[no-any-return]

    def _open(self, codec: str, fps: float) -> None:
        import av

        self._container = av.open(str(self._temporary), "w", options={"movflags": "faststart"})
        rate = max(Fraction(fps).limit_denominator(10_000), Fraction(1, 1000))
        self._stream: Any = self._container.add_stream(codec, rate=rate, options=CODECS[codec])
        height, width = (side + side % 2 for side in self.size)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        context = self._stream.codec_context
        context.thread_type = "AUTO"  # else a frame is cut into parts, which costs quality
        self._stream.time_base = context.time_base = Fraction(1, CLOCK)
        for name, value in COLOURS.items():
            setattr(context, name, value)
        self._usual = round(CLOCK / rate)
        self._container.start_encoding()

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame, uint8 ``[H, W, 3]`` RGB of the video's size, shown from ``seconds`` on."""
        import av

        height, width = self.size
        if image.shape != (height, width, 3):
            raise ValueError(f"{self.path}: a frame of shape {image.shape} in a video of {(*self.size, 3)}")
        if height % 2 or width % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv420p")
        self._ticks = max(round(seconds * CLOCK), self._ticks + MIN_STEP)
        frame.pts, frame.time_base = self._ticks, Fraction(1, CLOCK)
        try:
            self._store(frame)
        except (OSError, self._fault()) as error:
            raise self._not_whole(error) from None
        self.frames += 1

    def _store(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._usual  # counts for the last one; the others end where the next begins
            self._container.mux(packet)

    def close(self, keep: bool = True) -> None:
        """Finish the file, or remove it."""
        fault: Exception | None = None
        try:
            if keep and self.frames:
                self._store(None)
                self._container.close()
                self._check_whole()
        except (OSError, self._fault()) as error:
            fault = self._not_whole(error)
        except RunError as error:
            fault = error
        with suppress(OSError, self._fault()):
            if self._container is not None:
                self._container.close()
        if fault or not (keep and self.frames):
            self._temporary.unlink(missing_ok=True)
        self._stack.close()
        if fault:
            raise fault

    def _check_whole(self) -> None:
        """A whole file holds all its frames."""
        import av

        with av.open(str(self._temporary)) as container:
            if container.streams.video[0].frames < self.frames:
                raise self._not_whole(None)

    def _not_whole(self, error: Exception | None) -> RunError:
        reason = f" ({reason_of(error)})" if error else ""
        return RunError(f"{self.path}: cannot be written as a whole{reason}; is the disk full?")

    def __enter__(self) -> TimedVideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(keep=kind is None)
