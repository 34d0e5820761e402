"""Videos that browsers play: codec, times, sizes, colours, a full disk; all read back by PyAV."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolov7.config import InputError, RunError
from yolov7.data import timed_video
from yolov7.data.sources import open_source
from yolov7.data.timed_video import CODECS, TimedVideoWriter, browser_codec

av = pytest.importorskip("av")

H264 = "libx264"


@pytest.fixture(params=[name for name in CODECS if name in av.codecs_available])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey image, brighter with its number."""
    return np.full((height, width, 3), 16 + 10 * number, np.uint8)


def write(path: Path, codec: str, times: Sequence[float], height: int = 48, width: int = 64, fps: float = 10) -> None:
    with TimedVideoWriter(path, codec, fps, width, height) as writer:
        for number, seconds in enumerate(times):
            writer.write(frame(number, height, width), seconds)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def read(path: Path) -> tuple[Any, list[float], list[np.ndarray]]:
    """The stream, the seconds and the pixels of its frames."""
    container = av.open(str(path))
    frames = list(container.decode(video=0))
    stream = container.streams.video[0]
    assert stream.time_base is not None
    times = [float(found.pts * stream.time_base) for found in frames]
    return stream, times, [found.to_ndarray(format="rgb24") for found in frames]


def test_every_frame_keeps_its_time(codec: str, tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.8, 0.82, 0.84, 3.0]
    write(tmp_path / "a.mp4", codec, times)
    stream, found, images = read(tmp_path / "a.mp4")
    assert stream.codec_context.name in ("h264", "vp9", "libvpx-vp9") and stream.codec_context.pix_fmt == "yuv420p"
    assert found == pytest.approx(times, abs=1e-4)
    assert [round((image.mean() - 16) / 10) for image in images] == list(range(len(times)))
    assert float(stream.duration * stream.time_base) == pytest.approx(3.1, abs=1e-3)  # the last one stands as usual
    assert [round(one.seconds, 3) for one in open_source(str(tmp_path / "a.mp4"))] == pytest.approx(times, abs=0.002)


@pytest.mark.parametrize("fps", [10.0, 30000 / 1001, 24000 / 1001])
def test_a_constant_rate_is_one(fps: float, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", H264, [index / fps for index in range(20)], fps=fps)
    stream, times, _ = read(tmp_path / "a.mp4")
    assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
    assert times == pytest.approx([index / fps for index in range(20)], abs=1e-5)


def test_no_two_frames_have_one_time(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", H264, [0, 0, 0.5, 0.4, 0.5])
    _, times, _ = read(tmp_path / "a.mp4")
    assert times == pytest.approx([0, 0.001, 0.5, 0.501, 0.502], abs=1e-5)


def test_what_players_need_first_stands_at_the_front(codec: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", codec, [0, 0.1])
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(97, 129), (48, 65), (1, 1), (2, 3)])
def test_an_odd_side_gets_a_pixel(height: int, width: int, codec: str, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", codec, [0, 0.1], height, width)
    _, _, images = read(tmp_path / "a.mp4")
    assert images[0].shape == (height + height % 2, width + width % 2, 3)
    assert abs(images[0].astype(int) - 16).max() < 6  # the new row and column are no black border


@pytest.mark.parametrize("colour", [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 180, 40)])
def test_colours_are_those_of_the_image_for_every_reader(colour: tuple[int, int, int], tmp_path: Path) -> None:
    with TimedVideoWriter(tmp_path / "a.mp4", H264, 10, 64, 48) as writer:
        writer.write(np.full((48, 64, 3), colour, np.uint8), 0)
    stream, _, (image,) = read(tmp_path / "a.mp4")
    (other,) = open_source(str(tmp_path / "a.mp4"))
    for pixels in (image, other.image):
        assert np.abs(pixels.reshape(-1, 3).mean(0) - colour).max() < 5
    assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (6, 1)


def test_nothing_is_left_of_an_interrupted_video(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TimedVideoWriter(tmp_path / "a.mp4", H264, 10, 64, 48) as writer:
        writer.write(frame(0), 0)
        raise KeyboardInterrupt
    with TimedVideoWriter(tmp_path / "b.mp4", H264, 10, 64, 48):
        assert not (tmp_path / "b.mp4").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.mp4: PyAV cannot open a video of 64 x 48 pixels for writing \(MP4, codec"):
        TimedVideoWriter(tmp_path / "nowhere" / "a.mp4", H264, 10, 64, 48)
    with pytest.raises(InputError, match="PyAV cannot open a video of 70000 x 48 pixels"):
        TimedVideoWriter(tmp_path / "a.mp4", H264, 10, 70_000, 48)
    with (
        pytest.raises(ValueError, match=r"a frame of shape \(50, 64, 3\) in a video of \(48, 64, 3\)"),
        TimedVideoWriter(tmp_path / "a.mp4", H264, 10, 64, 48) as writer,
    ):
        writer.write(frame(0, 50), 0)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
import numpy as np
from yolov7.config import RunError
from yolov7.data.timed_video import TimedVideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
rng = np.random.default_rng(0)
try:
    with TimedVideoWriter(sys.argv[1], "libx264", 10, 320, 240) as writer:
        for index in range(12):
            writer.write(rng.integers(0, 255, (240, 320, 3), np.uint8), index / 10)
except RunError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit for the size of a file")
@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_a_full_disk_ends_it_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.mp4"), str(limit)], capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a.mp4: cannot be written as a whole" in done.stdout and "is the disk full?" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_all_its_frames_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written as a whole; is the disk full"), \
            TimedVideoWriter(tmp_path / "a.mp4", H264, 10, 64, 48) as writer:
        writer.write(frame(0), 0)
        writer.frames += 1
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_is_the_first_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser_codec() in CODECS
    monkeypatch.setattr(av, "codecs_available", {"libvpx-vp9"})
    assert browser_codec() == "libvpx-vp9"
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    assert browser_codec() == ""
    monkeypatch.setitem(sys.modules, "av", None)
    assert timed_video.browser_codec() == ""


def test_odd_rates_are_taken(tmp_path: Path) -> None:
    for fps in (0, float("nan"), 1e-9, 1000, 1e9):
        write(tmp_path / "a.mp4", H264, [0, 0.1], fps=fps)
        assert read(tmp_path / "a.mp4")[1] == pytest.approx([0, 0.1], abs=1e-4)
    assert Fraction(1, 90_000) * timed_video.MIN_STEP == Fraction(1, 1000)
