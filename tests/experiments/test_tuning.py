"""Studies: several processes, kills, pruning, and what is written."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolov7 import cli
from yolov7.config import InputError, RunError
from yolov7.config.recipe import Recipe, read_recipe
from yolov7.engine.run_config import settings_text
from yolov7.experiments.processes import Job
from yolov7.experiments.search_space import read_space
from yolov7.experiments.studies import StudyFolder
from yolov7.experiments.study_report import write_report
from yolov7.experiments.tune_options import TuneOptions
from yolov7.experiments.tuning import Trials, tune

ROOT = Path(__file__).parents[2]
SPACE = "optimizer.lr0: {factor: 3}\naugment.fliplr: {choices: [0, 0.5]}\nbatch_size: {choices: [4, 8]}\n"
LIMIT = 200.0  # seconds


@pytest.fixture
def words(flags: dict[str, Any], tmp_path: Path) -> list[str]:
    (tmp_path / "space.yaml").write_text(SPACE)
    return ["--cfg", flags["cfg"], "--data", flags["data"], "--img-size", "64", "--batch-size", "4", "--nominal-batch",
            "8", "--workers", "0", "--precision", "fp32", "--epochs", "2", "--space", str(tmp_path / "space.yaml"),
            "--project", str(tmp_path), "--study", "s", "--devices", "cpu"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_processes_killed_and_gone_on_with(words: list[str], tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Of two processes on one study one is killed within a trial; a third one goes on with that trial."""
    command = [sys.executable, "-m", "yolov7", "tune", *words, "--trials", "4"]
    first, second = (subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                     for _ in range(2))
    trials = tmp_path / "s" / "trials"
    deadline = time.monotonic() + LIMIT
    while sum((path / "train.log").is_file() for path in trials.glob("0*")) < 2:  # both have begun
        assert time.monotonic() < deadline and first.poll() is None and second.poll() is None
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert cli.main(["tune", *words, "--trials", "4"]) == 0
    said = second.communicate(timeout=LIMIT)[0]
    assert second.returncode == 0, said
    out = said + capsys.readouterr().out
    assert out.count("was left behind, and goes on") == 1
    assert cli.main(["tune", *words, "--trials", "4"]) == 0  # nothing is left to do
    rows = rows_of(tmp_path / "s")
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3]
    assert {row["state"] for row in rows} <= {"complete", "pruned"} and all(row["epochs"] != "0" for row in rows)
    base = read_recipe(str(tmp_path / "s" / "base.yaml"))
    assert float(rows[0]["optimizer.lr0"]) == base.optimizer.lr0  # the first one is the recipe itself
    best = read_recipe(str(tmp_path / "s" / "best.yaml"))
    assert any(float(row["optimizer.lr0"]) == pytest.approx(best.optimizer.lr0, rel=1e-4) for row in rows)
    assert "--batch-size" in (tmp_path / "s" / "best.yaml").read_text()
    kept = [path.parent.name for path in trials.glob("*/weights")]
    assert len(kept) == 1  # those of the best trial
    page = (tmp_path / "s" / "index.html").read_text()
    assert "Study s" in page and "optimizer.lr0" in page
    assert cli.main(["tune", *words, "--trials", "4", "--seed", "3"]) == 2
    assert "was begun with seed" in capsys.readouterr().err


class Fake:
    """A study whose trainings are told, not run."""

    def __init__(self, flags: dict[str, Any], tmp_path: Path, **more: Any) -> None:
        (tmp_path / "space.yaml").write_text(SPACE)
        from yolov7.engine.run import settled_config
        from yolov7.engine.run_config import TrainOptions

        self.options = TuneOptions(**{**flags, "img_size": (64,), "log": ("none",), "epochs": 8,
                                      "space": str(tmp_path / "space.yaml"), "project": str(tmp_path), **more})
        train = TrainOptions(cfg=flags["cfg"], data=flags["data"], img_size=(64,), batch_size=4, nominal_batch=4,
                             epochs=8, workers=0)
        self.config = settled_config(train)
        self.space = read_space(self.options.space, self.config.recipe)
        self.study = StudyFolder(tmp_path / self.options.study)

    def trials(self) -> Trials:
        return Trials(self.study, self.space, self.config, self.options)

    def run(self, trials: Trials, job: Job, aps: list[float], fails: str = "") -> bool:
        """Tell the numbers of a training; whether it was pruned."""
        (job.folder / "weights").mkdir(parents=True, exist_ok=True)
        lines = ["epoch,AP,AP50", *(f"{place},{ap},{ap}" for place, ap in enumerate(aps, 1))]
        (job.folder / "results.csv").write_text("\n".join(lines))
        (job.folder / "weights" / "best.pt").write_bytes(b"")
        pruned = False
        for place, ap in enumerate(aps, 1):
            if pruned := trials.epoch_done(job, {"epoch": float(place), "AP": ap, "AP50": ap}):
                break
        trials.ended(job, "failed" if fails else "stopped" if pruned else "finished", fails)
        return pruned


def next_of(trials: Trials) -> Job:
    job = trials.next_job()
    assert job is not None
    return job


def test_hopeless_trials_are_pruned_and_the_best_one_is_kept(flags: dict[str, Any], tmp_path: Path) -> None:
    fake = Fake(flags, tmp_path, trials=7)
    trials = fake.trials()
    for value in (0.3, 0.5, 0.4, 0.35):
        assert not fake.run(trials, next_of(trials), [value * n / 8 for n in range(1, 9)])
    assert fake.run(trials, next_of(trials), [0.01] * 8)  # after the fourth, a quarter of the epochs in
    assert not fake.run(trials, next_of(trials), [0.9] * 8)
    fake.run(trials, next_of(trials), [0.2] * 8, fails="out of memory")
    assert not fake.run(trials, next_of(trials), [0.6] * 8)  # in place of the failed one
    assert trials.next_job() is None and trials.is_exhausted
    result = write_report(fake.study, fake.config.recipe)
    assert [row["state"] for row in result.rows] == ["complete"] * 4 + ["pruned", "complete", "fail", "complete"]
    assert result.best == 5 and result.rows[6]["reason"] == "out of memory" and result.rows[4]["epochs"] == 2
    assert set(result.importance) == {"optimizer.lr0", "augment.fliplr", "batch_size"}
    assert sum(result.importance.values()) == pytest.approx(1)
    assert [path.parent.name for path in (fake.study.folder / "trials").glob("*/weights")] == ["0005"]
    for name in ("trials.csv", "best.yaml", "importance.png", "index.html"):
        assert (fake.study.folder / name).stat().st_size
    assert "best trial 5" in repr(result)


def test_same_seed_same_choices_also_after_a_restart(flags: dict[str, Any], tmp_path: Path) -> None:
    chosen = []
    for folder, restarts in (("a", False), ("b", True), ("c", False)):
        (tmp_path / folder).mkdir()
        fake = Fake(flags, tmp_path / folder, trials=13, study_seed=7 if folder == "c" else 0, prune="off")
        trials = fake.trials()
        for place in range(13):
            trials = fake.trials() if restarts else trials
            job = next_of(trials)
            fake.run(trials, job, [0.1 + place % 5 / 10])
        chosen.append([trial.params for trial in fake.study.trials()])
    assert chosen[0] == chosen[1] and chosen[0] != chosen[2]
    assert len({str(params) for params in chosen[0]}) > 10


def test_several_trials_at_a_time_are_different_ones(flags: dict[str, Any], tmp_path: Path) -> None:
    fake = Fake(flags, tmp_path, trials=3)
    trials = fake.trials()
    jobs = [next_of(trials) for _ in range(3)]
    assert len({job.folder for job in jobs}) == 3 and trials.next_job() is None
    for job in jobs:
        fake.run(trials, job, [0.1])
    assert [trial.number for trial in fake.study.trials("COMPLETE")] == [0, 1, 2]


def test_machines_with_disks_of_their_own_share_a_study(flags: dict[str, Any], tmp_path: Path) -> None:
    """What runs on another disk is left alone, and counts; what was killed on the own one is gone on with."""
    storage = f"sqlite:///{tmp_path / 'server.db'}"
    sides = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fake = Fake(flags, tmp_path / name, trials=3)
        fake.study = StudyFolder(tmp_path / name / "study", storage)
        fake.options = replace(fake.options, project="runs/tune")  # the same command on both
        sides.append(fake)
    one, two = (side.trials() for side in sides)
    jobs = [next_of(one), next_of(two)]
    assert [job.folder.name for job in jobs] == ["0000", "0001"]
    assert jobs[0].folder.parents[2] != jobs[1].folder.parents[2]
    for trial, lock, _ in one._running.values():
        lock.release()  # as if its process was killed
        assert trial.number == 0
    again = sides[1].trials()
    assert next_of(again).folder.name == "0002" and again.next_job() is None  # not 0000: it may still run there
    assert next_of(sides[0].trials()).folder == jobs[0].folder


def test_end_where_everything_fails_or_time_is_over(flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    fake = Fake(flags, tmp_path / "a", trials=50)
    trials = fake.trials()
    for _ in range(3):
        fake.run(trials, next_of(trials), [0.1], fails="no such layer")
    assert trials.next_job() is None and trials.reason == "no such layer"
    assert write_report(fake.study, fake.config.recipe).best is None
    (tmp_path / "b").mkdir()
    late = Fake(flags, tmp_path / "b", trials=50, hours=0.0).trials()
    assert late.next_job() is None and late.is_exhausted


@pytest.mark.parametrize(("more", "words"), [
    ({"batch_size": 0}, "--batch-size auto"), ({"storage": "sqlite:////no/such/folder/x.db"}, "cannot be opened"),
    ({"storage": "postgresql://me:secret@nowhere/x"}, "cannot be opened"), ({"space": "nothing"}, "--space"),
    ({"devices": ("0", "1"), "devices_per_run": 3}, "does not divide")])
def test_bad_input(flags: dict[str, Any], tmp_path: Path, more: dict[str, Any], words: str) -> None:
    options = TuneOptions(**{**flags, "img_size": (64,), "log": ("none",), "project": str(tmp_path), **more})
    with pytest.raises(InputError) as caught:
        tune(options)
    assert words in str(caught.value) and "secret" not in str(caught.value)


def test_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'yolov7-framework\[tune\]'"):
        tune(TuneOptions(project=str(tmp_path)))


def test_trial_that_another_process_has_told(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "s")
    study.begin({}, settings_text(Recipe()), None)
    with study.lock():
        trial = study.ask(0)
    again = study.reopened(trial.number)
    study.tell(trial, 0.5)
    with pytest.raises(RunError, match="trial 0"):
        study.tell(again, 0.6)
    assert yaml.safe_load((tmp_path / "s" / "base.yaml").read_text())["optimizer"]["lr0"] == 0.01
