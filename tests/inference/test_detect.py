"""The detection command from end to end: real files, real videos, a real server."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import Camera, number_of, numbered, plain_pictures, real_pictures

from yolov7 import cli
from yolov7.config import InputError
from yolov7.data import streams
from yolov7.data.images import cv2
from yolov7.data.sources import Files, open_source
from yolov7.data.video import VideoWriter
from yolov7.inference import detect as detection
from yolov7.inference import detect as display
from yolov7.inference.predictor import Predictor
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.structures import Instances

ROOT = Path(__file__).parents[2]
NAMES = ("cat", "dog", "person")


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of random weights that finds a lot."""
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    torch.manual_seed(5)
    model = Detector(read_spec(str(Path(__file__).parents[1] / "micro.yaml")), len(NAMES))
    weights.save(weights.describe(model, NAMES, 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return str(path)


def detect(best: str, source: object, project: Path, *flags: str) -> int:
    return cli.main(["detect", "--weights", best, "--source", str(source), "--project", str(project), "--device", "cpu",
                     "--precision", "fp32", "--conf-thres", "0.003", *flags])


def records(project: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((project / "exp" / "detections.json").read_text())
    return content


def write_video(path: Path, frames: int, fps: float, pictures: list[np.ndarray]) -> Path:
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, fps, width, height) as writer:
        for number in range(frames):
            writer.write(numbered(pictures[number * len(pictures) // frames], number))
    return path


def numbers_of(path: Path) -> list[int]:
    return [number_of(frame.image) for frame in open_source(str(path))]


# --- images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Images of five shapes, shuffled."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(60, 80), (80, 60), (64, 64), (200, 90), (31, 400)] * 4):
        image = rng.integers(0, 255, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{(index * 7) % 20:02}.png"), cv2.resize(image[::8, ::8], (width, height)))
    return folder


def test_a_folder_of_mixed_shapes_runs_each_image_once(
    best: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    whole = Predictor._detect

    def counted(self: Predictor, images: torch.Tensor, *others: Any) -> list[tuple[Instances, dict[str, torch.Tensor]]]:
        batches.append(len(images))
        return whole(self, images, *others)

    monkeypatch.setattr(Predictor, "_detect", counted)
    found = {}
    for size in (1, 8):
        assert detect(best, mixed, tmp_path / str(size), "--batch-size", str(size), "--save-json") == 0
        found[size] = records(tmp_path / str(size))
        assert sum(batches) == 20
        assert size == 1 or len(batches) < 20
        batches.clear()
    assert [Path(r["path"]).name for r in found[1]] == [f"{i:02}.png" for i in range(20)]
    assert sum(len(r["detections"]) for r in found[1]) > 100
    for one, many in zip(found[1], found[8], strict=True):
        assert one["path"] == many["path"]
        assert [d["label"] for d in one["detections"]] == [d["label"] for d in many["detections"]]
        for a, b in zip(one["detections"], many["detections"], strict=True):
            np.testing.assert_allclose(a["box"], b["box"], atol=0.011)  # rounded to 0.01
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_real_images_of_mixed_shapes(best: str, coco_mini: Path, tmp_path: Path) -> None:
    folder = coco_mini / "images" / "val2017"
    assert detect(best, folder, tmp_path, "--batch-size", "16", "--save-json", "--save-coco", "--nosave") == 0
    assert [Path(r["path"]) for r in records(tmp_path)] == sorted(folder.iterdir())
    ids = {entry["image_id"] for entry in json.loads((tmp_path / "exp" / "predictions.json").read_text())}
    assert ids <= {int(path.stem) for path in folder.iterdir()}


def test_every_output_of_a_folder_with_equal_names(best: str, mixed: Path, tmp_path: Path) -> None:
    (mixed / "00.bmp").write_bytes(cv2.imencode(".bmp", np.zeros((50, 50, 3), np.uint8))[1].tobytes())
    (mixed / "clip_2.png").write_bytes((mixed / "03.png").read_bytes())
    write_video(mixed / "clip.mp4", 5, 10, plain_pictures(2))
    flags = ["--save-txt", "--save-conf", "--save-jsonl", "--save-csv", "--save-crop"]
    assert detect(best, mixed, tmp_path, *flags) == 0
    folder = tmp_path / "exp"
    labels = {path.stem for path in (folder / "labels").iterdir()}
    expected = {*(f"{i:02}" for i in range(20)), "00_2", "clip_2", *(f"clip_3_{i}" for i in range(1, 6))}
    assert labels == expected or labels == {name.replace("clip_3", "clip_4") for name in expected}
    lines = [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]
    count = sum(len(line["detections"]) for line in lines)
    assert len(lines) == len(labels) == 27
    assert count == sum(len(path.read_text().splitlines()) for path in (folder / "labels").iterdir())
    with open(folder / "detections.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == count
    crops = list((folder / "crops").rglob("*.jpg"))
    assert {path.parent.name for path in crops} <= set(NAMES) and 0.9 * count < len(crops) <= count


def test_classes_and_whole_pixels(best: str, mixed: Path, tmp_path: Path) -> None:
    assert detect(best, mixed, tmp_path, "--classes", "dog", "2", "--round-boxes", "--save-json", "--nosave") == 0
    found = [d for record in records(tmp_path) for d in record["detections"]]
    assert {d["name"] for d in found} <= {"dog", "person"} and found
    assert all(x == round(x) for d in found for x in d["box"])


def test_faults_are_counted_and_written_down(
    best: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(13):
        (mixed / f"broken{index:02}.jpg").write_bytes(b"no picture")
    assert detect(best, mixed, tmp_path, "--nosave") == 0
    out = capsys.readouterr().out
    assert "broken09.jpg: not an image" in out and "broken10.jpg" not in out and "and 3 more" in out
    assert len((tmp_path / "exp" / "faults.txt").read_text().splitlines()) == 13


def test_a_list_of_sources(best: str, mixed: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", 3, 10, plain_pictures(2))
    (tmp_path / "list.txt").write_text(f"{video}\n{mixed}/1*.png\n# {mixed}/00.png\n{mixed / '05.png'}\n{video}\n")
    assert detect(best, tmp_path / "list.txt", tmp_path, "--save-json", "--nosave") == 0
    assert [Path(r["path"]).name for r in records(tmp_path)] == [*(f"{i}.png" for i in range(10, 20)), "05.png",
                                                                *["clip.mp4"] * 3]


# --- video -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 8])
def test_three_hundred_frames_in_and_out(best: str, coco_mini: Path, tmp_path: Path, batch_size: int) -> None:
    pictures = real_pictures(coco_mini / "images" / "val2017", 10)
    video = write_video(tmp_path / "in.mp4", 300, 29.97, pictures)
    assert numbers_of(video) == list(range(300))
    assert detect(best, video, tmp_path, "--batch-size", str(batch_size), "--save-json", "--conf-thres", "0.02") == 0
    found = records(tmp_path)
    assert [record["frame"] for record in found] == list(range(1, 301))
    assert found[30]["seconds"] == pytest.approx(30 / 29.97, abs=1e-3)
    assert numbers_of(tmp_path / "exp" / "in.mp4") == list(range(300))
    source = open_source(str(tmp_path / "exp" / "in.mp4"))
    assert isinstance(source, Files)
    (info,) = source.videos.values()
    assert (info.fps, info.width, info.height, info.frames) == (pytest.approx(29.97, abs=1e-3), 160, 120, 300)


def test_broken_frames_are_counted(best: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for number in range(40):
        writer.write(numbered(plain_pictures(1)[0], number))
    writer.release()
    data = bytearray((tmp_path / "whole.avi").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    (tmp_path / "broken.avi").write_bytes(data)
    left = numbers_of(tmp_path / "broken.avi")
    assert 30 < len(left) < 40
    assert detect(best, tmp_path / "broken.avi", tmp_path, "--conf-thres", "0.5") == 0
    assert f"{40 - len(left)} of its 40 frames are damaged or missing" in capsys.readouterr().out
    assert numbers_of(tmp_path / "exp" / "broken.mp4") == left


def test_reading_network_and_writing_overlap(
    best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"read": set(), "network": set(), "write": set()}

    def slow(owner: Any, name: str, stage: str) -> None:
        whole = getattr(owner, name)

        def slowed(*arguments: Any) -> Any:
            time.sleep(0.01)
            threads[stage].add(threading.current_thread().name)
            return whole(*arguments)

        monkeypatch.setattr(owner, name, slowed)

    video = write_video(tmp_path / "in.mp4", 60, 10, plain_pictures(2, 30, 40))
    slow(cv2, "cvtColor", "read")
    slow(Predictor, "_detect", "network")
    slow(detection._Output, "write", "write")
    assert detect(best, video, tmp_path, "--nosave") == 0
    assert threads["write"] == {"MainThread"}
    assert len(threads["read"] | threads["network"] | threads["write"]) == 3


def test_memory_is_flat(best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    video = write_video(tmp_path / "in.mp4", 400, 25, plain_pictures(4, 240, 320))
    levels = []
    whole = detection._Output.write

    def watched(self: Any, result: Any) -> None:
        whole(self, result)
        levels.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)

    monkeypatch.setattr(detection._Output, "write", watched)
    assert detect(best, video, tmp_path, "--img-size", "64", "--save-json", "--save-txt", "--save-csv",
                  "--conf-thres", "0.02") == 0
    assert max(levels[200:]) - max(levels[100:200]) < 8  # 200 images alone would be 44 MiB


# --- streams ---------------------------------------------------------------------------------------------------


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.05)
    monkeypatch.setenv("no_proxy", "*")
    camera = Camera(plain_pictures(8), fps=30.0)
    yield camera
    camera.stop()


def test_a_stream_that_is_cut_three_times_and_then_stays_away(
    best: str, camera: Camera, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts: list[int] = []

    def disturb() -> None:
        for _ in range(3):
            while camera.connections == len(cuts):
                time.sleep(0.01)
            time.sleep(0.7)
            cuts.append(camera.number)
            camera.cut()
        time.sleep(1.0)
        camera.stop()

    thread = threading.Thread(target=disturb)
    thread.start()
    assert detect(best, camera.url, tmp_path, "--reconnects", "2", "--save-json", "--save-jsonl",
                  "--conf-thres", "0.02") == 1  # no boxes on the numbers
    thread.join()
    out, error = capsys.readouterr()
    assert error.startswith(f"error: {camera.url}: stays away: 2 attempts to reach it brought no frame")
    assert error.count("\n") == 1
    assert "dropped 4 times, given up" in out and out.count("trying again in") == 5
    numbers = numbers_of(tmp_path / "exp" / "127.0.0.1_camera.mp4")
    assert numbers == sorted(numbers)
    for cut in cuts:
        assert any(cut < number <= cut + 45 for number in numbers)  # goes on, and with fresh frames
    found = records(tmp_path)
    assert len(found) == len((tmp_path / "exp" / "detections.jsonl").read_text().splitlines())
    assert len(set(numbers)) == len(found)


@pytest.mark.untraced
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_stream_keeps_what_was_found(best: str, camera: Camera, tmp_path: Path, number: int) -> None:
    program = subprocess.Popen(
        [sys.executable, str(ROOT / "detect.py"), "--weights", best, "--source", camera.url, "--project", str(tmp_path),
         "--save-json", "--save-jsonl", "--view-img", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # jobs of a shell may ignore it
        env={key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")})
    lines = tmp_path / "exp" / "detections.jsonl"
    deadline = time.monotonic() + 60
    while not (lines.exists() and len(lines.read_text().splitlines()) > 10):
        assert program.poll() is None and time.monotonic() < deadline, program.communicate()
        time.sleep(0.05)
    program.send_signal(number)
    out, error = program.communicate(timeout=30)
    assert program.returncode == 130
    assert "--view-img: no window can be opened" in out and "Traceback" not in error
    assert error.startswith("error: interrupted after ") and error.count("\n") == 1
    count = len(records(tmp_path))
    assert count == len(lines.read_text().splitlines()) > 10
    assert len(numbers_of(tmp_path / "exp" / "127.0.0.1_camera.mp4")) >= count


def test_files_on_a_server_are_read_whole(best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    monkeypatch.setenv("no_proxy", "*")
    write_video(tmp_path / "clip.mp4", 20, 10, plain_pictures(2))
    cv2.imwrite(str(tmp_path / "bus.jpg"), plain_pictures(1)[0])
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/clip.mp4?token=1"
        assert detect(best, url, tmp_path, "--conf-thres", "0.5") == 0
        url = url.replace("clip.mp4", "bus.jpg")
        assert detect(best, url, tmp_path / "image", "--save-json", "--save-txt") == 0
        server.shutdown()
    assert numbers_of(tmp_path / "exp" / "clip.mp4") == list(range(20))
    folder = tmp_path / "image" / "exp"
    assert {path.name for path in folder.iterdir()} == {"bus.jpg", "labels", "detections.json"}
    assert records(tmp_path / "image")[0]["path"] == url.replace("token=1", "token=***")


# --- the window and the end ------------------------------------------------------------------------------------


def test_a_window_ends_the_run(best: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(detection, "has_display", lambda: True)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(title), raising=False)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 7 else 255, raising=False)
    assert detect(best, mixed, tmp_path, "--view-img", "--save-json") == 0
    assert shown == ["images"] * 7
    assert len(records(tmp_path)) == 7


def test_no_display_is_found_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    assert not display.has_display()
    monkeypatch.setenv("DISPLAY", ":77")  # nobody is there
    assert not display.has_display()


def test_an_error_in_any_thread_ends_the_run(
    best: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    for index, (owner, name) in enumerate([(Files, "_image"), (Predictor, "_detect"), (detection._Output, "write")]):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            assert detect(best, mixed, tmp_path / str(index)) == 1
        assert "OSError: no space left" in capsys.readouterr().err
        assert threading.active_count() == before


def test_bad_images_alone_leave_no_folder(best: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(b"")
    with pytest.raises(InputError, match="none of 2 files"):
        list(open_source(str(tmp_path / "in")).batches(1))
    assert detect(best, tmp_path / "in", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()
