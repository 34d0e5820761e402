"""What is written of a result: images, videos, crops, labels, JSON, CSV, COCO's results."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov7.config import RunError, shipped_files
from yolov7.config.options import DetectOptions
from yolov7.data.catalog import read_data_config
from yolov7.data.image_set import category_ids
from yolov7.data.images import cv2, load_image
from yolov7.data.sources import open_source
from yolov7.data.video import Frame, VideoInfo, VideoWriter
from yolov7.inference import writers as writers_module
from yolov7.inference.writers import COLUMNS, MAX_COPIES, MAX_GAP, Result, label_text, open_lines, open_writers
from yolov7.structures import Instances

NAMES = ("person", "fire hydrant", 'a/"b", c')
ALL = DetectOptions(save_txt=True, save_conf=True, save_json=True, save_jsonl=True, save_coco=True, save_csv=True,
                    save_crop=True)


def result(name: str = "a", index: int = 0, video: VideoInfo | None = None, seconds: float = 0.0,
           rows: tuple[tuple[float, ...], ...] = ((10, 20, 40.25, 50, 0.875, 1), (-3, 5, 8.5, 9, 0.5, 2)),
           suffix: str = ".png", size: tuple[int, int] = (60, 80)) -> Result:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    image = np.full((*size, 3), 90, np.uint8)
    frame = Frame(image, f"/in/{name}{suffix}", name, index, video, seconds)
    return Result(frame, Instances(table[:, :4], table[:, 4], table[:, 5].long(), NAMES), {"network": 1.0})


def write(folder: Path, options: DetectOptions, *results: Result, names: tuple[str, ...] = NAMES) -> None:
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        writers = open_writers(options, folder, names, stack)
        for each in results:
            for writer in writers:
                writer(each)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_of_two_images(tmp_path: Path) -> None:
    write(tmp_path, ALL, result("a"), result("b", rows=(), suffix=".JPG"))
    assert files(tmp_path) == {
        "a.png", "b.JPG", "labels/a.txt", "labels/b.txt", "crops/fire hydrant/a_1.jpg", "crops/a__b__ c/a_2.jpg",
        "detections.json", "detections.jsonl", "detections.csv", "predictions.json"}
    assert load_image(tmp_path / "crops/fire hydrant/a_1.jpg").shape == (30, 31, 3)
    assert load_image(tmp_path / "crops/a__b__ c/a_2.jpg").shape == (4, 9, 3)
    assert (tmp_path / "labels" / "b.txt").read_text() == ""
    found = [{"label": 1, "name": "fire hydrant", "score": 0.875, "box": [10, 20, 40.25, 50]},
             {"label": 2, "name": NAMES[2], "score": 0.5, "box": [-3, 5, 8.5, 9]}]
    records = [{"path": "/in/a.png", "frame": 0, "width": 80, "height": 60, "detections": found},
               {"path": "/in/b.JPG", "frame": 0, "width": 80, "height": 60, "detections": []}]
    assert json.loads((tmp_path / "detections.json").read_text()) == records
    assert [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()] == records
    with open(tmp_path / "detections.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["name"] for row in rows] == ["fire hydrant", NAMES[2]]
    assert rows[0] == {"path": "/in/a.png", "frame": "0", "label": "1", "name": "fire hydrant", "score": "0.875",
                       "x1": "10.0", "y1": "20.0", "x2": "40.25", "y2": "50.0"}
    assert json.loads((tmp_path / "predictions.json").read_text())[0] == {
        "image_id": "a", "category_id": 2, "bbox": [10, 20, 30.25, 30], "score": 0.875}


def test_nothing_was_found_at_all(tmp_path: Path) -> None:
    write(tmp_path, ALL, result(rows=()))
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert (tmp_path / "detections.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_nothing_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, DetectOptions(nosave=True), result())
    assert files(tmp_path) == set()


def test_columns_of_a_task(tmp_path: Path) -> None:
    """In JSON and CSV; text files and COCO's results stay those of boxes."""
    def drawn(image: np.ndarray, found: Instances, names: Sequence[str], with_scores: bool) -> np.ndarray:
        assert with_scores and names == NAMES and list(found.extra) == ["angle", "points"]
        return np.zeros_like(image)

    extra = {"angle": torch.tensor([0.1234567, 2.0]), "points": torch.arange(8).view(2, 2, 2)}
    first, second = result("a"), result("b", rows=())
    first = replace(first, overlay=drawn, detections=replace(first.detections, extra=extra))
    second = replace(second, overlay=drawn, detections=replace(second.detections, extra={
        "angle": torch.zeros(0), "points": torch.zeros(0, 2, 2)}))
    write(tmp_path / "one", ALL, first, second)
    write(tmp_path / "two", ALL, second, first)
    (record, nothing) = json.loads((tmp_path / "one" / "detections.json").read_text())
    assert [{key: found[key] for key in extra} for found in record["detections"]] == [
        {"angle": 0.12346, "points": [[0, 1], [2, 3]]}, {"angle": 2.0, "points": [[4, 5], [6, 7]]}]
    assert nothing["detections"] == []
    lines = (tmp_path / "one" / "detections.csv").read_text()
    assert lines == (tmp_path / "two" / "detections.csv").read_text()
    table = list(csv.reader(lines.splitlines()))
    assert table[0] == [*COLUMNS, "angle_0", "points_0", "points_1", "points_2", "points_3"]
    assert table[1][-5:] == ["0.12346", "0", "1", "2", "3"] and table[2][-5:] == ["2.0", "4", "5", "6", "7"]
    assert (load_image(tmp_path / "one" / "a.png") == 0).all()
    plain = result("a")
    write(tmp_path / "plain", ALL, plain, result("b", rows=()))
    for name in ("predictions.json", "labels/a.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_label_text() -> None:
    text = label_text(result().detections, (60, 80), with_score=True)
    assert text == "2 0.034375 0.116667 0.14375 0.0666667 0.5\n1 0.314063 0.583333 0.378125 0.5 0.875\n"
    assert label_text(result().detections, (60, 80), with_score=False).endswith("\n1 0.314063 0.583333 0.378125 0.5\n")


def test_lines_can_be_read_while_they_grow_and_arrays_when_they_are_whole(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for index, writer in enumerate([*open_writers(ALL, tmp_path, NAMES, stack)] * 2):
            writer(result(f"p{index}"))
        assert len((tmp_path / "detections.jsonl").read_text().splitlines()) == 2
        assert len((tmp_path / "detections.csv").read_text().splitlines()) == 5
        assert not (tmp_path / "detections.json").exists()
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 2


def test_an_error_leaves_no_half_file(tmp_path: Path) -> None:
    video = VideoInfo(10, 80, 60, 5)
    with pytest.raises(RuntimeError), ExitStack() as stack:
        for writer in open_writers(ALL, tmp_path, NAMES, stack):
            writer(result(index=1, video=video))
        raise RuntimeError
    assert files(tmp_path) == {"labels/a_1.txt", "detections.jsonl", "detections.csv", "crops/fire hydrant/a_1_1.jpg",
                               "crops/a__b__ c/a_1_2.jpg"}


def test_numbers_are_coco_ids_of_images(tmp_path: Path) -> None:
    names = ("000000000139", "139", "7", "x")
    write(tmp_path, DetectOptions(nosave=True, save_coco=True), *(result(name) for name in names),
          result("7", index=3, video=VideoInfo(10, 80, 60, 5)))
    ids = [entry["image_id"] for entry in json.loads((tmp_path / "predictions.json").read_text())]
    assert ids[::2] == [139, "139", 7, "x", "7_3"]


def test_categories_of_coco_have_gaps() -> None:
    names = read_data_config(shipped_files("data")["coco"]).names
    ids = dict(zip(names, category_ids(tuple(names)), strict=True))
    assert {name: ids[name] for name in ("person", "stop sign", "couch", "dining table", "toilet", "toothbrush")} == {
        "person": 1, "stop sign": 13, "couch": 63, "dining table": 67, "toilet": 70, "toothbrush": 90}
    assert category_ids(("a", "b")) == (1, 2)


def test_categories_are_those_of_the_published_annotations(coco_mini: Path) -> None:
    content = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    names = tuple(category["name"] for category in content["categories"])
    assert category_ids(names) == tuple(category["id"] for category in content["categories"])


# --- videos ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mp4v(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where PyAV is not installed."""
    monkeypatch.setattr(writers_module, "browser_codec", str)


def video_of(path: Path) -> tuple[float, int]:
    """Frame rate and number of frames."""
    frames = list(open_source(str(path)))
    assert frames[0].video is not None
    return frames[0].video.fps, len(frames)


def test_two_videos(tmp_path: Path) -> None:
    results = [result(name, index, VideoInfo(fps, 80, 60, 0), (index - 1) / fps, rows=())
               for name, fps in (("a", 12.0), ("b", 29.97)) for index in range(1, 8)]
    write(tmp_path, DetectOptions(), *results)
    assert video_of(tmp_path / "a.mp4") == (12.0, 7)
    assert video_of(tmp_path / "b.mp4") == (pytest.approx(29.97, abs=1e-3), 7)


@pytest.mark.usefixtures("mp4v")
@pytest.mark.parametrize(("times", "frames"), [
    ((0.0, 0.1, 0.2, 0.3), 4),  # as announced
    ((0.0, 0.35, 0.5, 1.0), 11),  # fewer came: each stands until the next
    ((0.0, 0.01, 0.02, 0.03), 4),  # more came: none is left out
    ((5.0, 100.0, 100.1), 12),  # a break of a second at most
    ((5.0, 1.0, 1.1), 3),  # the clock was set back
])
def test_the_video_of_a_stream_runs_as_time_does(tmp_path: Path, times: tuple[float, ...], frames: int) -> None:
    video = VideoInfo(10, 80, 60, 0, live=True)
    write(tmp_path, DetectOptions(), *(result("s", i, video, seconds, ()) for i, seconds in enumerate(times, start=1)))
    assert video_of(tmp_path / "s.mp4") == (10.0, frames)


@pytest.mark.usefixtures("mp4v")
def test_streams_take_turns_and_may_change_their_size(tmp_path: Path) -> None:
    video = VideoInfo(10, 80, 60, 0, live=True)
    results = [result(name, index, video, index / 10, (), size=(60, 80) if index < 3 else (30, 44))
               for index in range(1, 6) for name in ("a", "b")]
    write(tmp_path, DetectOptions(), *results)
    assert video_of(tmp_path / "a.mp4") == video_of(tmp_path / "b.mp4") == (10.0, 5)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_WIDTH) == 80


@pytest.mark.usefixtures("mp4v")
def test_a_variable_frame_rate_keeps_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    info, times = VideoInfo(10.0, 80, 60, 0), [0, 0.1, 0.2, 0.8, 0.82, 0.84, 0.9]
    with caplog.at_level("INFO", "yolov7"):
        write(tmp_path, DetectOptions(), *(result("a", index, info, seconds, rows=())
                                           for index, seconds in enumerate(times, start=1)))
    assert video_of(tmp_path / "a.mp4") == (10.0, 10)  # up to the frame at 0.9 s
    assert caplog.messages == [
        f"{tmp_path / 'a.mp4'}: the frame rate varies; written at 10 a second, with 5 frames repeated and 2 left out",
        "videos are written as mp4v, which browsers do not play; H.264, which they do: pip install "
        "'yolov7-framework[video]'"]


@pytest.mark.usefixtures("mp4v")
def test_no_time_that_a_video_states_makes_one_without_end(tmp_path: Path) -> None:
    write(tmp_path, DetectOptions(), *(result("a", index, VideoInfo(30.0, 80, 60, 0), seconds, rows=())
                                       for index, seconds in ((1, 0.0), (2, 1e9))))
    assert video_of(tmp_path / "a.mp4") == (30.0, 1 + MAX_COPIES)


def times_of(path: Path) -> list[float]:
    """The seconds of a video's frames, as PyAV reads them."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return [float(frame.pts * container.streams.video[0].time_base) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("times", "live", "expected"), [
    ((0, 0.1, 0.2, 0.8, 0.82, 0.84, 0.9), False, [0, 0.1, 0.2, 0.8, 0.82, 0.84, 0.9]),
    ((0.5, 0.6, 0.9), False, [0, 0.1, 0.4]),  # from the first frame on
    ((0.0, 1e9, 1e9 + 1), False, [0, MAX_GAP, MAX_GAP + 1]),
    ((1.7e9, 1.7e9 + 0.35, 1.7e9 + 0.5), True, [0, 0.35, 0.5]),
    ((5.0, 100.0, 100.1), True, [0, 1, 1.1]),  # a break of a second at most
    ((5.0, 1.0, 1.1), True, [0, 0.1, 0.2]),  # the clock was set back
])
def test_with_pyav_each_frame_has_its_time(times: tuple[float, ...], live: bool, expected: list[float], tmp_path: Path,
                                           caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av")
    info, sizes = VideoInfo(10.0, 80, 60, 0, live), [(60, 80), (60, 80), *[(30, 44)] * 5]
    results = [result("a", index, info, seconds, (), size=size)
               for index, (seconds, size) in enumerate(zip(times, sizes, strict=False), start=1)]
    with caplog.at_level("INFO", "yolov7"):
        write(tmp_path, DetectOptions(), *results)
    assert times_of(tmp_path / "a.mp4") == pytest.approx(expected, abs=1e-4)
    assert caplog.messages == []


def test_several_videos_with_pyav(tmp_path: Path) -> None:
    pytest.importorskip("av")
    video = VideoInfo(10, 81, 61, 0, live=True)
    results = [result(name, index, video, index / 10, (), size=(61, 81)) for index in range(1, 6) for name in "ab"]
    write(tmp_path, DetectOptions(), *results)
    for name in "ab":
        assert times_of(tmp_path / f"{name}.mp4") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-4)
        assert load_first(tmp_path / f"{name}.mp4").shape == (62, 82, 3)


def load_first(path: Path) -> np.ndarray:
    return next(iter(open_source(str(path)))).image


def test_paths_that_are_no_text_are_written(tmp_path: Path) -> None:
    write(tmp_path, ALL, result("caf\udce9"))
    path = "/in/caf\\udce9.png"
    with open(tmp_path / "detections.csv", newline="", encoding="utf-8") as stream:
        assert {row["path"] for row in csv.DictReader(stream)} == {path}
    assert path in (tmp_path / "detections.json").read_text(encoding="utf-8")
    assert (tmp_path / "caf\udce9.png").is_file() and (tmp_path / "labels" / "caf\udce9.txt").is_file()


@pytest.mark.parametrize("option", ["save_csv", "save_json", "save_jsonl", "save_txt", "save_crop", "nosave"])
def test_a_full_disk_names_the_file_and_leaves_no_half_of_it(option: str, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    options = DetectOptions(nosave=option != "nosave", **({} if option == "nosave" else {option: True}))
    tmp_path.joinpath("out").mkdir()
    with pytest.raises(RunError, match=r"/out/.*: cannot be written: No space left on device"), ExitStack() as stack:
        writers = open_writers(options, tmp_path / "out", NAMES, stack)
        monkeypatch.setattr(Path, "write_bytes", refuse)
        monkeypatch.setattr(writers_module.json, "dumps", refuse)
        monkeypatch.setattr(writers_module.csv, "writer", refuse)
        writers[0](result())
    assert not [path for path in files(tmp_path) if path.endswith(".tmp")]


@pytest.mark.usefixtures("mp4v")
def test_a_video_that_the_disk_cut_off_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = VideoInfo(10.0, 80, 60, 0)
    monkeypatch.setattr(VideoWriter, "_is_whole", lambda _: False)
    with pytest.raises(RunError, match="a.mp4: cannot be written as a whole; is the disk full"):
        write(tmp_path, DetectOptions(), result("a", 1, info, 0.0, rows=()))
    assert files(tmp_path) == set()


def test_lines_do_not_go_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "precious")
    with open_lines(tmp_path / "x.jsonl", lambda _: ["row"]):
        pass
    assert (tmp_path / "precious").read_text() == "content"
