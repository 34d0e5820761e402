"""Streams from a real server on loopback: fresh frames, cuts, back-off, and the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
from numbered import Camera, number_of, numbered, plain_pictures

from yolov7.config import InputError
from yolov7.data import streams, video
from yolov7.data.sources import Frame, open_source
from yolov7.data.streams import StreamError, Streams
from yolov7.data.video import VideoWriter

Connect = Callable[..., Camera]


PYTHON = "/usr/bin/python3"  # the system's, which may have GStreamer
GSTREAMER = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("x264enc", "rtph264pay", "videoconvert", "appsrc")))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off that starts with less than a second; no proxies."""
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(streams, "MAX_WAIT", 1.0)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def connect(quick: None) -> Iterator[Connect]:
    """Starts servers, which end with the test."""
    cameras: list[Camera] = []

    def start(fps: float = 40.0, port: int = 0) -> Camera:
        cameras.append(Camera(plain_pictures(8), fps, port))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.stop()


def singles(source: Streams) -> Generator[Frame, None, None]:
    for frames in source.batches(1):
        yield from frames


def test_frames_of_a_stream(connect: Connect) -> None:
    camera = connect()
    source = open_source(camera.url)
    assert isinstance(source, Streams) and source.live and len(source) == 0
    before = time.time()
    frames = list(islice(singles(source), 12))
    source.close()
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    assert {frame.path for frame in frames} == {camera.url}
    assert {frame.name for frame in frames} == {"127.0.0.1_camera"}
    assert all(frame.video and frame.video.live and frame.video.width == 160 for frame in frames)
    assert before - 1 < frames[0].seconds < frames[-1].seconds < time.time() + 1


def test_the_lag_does_not_grow_however_slow_the_reader_is(connect: Connect) -> None:
    camera = connect(fps=50.0)
    source = open_source(camera.url)
    lags = []
    for frame in islice(singles(source), 12):
        lags.append(camera.number - number_of(frame.image))
        time.sleep(0.15)  # seven frames pass
    source.close()
    assert max(lags[1:]) <= 40  # of 80 that pass
    (fault,) = source.faults
    assert fault.startswith(f"{camera.url}: ") and fault.endswith("frames left out for newer ones")


def test_it_comes_back_after_three_cuts_and_ends_when_it_stays_away(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    camera = connect()
    source = open_source(camera.url, attempts=3)
    frames = singles(source)
    for _ in range(3):
        list(islice(frames, 5))
        number = camera.number
        camera.cut()
        while (found := number_of(next(frames).image)) <= number:
            pass
        assert camera.number - found <= 60  # fresh, not what had been sent before
    assert camera.connections == 4
    camera.stop()
    with pytest.raises(StreamError, match=r"camera: stays away: 3 attempts to reach it brought no frame \(it had "
                                          r"dropped 4 times; \d+ frames were read\)"):
        list(frames)
    waits = [float(record.getMessage().split()[-2]) for record in caplog.records if "again" in record.getMessage()]
    assert waits == [0.05, 0.05, 0.05, 0.05, 0.1, 0.2]
    assert caplog.records[-1].getMessage() == f"{camera.url}: given up"
    assert "dropped 4 times, given up" in source.faults[0]
    source.close()


def has_gstreamer() -> bool:
    command = [PYTHON, "-c", GSTREAMER]
    return Path(PYTHON).exists() and not subprocess.run(command, capture_output=True, check=False).returncode


def rtsp_server(folder: Path, port: int, start: float) -> subprocess.Popen[str]:
    """GStreamer's, with the number of the moment on its frames; to be skipped where it is not installed."""
    (folder / "image").write_bytes(plain_pictures(1, 240, 320)[0].tobytes())
    script = Path(__file__).parents[1] / "rtsp_server.py"
    arguments = [str(port), str(folder / "image"), "320", "240", "20", str(start)]
    process = subprocess.Popen([PYTHON, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def ffmpeg_server(folder: Path, port: int, start: float) -> subprocess.Popen[str]:
    """FFmpeg's over HTTP, for one reader; the numbers start with the connection."""
    command = (f"ffmpeg -loglevel quiet -re -stream_loop -1 -i {folder / 'clip.mp4'} -c:v libx264 -g 20 "
               f"-tune zerolatency -f mpegts -listen 1 http://127.0.0.1:{port}/camera")
    return subprocess.Popen(command.split(), text=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["rtsp", "ffmpeg"])
def test_other_servers_cut_three_times(tmp_path: Path, kind: str) -> None:
    if kind == "rtsp" and not has_gstreamer():
        pytest.skip("needs GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -ugly)")
    if kind == "ffmpeg" and not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg")
    with VideoWriter(tmp_path / "clip.mp4", 20, 160, 120) as writer:
        for number in range(200):
            writer.write(numbered(plain_pictures(1)[0], number))
    port, start, serve = free_port(), time.time(), rtsp_server if kind == "rtsp" else ffmpeg_server
    url = f"{'rtsp' if kind == 'rtsp' else 'http'}://127.0.0.1:{port}/camera"
    server = serve(tmp_path, port, start)
    source, frames = connected(url)
    try:
        for _ in range(3):
            numbers = [number_of(frame.image) for frame in islice(frames, 25)]
            falls = sum(after < before for before, after in pairwise(numbers))
            assert falls <= (kind == "ffmpeg")  # what had come before the cut, then from 0 again
            if kind == "rtsp":
                assert abs(int(20 * (time.time() - start)) - numbers[-1]) <= 30  # 1.5 s, on a busy machine
            server.kill()
            server.wait()
            server = serve(tmp_path, port, start)
        assert len(list(islice(frames, 25))) == 25
    finally:
        server.kill()
        server.wait()
    with pytest.raises(StreamError, match="stays away: 9 attempts to reach it brought no frame"):
        list(frames)
    assert "dropped 4 times, given up" in source.faults[0]


def connected(url: str) -> tuple[Streams, Generator[Frame, None, None]]:
    """A stream whose server is about to start."""
    deadline = time.monotonic() + 20
    while True:
        try:
            source = open_source(url, attempts=9)
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            assert isinstance(source, Streams)
            return source, singles(source)


def test_a_server_that_comes_back(connect: Connect) -> None:
    camera = connect()
    source = open_source(camera.url, attempts=10)
    frames = singles(source)
    list(islice(frames, 3))
    camera.stop()
    time.sleep(0.3)
    again = connect(port=camera.port)
    list(islice(frames, 10))
    made = again.connections  # on a busy machine the first may last too long to be taken
    list(islice(frames, 10))
    assert again.connections == made >= 1
    source.close()


def test_a_server_that_falls_silent_is_dropped(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 500)
    camera = connect()
    source = open_source(camera.url)
    frames = singles(source)
    list(islice(frames, 3))
    camera.silent = True
    while camera.connections == 1:
        time.sleep(0.02)
    camera.silent = False
    number = camera.number
    while number_of(next(frames).image) < number:
        pass
    source.close()
    assert "dropped" in source.faults[0]


@pytest.mark.parametrize(("announced", "live", "fps"), [
    (25.0, True, 25.0), (90000.0, True, 30.0), (0.0, True, 30.0), (float("nan"), False, 30.0), (240.0, False, 240.0),
])
def test_rates_that_cannot_be(announced: float, live: bool, fps: float) -> None:
    class Capture:
        def get(self, _: int) -> float:
            return announced

    assert video.describe_capture(Capture(), plain_pictures(1)[0], live).fps == fps


def test_no_attempt_at_all(connect: Connect) -> None:
    camera = connect()
    source = open_source(camera.url, attempts=0)
    frames = singles(source)
    list(islice(frames, 2))
    camera.cut()
    with pytest.raises(StreamError, match="stays away: 0 attempts"):
        list(frames)
    source.close()


def test_several_streams_share_a_batch_and_outlive_each_other(connect: Connect, tmp_path: Path) -> None:
    slow, quick = connect(fps=10.0), connect(fps=40.0)
    (tmp_path / "cameras.txt").write_text(f"# two cameras\n{slow.url}\n\n{quick.url}\n")
    source = open_source(str(tmp_path / "cameras.txt"), attempts=1)
    batches = source.batches(1)
    time.sleep(0.5)
    names = {frame.name for frame in next(batches)}
    assert names == {"127.0.0.1_camera", "127.0.0.1_camera_2"}
    assert all(len({frame.name for frame in batch}) == len(batch) for batch in islice(batches, 10))
    slow.stop()
    time.sleep(0.5)
    later = list(islice(batches, 10))
    assert {frame.name for batch in later[3:] for frame in batch} == {"127.0.0.1_camera_2"}
    quick.stop()
    with pytest.raises(StreamError):
        list(batches)
    assert len(source.faults) == 2
    source.close()


def test_an_error_of_ours_in_a_reader_ends_the_run(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = connect()
    source = open_source(camera.url)
    frames = singles(source)
    next(frames)

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(streams._Stream, "_offer", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(frames)
    source.close()


def test_closing_ends_what_waits(connect: Connect) -> None:
    camera = connect()
    source = open_source(camera.url)
    frames = singles(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert not source._streams[0].thread.is_alive()


def test_what_cannot_be_reached_at_the_start_is_bad_input(tmp_path: Path, connect: Connect) -> None:
    camera = connect()
    camera.stop()
    with pytest.raises(InputError, match=r"--source '0': no frame comes from this camera; accepted: a camera that"):
        open_source("0")
    secret = camera.url.replace("//", "//user:secret@")
    with pytest.raises(InputError, match="no frame comes from this stream") as caught:
        open_source(secret)
    assert "secret" not in str(caught.value) and "user:***@127.0.0.1" in str(caught.value)


def test_a_first_attempt_that_fails_is_not_the_end(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = connect()
    addresses = ["http://127.0.0.1:9/refused"]
    real = streams.open_capture
    monkeypatch.setattr(streams, "open_capture", lambda address: real(addresses.pop() if addresses else address))
    monkeypatch.setattr("yolov7.data.web.is_image", lambda address: False)
    source = open_source(camera.url)
    assert next(singles(source)).path == camera.url
    source.close()


@pytest.mark.parametrize(("source", "message"), [
    ("ftp://host/clip", "the scheme 'ftp' is not read from a server; accepted: videos and streams by rtsp, rtsps"),
    ("rtsp://host/a.jpg", "an image by rtsp is not read from a server; accepted: .* images by http and https"),
])
def test_addresses_that_are_not_read(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(source)


def test_a_list_is_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "mixed.txt").write_text(f"rtsp://me:pw@host/1\n{tmp_path}\n")
    with pytest.raises(InputError, match=r"lists the stream 'rtsp://me:\*\*\*@host/1' and the file"):
        open_source(str(tmp_path / "mixed.txt"))


@pytest.mark.parametrize(("address", "name"), [
    ("rtsp://admin:se[cr/et#@10.0.0.7:554/live/1", "10.0.0.7_live_1"), ("rtsp://cam/x?token=secret", "cam_x"),
    ("rtsp://cam/user=admin_password=secret_channel=1", "cam_user_admin_password"), ("rtsp://[::1]:554/x", "1_x"),
    ("rtsp://cam/" + "x" * 300, "cam_" + "x" * 96), ("3", "camera3")])
def test_names_of_files_hold_no_secret(address: str, name: str) -> None:
    assert streams._stem(address) == name


def test_what_to_do_with_a_password_that_a_url_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.cv2, "VideoCapture", lambda *_: Dead())
    with pytest.raises(InputError, match=r"'rtsp://admin:\*\*\*@cam/x': no frame comes .* write %2F for /"):
        streams.Streams(["rtsp://admin:se[c/ret@cam/x"], 0)


class Dead:
    """A capture without frames."""

    def read(self) -> tuple[bool, None]:
        return False, None

    def release(self) -> None:
        pass
