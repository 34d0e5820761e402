"""The record of a run: columns, event files, resume, failing sinks, and the plot of the curves."""

import io
import logging
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolov7.engine import log
from yolov7.engine.log import TERMS, EpochRecord, RunLog, plot_results, read_results
from yolov7.engine.observers import Observers, RunFacts, base
from yolov7.engine.observers.tensorboard import TensorBoard

NOT_FINITE = {"box": float("nan"), "objectness": float("inf"), "classification": 0.01}


def record(epoch: int, shift: float = 0.0) -> EpochRecord:
    losses = {"box": 0.05 + shift, "objectness": 0.02, "classification": 0.01}
    metrics = {"AP": 0.1 * epoch, "AP50": 0.2 * epoch, "AP75": 0.05 * epoch}
    return EpochRecord(epoch, losses, metrics, 0.01 - 0.001 * epoch, 7.5)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def scalars(folder: Path, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events(folder).Scalars(tag)}


def make_older(folder: Path) -> None:
    """TensorBoard reads event files in the order of the second in their names."""
    for path in folder.glob("events.out.tfevents.*"):
        path.rename(path.with_name(re.sub(r"tfevents\.\d+", "tfevents.1000000000", path.name)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records
            if r.levelno == logging.WARNING and r.name in (log.__name__, base.__name__)]


def open_log(folder: Path, resume_epoch: int | None = None, **options: Any) -> RunLog:
    """The record of a run of which TensorBoard is told."""
    observers = Observers({"tensorboard": TensorBoard()})
    observers.begin(RunFacts(folder, {}, TERMS, 10, resume_epoch or 0, 10 * (resume_epoch or 0)))
    return RunLog(folder, resume_epoch, observers=observers, **options)


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn at the end, which takes longer than all else."""
    monkeypatch.setattr(log, "plot_results", lambda *_: None)


@pytest.mark.usefixtures("without_curves")
def test_results_csv_grows_epoch_by_epoch(tmp_path: Path) -> None:
    with open_log(tmp_path) as run:
        assert run.csv_path.read_text() == (
            "epoch,box,objectness,classification,val_box,val_objectness,val_classification,AP,AP50,AP75,precision,"
            "recall,F1,confidence,lr,seconds,skipped\n")
        run.add_epoch(record(0))
        run.add_epoch(EpochRecord(1, {"box": 0.04, "objectness": 0.015, "classification": 1 / 3}, {}, 1e-5, 6.25, 2))
        lines = run.csv_path.read_text().splitlines()
    assert lines[1:] == ["0,0.05,0.02,0.01,,,,0,0,0,0.01,7.5,0", "1,0.04,0.015,0.333333,,,,,,,1e-05,6.25,2"]
    assert read_results(tmp_path / "results.csv")[0] == record(0)
    assert read_results(tmp_path / "results.csv")[1].metrics.get("AP50") is None


@pytest.mark.usefixtures("without_curves")
def test_a_record_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,box,objectness,classification,AP,AP50,AP75,lr,seconds,skipped\n"
                                          "1,0.05,0.02,0.01,0.1,0.2,0.05,0.009,7.5,0\n")
    later = replace(record(2), val_losses={"box": 0.06, "objectness": 0.03, "classification": 0.02},
                    metrics={**record(2).metrics, "F1": 0.5, "confidence": 0.25})
    with open_log(tmp_path, resume_epoch=1) as run:
        run.add_epoch(later)
    assert run.csv_path.read_text().splitlines() == [
        "epoch,box,objectness,classification,val_box,val_objectness,val_classification,AP,AP50,AP75,F1,confidence,lr,"
        "seconds,skipped",
        "1,0.05,0.02,0.01,,,,0.1,0.2,0.05,,,0.009,7.5,0", "2,0.05,0.02,0.01,0.06,0.03,0.02,0.2,0.4,0.1,0.5,0.25,"
        "0.008,7.5,0"]
    assert read_results(run.csv_path) == [replace(record(1), lr=0.009), later]
    assert scalars(tmp_path, "val/cls_loss") == pytest.approx({2: 0.02})


@pytest.mark.usefixtures("without_curves")
def test_tensorboard_holds_every_scalar(tmp_path: Path) -> None:
    with open_log(tmp_path) as run:
        run.add_epoch(record(1))
        run.add_epoch(replace(record(2), metrics={}))
    expected = {
        "train/box_loss": {1: 0.05, 2: 0.05},
        "train/obj_loss": {1: 0.02, 2: 0.02},
        "train/cls_loss": {1: 0.01, 2: 0.01},
        "metrics/AP": {1: 0.1},
        "metrics/AP50": {1: 0.2},
        "metrics/AP75": {1: 0.05},
        "x/lr": {1: 0.009, 2: 0.008},
        "x/skipped_steps": {1: 0, 2: 0},
    }
    assert set(events(tmp_path).Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        assert scalars(tmp_path, tag) == pytest.approx(values)


@pytest.mark.usefixtures("without_curves")
def test_events_are_on_disk_after_every_epoch(tmp_path: Path) -> None:
    run = open_log(tmp_path)
    run.add_epoch(record(3))
    deadline = time.monotonic() + 10
    while "metrics/AP50" not in events(tmp_path).Tags()["scalars"] and time.monotonic() < deadline:
        time.sleep(0.05)  # its thread is on its way
    assert scalars(tmp_path, "metrics/AP50") == pytest.approx({3: 0.6})
    run.close()


def test_images_come_back_from_tensorboard(tmp_path: Path) -> None:
    image = np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)
    with open_log(tmp_path) as run:
        run.add_image("predictions.png", lambda: image, "val/predictions", 4)
    (event,) = events(tmp_path).Images("val/predictions")
    assert (event.step, event.width, event.height) == (4, 32, 24)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "predictions.png")), image)


def test_an_image_that_cannot_be_drawn_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> np.ndarray:
        raise cv2.error("no such font")

    with open_log(tmp_path) as run:
        run.add_image("batch.jpg", fail, "train/batch", 1)
        run.add_epoch(record(1))
    (warning,) = warnings(caplog)
    assert "batch.jpg: cannot be written (error: no such font); the run goes on" in warning
    assert "images" not in events(tmp_path).Tags() or not events(tmp_path).Tags()["images"]


@pytest.mark.usefixtures("without_curves")
def test_resume_drops_what_came_after(tmp_path: Path) -> None:
    interrupted = open_log(tmp_path)
    for epoch in range(5):
        interrupted.add_epoch(record(epoch))
    make_older(tmp_path)
    with open_log(tmp_path, resume_epoch=2) as run:
        assert [r.epoch for r in read_results(run.csv_path)] == [0, 1, 2]
        run.add_epoch(record(3, shift=1.0))
    interrupted.close()
    assert [(r.epoch, r.losses["box"]) for r in read_results(tmp_path / "results.csv")] == [
        (0, 0.05), (1, 0.05), (2, 0.05), (3, 1.05)
    ]
    assert scalars(tmp_path, "train/box_loss") == pytest.approx({0: 0.05, 1: 0.05, 2: 0.05, 3: 1.05})


@pytest.mark.usefixtures("without_curves")
def test_resume_without_a_record_begins_one(tmp_path: Path) -> None:
    with open_log(tmp_path / "new", resume_epoch=7) as run:
        run.add_epoch(record(8))
    assert [r.epoch for r in read_results(tmp_path / "new" / "results.csv")] == [8]


@pytest.mark.usefixtures("without_curves")
def test_a_new_run_in_an_old_folder_starts_anew(tmp_path: Path) -> None:
    with open_log(tmp_path) as old:
        for epoch in range(3):
            old.add_epoch(record(epoch))
    make_older(tmp_path)
    with open_log(tmp_path) as new:
        new.add_epoch(record(0, shift=1.0))
    assert [r.losses["box"] for r in read_results(tmp_path / "results.csv")] == [1.05]
    assert scalars(tmp_path, "train/box_loss") == pytest.approx({0: 1.05})


@pytest.mark.usefixtures("without_curves")
def test_an_epoch_recorded_twice_stands_once(tmp_path: Path) -> None:
    with open_log(tmp_path) as run:
        for epoch in (0, 1, 1):
            run.add_epoch(record(epoch))
    assert [r.epoch for r in read_results(tmp_path / "results.csv")] == [0, 1]


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize(
    "torn", ["4,0.05,0.0", "4,0.05,0.02,0.01,,,,0.4,0.8,0.2,0.006,", "4,0.05,0.02,0.01,,,,0.4,0.8,0.2,x,7,0"]
)
def test_a_torn_line_spoils_nothing(tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(tmp_path) as run:
        run.add_epoch(record(3))
    with open(run.csv_path, "a") as stream:
        stream.write(torn)
    assert [r.epoch for r in read_results(run.csv_path)] == [3]
    assert "results.csv, line 3: is not a record of an epoch, left out" in warnings(caplog)[0]
    open_log(tmp_path, resume_epoch=5).close()
    assert len(run.csv_path.read_text().splitlines()) == 2


@pytest.mark.usefixtures("without_curves")
def test_a_full_disk_is_told_once_and_the_other_sinks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_log(tmp_path) as run:
        run.add_epoch(record(0))
        with monkeypatch.context() as patch:
            patch.setattr(log, "atomic_write", full)
            run.add_epoch(record(1))
            run.add_epoch(record(2))
        assert [r.epoch for r in read_results(run.csv_path)] == [0]
        run.add_epoch(record(3))
    (warning,) = warnings(caplog)
    assert warning == (
        f"{tmp_path / 'results.csv'}: cannot be written (OSError: [Errno 28] No space left on device); the run goes on"
    )
    assert [r.epoch for r in read_results(run.csv_path)] == [0, 1, 2, 3]  # nothing is lost once there is room
    assert set(scalars(tmp_path, "x/lr")) == {0, 1, 2, 3}


@pytest.mark.usefixtures("without_curves")
def test_a_broken_event_writer_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("worker died")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", fail)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_image", fail)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.close", fail)
    with open_log(tmp_path) as run:
        for epoch in range(2):
            run.add_epoch(record(epoch))
            run.add_image(None, lambda: np.zeros((4, 4, 3), np.uint8), "a", epoch)
    assert len(warnings(caplog)) == 1
    assert warnings(caplog)[0] == ("--log tensorboard: epoch_done failed (RuntimeError: worker died); it is told "
                                   "nothing more, the run goes on")
    assert len(read_results(run.csv_path)) == 2


def test_without_tensorboard_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with open_log(tmp_path) as run:
        run.add_epoch(record(0))
        run.add_image(None, lambda: np.zeros((4, 4, 3), np.uint8), "a", 0)
    assert len(warnings(caplog)) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"results.csv", "results.png"}


def test_without_matplotlib_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with open_log(tmp_path) as run:
        run.add_epoch(record(0))
    assert "results.png: cannot be written" in warnings(caplog)[0]
    assert not run.plot_path.exists()


def test_a_folder_that_cannot_be_made_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with open_log(tmp_path / "file" / "run") as run:
        run.add_epoch(record(0))
    run.close()
    assert len(warnings(caplog)) == 3  # one for each sink


def test_an_error_of_the_run_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_log(tmp_path) as run:
        run.add_epoch(record(0))
        raise KeyError("the run's own")
    assert run.plot_path.exists()


@pytest.mark.untraced
@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(0)],
        [record(epoch) for epoch in range(60)],
        [replace(record(epoch), metrics={}) for epoch in range(3)],
        [replace(record(epoch), losses=NOT_FINITE, seconds=1e4) for epoch in range(3)],
        [replace(record(epoch), val_losses=record(epoch).losses if epoch else {}) for epoch in range(3)],
    ],
    ids=["empty", "one", "many", "not_evaluated", "not_finite", "resumed"],
)
def test_the_plot_is_an_image(tmp_path: Path, records: list[EpochRecord]) -> None:
    folder = tmp_path / "run $x_1"  # no formula
    with open_log(folder) as run:
        for entry in records:
            run.add_epoch(entry)
    assert run.plot_path.exists() == bool(records)
    if not records:
        plot_results(run.csv_path, run.plot_path)
    image = cv2.imread(str(run.plot_path))
    assert image is not None
    assert image.shape[:2] == (864, 1860)
    coloured = np.ptp(image.astype(int), axis=2) > 60
    assert coloured.sum() > 200  # lines, or at least the legend
