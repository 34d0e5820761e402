"""Observers: what they are told, that none can break, block or change a run, and what stands in their stores."""

from __future__ import annotations

import csv
import json
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolov7 import cli
from yolov7.config import RunError
from yolov7.engine.log import EpochRecord
from yolov7.engine.observers import KNOWN, Observer, Observers, RunFacts, Table, base, known
from yolov7.engine.observers.known import observers_named

MICRO = str(Path(__file__).parents[1] / "micro.yaml")
FLAGS = ["--cfg", MICRO, "--img-size", "64", "--batch-size", "4", "--nominal-batch", "4", "--device", "cpu",
         "--precision", "fp32", "--workers", "0"]


class Witness(Observer):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []

    def run_begins(self, run: RunFacts) -> None:
        self.told.append(("run_begins", (run,)))

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(("step_done", (step, values)))

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        self.told.append(("epoch_done", (record, values)))

    def evaluated(self, epoch: int, tables: Mapping[str, Table]) -> None:
        self.told.append(("evaluated", (epoch, tables)))

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        self.told.append(("image_drawn", (name, image, epoch)))

    def checkpoint_written(self, path: Path, epoch: int, best: bool) -> None:
        assert path.is_file()
        self.told.append(("checkpoint_written", (path, epoch, best)))

    def run_ends(self, outcome: str) -> None:
        self.told.append(("run_ends", (outcome,)))

    def of(self, event: str) -> list[tuple[Any, ...]]:
        return [facts for name, facts in self.told if name == event]


def watched(monkeypatch: pytest.MonkeyPatch, **observers: Observer) -> None:
    """Runs are watched by these."""
    monkeypatch.setattr("yolov7.engine.trainer.observers_named", lambda names: observers)


def train(data: Path, project: Path, *flags: str, epochs: int = 3) -> int:
    return cli.main(["train", "--data", str(data), "--project", str(project), *FLAGS, "--epochs", str(epochs), *flags])


def results(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


# --- what they are told ----------------------------------------------------------------------------------------


def test_a_run_is_told_from_its_beginning_to_its_end(shapes: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    witness = Witness()
    watched(monkeypatch, witness=witness)
    assert train(shapes, tmp_path) == 0
    names = [name for name, _ in witness.told]
    assert names[0] == "run_begins" and names[-1] == "run_ends" and names.count("run_begins") == 1
    (run,), = witness.of("run_begins")
    assert (run.folder, run.first_epoch, run.settings["epochs"]) == (tmp_path / "exp", 0, 3)
    rows = results(tmp_path / "exp")
    for (record, values), row in zip(witness.of("epoch_done"), rows, strict=True):
        assert record.epoch == int(row["epoch"])
        assert f"{values['metrics/AP']:.6g}" == row["AP"] and f"{values['train/box_loss']:.6g}" == row["box"]
    steps = witness.of("step_done")
    assert [step for step, _ in steps] == sorted(step for step, _ in steps) and len(steps) >= 3
    assert set(steps[-1][1]) == {"step/box_loss", "step/obj_loss", "step/cls_loss", "step/lr", "step/gradient_norm",
                                 "step/images_per_second", "step/data_share", "step/memory_gib"}
    assert steps[-1][1]["step/gradient_norm"] > 0
    (epoch, tables) = witness.of("evaluated")[-1]
    assert epoch == 3 and tables["classes"].columns[:3] == ("name", "images", "objects")
    assert len(tables["classes"].rows) == 6
    assert {name for name, _, _ in witness.of("image_drawn")} == {"train/batch", "val/predictions"}
    written = witness.of("checkpoint_written")
    assert [epoch for path, epoch, best in written if not best] == [1, 2, 3]
    assert [path.name for path, _, best in written if best] and written[0][0].name == "best.pt"
    assert witness.of("run_ends") == [("finished",)]


def test_a_run_that_goes_on_says_where(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Witness(), Witness()
    watched(monkeypatch, witness=first)
    assert train(shapes, tmp_path, epochs=2) == 0
    watched(monkeypatch, witness=second)
    assert cli.main(["train", "--resume", str(tmp_path / "exp"), "--epochs", "3", "--workers", "0"]) == 0
    (run,), = second.of("run_begins")
    assert (run.first_epoch, run.first_step) == (2, 2 * run.batches)
    assert [record.epoch for record, _ in second.of("epoch_done")] == [3]


def test_the_end_of_a_run_that_fails(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = Witness()
    watched(monkeypatch, witness=witness)

    def fail(*_: object, **__: object) -> None:
        raise RunError("no evaluation")

    monkeypatch.setattr("yolov7.engine.trainer.evaluate", fail)
    assert train(shapes, tmp_path) == 1
    assert witness.of("run_ends") == [("failed",)]


def test_an_observer_ends_a_run(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    class Pruner(Witness):
        def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
            super().epoch_done(record, values)
            if record.epoch >= 2:
                self.stop = "nothing is to be expected"

    watched(monkeypatch, pruner=Pruner())
    # its thread is as fast as it likes: it may take an epoch more until the run hears of it
    assert train(shapes, tmp_path, epochs=30) == 0
    assert 2 <= len(results(tmp_path / "exp")) < 30
    assert "as asked by pruner: nothing is to be expected" in capsys.readouterr().out


# --- what they cannot do ---------------------------------------------------------------------------------------


def test_one_that_fails_is_told_nothing_more(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the server is gone")

    events = "run_begins", "step_done", "epoch_done", "evaluated", "image_drawn", "checkpoint_written", "run_ends"
    failing: dict[str, Observer] = {event: type("Failing", (Observer,), {event: fail})() for event in events}
    witness = Witness()
    watched(monkeypatch, **failing, witness=witness)
    assert train(shapes, tmp_path, epochs=2) == 0
    told = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("--log")]
    assert sorted(told) == sorted(f"--log {event}: {event} failed (ConnectionError: the server is gone); it is told "
                                  "nothing more, the run goes on" for event in events)
    assert witness.of("run_ends") == [("finished",)]


def test_a_run_is_the_same_with_and_without(shapes: Path, tmp_path: Path) -> None:
    for name, flags in (("with", ["--log", "tensorboard"]), ("without", ["--log", "none"])):
        assert train(shapes, tmp_path, "--name", name, *flags, epochs=2) == 0
    states = [torch.load(tmp_path / name / "weights" / "last.pt", weights_only=True)["model"]
              for name in ("with", "without")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert list((tmp_path / "with").glob("events.*")) and not list((tmp_path / "without").rglob("events.*"))


class Slow(Observer):
    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 0

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        self.count += 1
        time.sleep(self.seconds)


def test_a_slow_one_misses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(base, "WAITING", 5)
    slow, witness = Slow(0.02), Witness()
    started = time.monotonic()
    with Observers({"slow": slow, "witness": witness}) as observers:
        for step in range(100):
            observers.tell("step_done", step, {})
            time.sleep(0.001)
        assert time.monotonic() - started < 1.5
    assert 5 <= slow.count < 100
    assert len(witness.of("step_done")) > slow.count
    assert "--log slow: is too slow, and misses some of what happens; the run goes on" in caplog.text


def test_the_end_waits_for_so_long(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(base, "LAST_WORD", 0.2)
    observers = Observers({"stuck": Slow(3)})
    observers.tell("step_done", 1, {})
    started = time.monotonic()
    observers.close()
    assert time.monotonic() - started < 2
    assert "--log stuck: was not done 0 s after the run, and is left alone" in caplog.text


@pytest.mark.parametrize(("names", "said"), [
    (["tensorbord"], "--log: unknown observer 'tensorbord'; accepted: tensorboard, wandb, mlflow, trackio, none; did "
                     "you mean 'tensorboard'?"),
    (["none", "tensorboard"], "--log: none stands beside tensorboard; accepted: one or the other")])
def test_names_that_are_refused(names: list[str], said: str, shapes: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    assert train(shapes, tmp_path / "runs", "--log", *names) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", KNOWN)
def test_a_package_that_is_missing(name: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    find = known.importlib.util.find_spec
    monkeypatch.setattr(known.importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))
    assert train(shapes, tmp_path / "runs", "--log", name) == 2
    assert f"--log {name}: needs the package {name}, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_observer_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "theirs"

        def load(self) -> type[Observer]:
            return Witness

    monkeypatch.setattr(known, "entry_points", lambda group: [Entry()] if group == "yolov7.observers" else [])
    assert isinstance(observers_named(["theirs"])["theirs"], Witness)


# --- real stores -----------------------------------------------------------------------------------------------


def test_events_of_tensorboard(shapes: Path, tmp_path: Path) -> None:
    assert train(shapes, tmp_path, epochs=2) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "exp"), "--epochs", "3", "--workers", "0"]) == 0
    rows = results(tmp_path / "exp")
    folders = tmp_path / "exp", tmp_path / "exp" / "steps"
    events, steps = (EventAccumulator(str(folder)).Reload() for folder in folders)
    for tag, column in (("train/box_loss", "box"), ("metrics/AP50", "AP50"), ("x/lr", "lr")):
        found = events.Scalars(tag)
        assert [event.step for event in found] == [1, 2, 3]
        assert [event.value for event in found] == pytest.approx([float(row[column]) for row in rows], rel=1e-5)
    assert [event.step for event in steps.Scalars("step/lr")] == sorted(
        event.step for event in steps.Scalars("step/lr"))
    assert len(steps.Scalars("step/gradient_norm")) >= 2


def wandb_history(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of W&B's offline log: LevelDB's format in blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                       for item in record.history.item}


def test_the_offline_folder_of_wandb(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(shapes, tmp_path, "--log", "wandb", epochs=2) == 0
    (file,) = (tmp_path / "exp" / "wandb").rglob("*.wandb")
    history = list(wandb_history(file))
    rows = results(tmp_path / "exp")
    epochs = [row for row in history if "metrics/AP" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    for found, row in zip(epochs, rows, strict=True):
        for name, column in (("metrics/AP50", "AP50"), ("train/box_loss", "box"), ("val/box_loss", "val_box")):
            assert found[name] == pytest.approx(float(row[column]), rel=1e-5)
    assert any("step/gradient_norm" in row for row in history)
    media = tmp_path / "exp" / "wandb"
    assert list(media.rglob("*.png")) and list(media.rglob("*.table.json"))


def test_the_store_of_mlflow(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train(shapes, tmp_path, "--log", "mlflow", epochs=2) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "exp"), "--epochs", "3", "--workers", "0"]) == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "yolov7"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "exp"
    assert run.data.params["recipe.optimizer.kind"] == "sgd" and run.data.params["batch_size"] == "4"
    rows = results(tmp_path / "exp")
    for name, column in (("metrics/AP50", "AP50"), ("train/box_loss", "box"), ("x/lr", "lr")):
        found = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in found] == [1, 2, 3]
        assert [metric.value for metric in found] == pytest.approx([float(row[column]) for row in rows], rel=1e-5)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"classes.json", "train", "val"}


def test_the_database_of_trackio(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_PROJECT", f"p{time.time_ns()}")
    assert train(shapes, tmp_path, "--log", "trackio", epochs=2) == 0
    assert trackio is not None
    assert any((tmp_path / "trackio").rglob("*.db")) or any(Path.home().glob(".cache/huggingface/trackio/*.db"))


def test_all_at_once_say_nothing_wrong(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in KNOWN if known.importlib.util.find_spec(name)]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert train(shapes, tmp_path, "--log", *names, "--workers", "2", epochs=2) == 0
    assert "the run goes on" not in "".join(capsys.readouterr())
