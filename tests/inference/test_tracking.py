"""Objects keep their numbers: crossings, occlusion, leaving and coming back, dropped frames, several streams."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from pathlib import Path

import micro_tasks
import numpy as np
import pytest
import torch

import yolov7
from yolov7 import cli
from yolov7.config import InputError
from yolov7.data.video import Frame, VideoInfo, VideoWriter
from yolov7.inference.draw import draw_instances
from yolov7.inference.tracking import NO_TRACK, TRACK, TRACKERS, TrackOptions, TrackOverlay, Tracks
from yolov7.structures import Instances

IMAGE = np.full((240, 320, 3), 128, np.uint8)
NAMES = ("cat", "dog")
FILM = VideoInfo(30.0, 320, 240, 100, False)


def found_at(*places: tuple[float, float] | None, score: float = 0.8, side: float = 40) -> Instances:
    """Objects with their centres there; None is one that is not seen. Labels are 0, 1, 0, 1, ... in their order."""
    seen = [(number, place) for number, place in enumerate(places) if place is not None]
    corners = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for _, (x, y) in seen]
    boxes = torch.tensor(corners).reshape(-1, 4)
    return Instances(boxes, torch.full((len(seen),), score), torch.tensor([n % 2 for n, _ in seen], dtype=torch.int64),
                     NAMES)


def frame_at(index: int, name: str = "film", video: VideoInfo | None = FILM, seconds: float | None = None) -> Frame:
    return Frame(IMAGE, f"{name}.mp4", name, index, video, (index - 1) / 30 if seconds is None else seconds)


def numbers(tracks: Tracks, film: list[list[tuple[float, float] | None]]) -> list[list[int | None]]:
    """Of each frame the number of each object of the film, None where it is not seen or has none."""
    result = []
    for index, places in enumerate(film, 1):
        followed = iter(tracks.update(frame_at(index), found_at(*places)).extra[TRACK].tolist())
        result.append([None if place is None or (track := next(followed)) == NO_TRACK else track for place in places])
    return result


def of_object(result: list[list[int | None]], number: int) -> set[int]:
    return {frame[number] for frame in result if frame[number] is not None}  # type: ignore[misc]


@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_crossing_objects_keep_their_numbers(tracker: str) -> None:
    film: list[list[tuple[float, float] | None]] = [
        [(30 + 8 * n, 60 + 4 * n), (290 - 8 * n, 70 + 4 * n)] for n in range(32)]
    result = numbers(Tracks(TrackOptions(tracker)), film)
    first, second = of_object(result, 0), of_object(result, 1)
    assert len(first) == len(second) == 1 and first != second, (first, second)


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort"])
def test_occluded_objects_come_back(tracker: str) -> None:
    film: list[list[tuple[float, float] | None]] = [
        [None if 12 <= n < 24 else (40 + 4 * n, 100), (60, 200)] for n in range(45)]
    result = numbers(Tracks(TrackOptions(tracker)), film)
    assert len(of_object(result, 0)) == 1 and len(of_object(result, 1)) == 1


def test_who_comes_back_late_is_somebody_else() -> None:
    away = [None] * 50
    film: list[list[tuple[float, float] | None]] = [[(100, 100)]] * 10 + [[gone] for gone in away] + [[(100, 100)]] * 10
    assert len(of_object(numbers(Tracks(TrackOptions(buffer=0.5)), film), 0)) == 2
    assert len(of_object(numbers(Tracks(TrackOptions(buffer=3.0)), film), 0)) == 1


def test_low_scores_continue_tracks_and_begin_none() -> None:
    tracks = Tracks(TrackOptions("bytetrack", confidence=0.5))
    for index in range(1, 6):
        tracks.update(frame_at(index), found_at((100, 100), score=0.9))
    low = tracks.update(frame_at(6), found_at((101, 100), (250, 60), score=0.2))
    assert low.extra[TRACK].tolist() == [tracks.update(frame_at(7), found_at((102, 100))).extra[TRACK].item()]
    assert len(low) == 1  # the other one is no detection, and no track


def test_dropped_frames_are_time_that_passed() -> None:
    """Every tenth frame of a fast object: by the time of the frames it is one, by their number it would be lost."""
    tracks = Tracks(TrackOptions())
    seen = set()
    for index in range(1, 60):
        dropped = 20 < index < 27 or 40 < index < 46
        if not dropped:
            followed = tracks.update(frame_at(index), found_at((20 + 4.5 * index, 100)))
            seen |= set(followed.extra[TRACK].tolist()) - {NO_TRACK}
    assert len(seen) == 1


def test_every_stream_has_its_own_state_and_images_are_one_film() -> None:
    live = VideoInfo(30.0, 320, 240, 0, True)
    tracks = Tracks(TrackOptions())
    for index in range(1, 10):
        for name, y in (("one", 60.0), ("two", 180.0)):
            followed = tracks.update(frame_at(index, name, live, 1e9 + index / 30), found_at((50 + 3.0 * index, y)))
    assert followed.extra[TRACK].tolist() == [0] or followed.extra[TRACK].tolist() == [1]
    assert len(tracks.tails(frame_at(9, "one", live))) == len(tracks.tails(frame_at(9, "two", live))) == 1
    stills = Tracks(TrackOptions())
    told = [stills.update(frame_at(0, f"{n}", None), found_at((50 + 3.0 * n, 60.0))).extra[TRACK].item()
            for n in range(8)]
    assert len(set(told[2:])) == 1 and NO_TRACK not in told[2:]
    for _ in range(3):  # the next video begins anew
        first = Tracks(TrackOptions())
        first.update(frame_at(1, "a"), found_at((50.0, 60.0)))
        assert len(first.update(frame_at(1, "b"), found_at())) == 0


def test_a_clock_that_is_set_back_ends_nothing() -> None:
    live = VideoInfo(30.0, 320, 240, 0, True)
    tracks = Tracks(TrackOptions())
    for seconds in (10.0, 10.03, 10.07, 9.0, 9.03, 10.2, 10.23, 10.27):
        followed = tracks.update(frame_at(1, "s", live, seconds), found_at((100.0, 100.0)))
    assert len(followed) == 1


def test_numbers_and_tails_are_drawn() -> None:
    tracks = Tracks(TrackOptions())
    for index in range(1, 20):
        frame = frame_at(index)
        followed = tracks.update(frame, found_at((40 + 9.0 * index, 120.0), (100.0, 60.0)))
    overlay = TrackOverlay(draw_instances, tracks.tails(frame))
    drawn = overlay(IMAGE, followed, NAMES, True)
    assert (drawn[118:123, 60:180] != 128).any()  # the tail
    assert (drawn != TrackOverlay(draw_instances, {})(IMAGE, followed, NAMES, True)).any()
    assert np.array_equal(pickle.loads(pickle.dumps(overlay))(IMAGE, followed, NAMES, True), drawn)
    fresh = Tracks(TrackOptions()).update(frame_at(1), found_at((50.0, 50.0)))
    TrackOverlay(draw_instances, {})(IMAGE, fresh, NAMES, True)  # without a number, too


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real video, and weights that find something in each of its frames."""
    folder = tmp_path_factory.mktemp("film")
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (16, 24, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    with VideoWriter(folder / "film.mp4", 10.0, 160, 120) as writer:
        for n in range(6):
            writer.write(np.ascontiguousarray(noise[20 : 140, 2 * n : 160 + 2 * n]))
    return folder / "film.mp4", micro_tasks.write_weights(folder / "w.pt", "SegmentHead", bias=2)


def test_every_output_has_the_numbers(film: tuple[Path, Path], tmp_path: Path) -> None:
    video, weights = film
    words = ["detect", "--weights", str(weights), "--source", str(video), "--device", "cpu", "--track", "--save-json",
             "--save-csv", "--save-txt", "--save-conf", "--save-coco", "--save-mot", "--conf-thres", "0.02",
             "--max-det", "20", "--project", str(tmp_path)]
    assert cli.main(words) == 0
    frames = json.loads((tmp_path / "exp" / "detections.json").read_text())
    told = [(record["frame"], one["track"]) for record in frames for one in record["detections"]]
    numbered = [(frame, track) for frame, track in told if track >= 0]
    assert len(numbered) > 10 and len({track for _, track in numbered}) < len(numbered)
    with open(tmp_path / "exp" / "detections.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["frame"]), int(row["track"])) for row in rows] == told
    coco = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert [row["track_id"] for row in coco] == [track for _, track in told]
    mot = [line.split(",") for line in (tmp_path / "exp" / "mot" / "film.txt").read_text().splitlines()]
    assert [(int(line[0]), int(line[1])) for line in mot] == numbered and all(len(line) == 10 for line in mot)
    labels = (tmp_path / "exp" / "labels" / "film_6.txt").read_text().splitlines()
    assert sorted(int(line.split()[-1]) for line in labels) == sorted(track for frame, track in told if frame == 6)
    assert (tmp_path / "exp" / "film.mp4").stat().st_size


def test_from_python(film: tuple[Path, Path]) -> None:
    video, weights = film
    model = yolov7.load(weights, device="cpu")
    results = list(model.track(video, conf=0.02, max_det=20, tracker="ocsort"))
    assert len(results) == 6 and results[-1].extra[TRACK].dtype == torch.int64
    followed = results[-1].to_supervision()
    assert followed.tracker_id.tolist() == results[-1].extra[TRACK].tolist()
    assert results[-1].plot().shape == results[-1].image.shape
    assert pickle.loads(pickle.dumps(results[-1])).extra[TRACK].tolist() == results[-1].extra[TRACK].tolist()
    for arguments, words in (({"tracker": "deep"}, "tracker"), ({"source": 1.5}, "source"), ({"buffer": -1}, "buffer"),
                             ({"cnf": 0.3}, "unknown argument 'cnf'")):
        with pytest.raises(InputError, match=words):
            model.track(**{"source": video, **arguments})


def test_bad_flags(film: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                   monkeypatch: pytest.MonkeyPatch) -> None:
    video, weights = film
    words = ["detect", "--weights", str(weights), "--source", str(video), "--device", "cpu", "--project", str(tmp_path)]
    assert cli.main([*words, "--save-mot"]) == 2
    assert "accepted with --track" in capsys.readouterr().err
    assert cli.main([*words, "--track", "deepsort"]) == 2
    assert "bytetrack" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert cli.main([*words, "--track"]) == 2
    assert "pip install 'yolov7-framework[track]'" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()
