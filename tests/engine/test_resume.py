"""Whatever ends a run, at whatever moment: it goes on to exactly what it would have become."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from forks import Fork, Forks

from yolov7 import cli
from yolov7.data.synthetic import generate
from yolov7.engine import state

ROOT = Path(__file__).parents[2]
EPOCHS = 6  # of 12 kills only the four at checkpoints leave an epoch behind, at most
MODEL = str(Path(__file__).parents[1] / "micro.yaml")
NAMES = {"T": "training", "E": "evaluation", "C": "checkpoint", "-": "start or between"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Runs:
    """Starts runs of one training and ends them."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        generate(folder / "data", train=24, val=24)
        self.phase_file = folder / "phase"

    def begin(self, name: str, resume: bool) -> Fork:
        new = ["--data", str(self.folder / "data"), "--cfg", MODEL, "--project",
               str(self.folder), "--name", name, "--exist-ok", "--img-size", "64", "--batch-size", "2",
               "--nominal-batch", "4", "--device", "cpu", "--epochs", str(EPOCHS), "--multi-scale", "--image-weights"]
        arguments = ["train", *(["--resume", str(self.folder / name)] if resume else new), "--workers", "0"]
        self.phase_file.write_text("-")
        script = Path(__file__).with_name("phased_run.py")
        return self.forks.start([sys.executable, script, self.phase_file, *arguments], environment())

    def complete(self, name: str, resume: bool) -> str:
        """A run to its end; its output."""
        run = self.begin(name, resume)
        assert run.wait() == 0, run.stdout[-2000:] + run.stderr[-2000:]
        return run.stdout

    @property
    def phase(self) -> str:
        first, writing = (self.phase_file.read_text() + "--")[:2]
        return "C" if writing == "C" else first

    def stop(self, process: Fork, phase: str, delay: float, number: int) -> str:
        """Send a signal ``delay`` seconds into a phase; returns the phase that it fell into."""
        deadline = time.monotonic() + 60
        while self.phase != phase:
            assert process.poll() is None and time.monotonic() < deadline, "the run ended by itself"
            time.sleep(0.0005)
        time.sleep(delay)
        process.send_signal(number)
        if number == signal.SIGKILL:
            assert process.wait() == -signal.SIGKILL
        return self.phase

    def last(self, name: str) -> Path:
        return self.folder / name / "weights" / "last.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), forks)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Path:
    runs.complete("whole", resume=False)
    return runs.folder / "whole"


def hashes(folder: Path) -> dict[str, str]:
    """A hash of the bits of weights, average and optimizer state at the end of a run."""
    content = torch.load(folder / "weights" / "last.pt", weights_only=True)
    found = {}
    for part in ("model", "ema", "optimizer"):
        tensors = content[part] if part != "optimizer" else {
            f"{index}.{key}": value for index, state in content["optimizer"]["state"].items()
            for key, value in state.items()}
        digest = hashlib.sha256()
        for key in sorted(tensors):
            digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
        found[part] = digest.hexdigest()
    return found | {key: str(content[key]) for key in ("ema_updates", "place", "best", "scores")}


def rows(folder: Path) -> list[list[str]]:
    with open(folder / "results.csv", newline="") as stream:
        return [[value for key, value in row.items() if key != "seconds"] for row in csv.DictReader(stream)]


def test_killed_again_and_again_it_becomes_the_same(runs: Runs, whole: Path) -> None:
    """12 times SIGKILL: 4 aimed at evaluations, 4 at the writing of checkpoints, the others anywhere."""
    rng = random.Random(0)
    aims = [*"EEEECCCC", *"TTTT"]
    rng.shuffle(aims)
    places: Counter[str] = Counter()
    for aim in aims:
        process = runs.begin("killed", resume=runs.last("killed").exists())
        delay = rng.uniform(0, 0.15) if aim == "T" else rng.uniform(0, 0.004)
        places[NAMES[runs.stop(process, aim, delay, signal.SIGKILL)]] += 1
        if runs.last("killed").exists():
            state.read_last(runs.last("killed"))  # whole
    sys.stdout.write(f"kills fell into: {dict(places)}\n")
    assert sum(places.values()) >= 10
    assert places["evaluation"] >= 3 and places["checkpoint"] >= 3, places
    runs.complete("killed", resume=runs.last("killed").exists())
    assert hashes(runs.folder / "killed") == hashes(whole)
    assert rows(runs.folder / "killed") == rows(whole)
    assert not list((runs.folder / "killed").rglob(".*.tmp"))


def test_a_signal_leaves_a_checkpoint_of_that_very_step(runs: Runs, whole: Path) -> None:
    """SIGTERM and SIGINT in turn: four times in the training of an epoch, then in its evaluation."""
    rng = random.Random(int(signal.SIGTERM))
    name, inside, output = "told", 0, ""
    for aim, number in zip("TTTTEE", [signal.SIGTERM, signal.SIGINT] * 3, strict=True):
        process = runs.begin(name, resume=runs.last(name).exists())
        before = runs.last(name).stat().st_mtime_ns if runs.last(name).exists() else 0
        runs.stop(process, aim, rng.uniform(0.01, 0.1) if aim == "T" else 0.001, number)
        assert process.wait() == 128 + number
        output += process.stdout + process.stderr
        assert runs.last(name).stat().st_mtime_ns > before
        place = state.read_last(runs.last(name))["place"]
        inside += 0 < place["batch"] < 12
    told = rf"error: interrupted in epoch 1; go on: \S*python\S* -m yolov7 train --resume {runs.folder / name}\n"
    assert re.search(told, output)
    assert "going on in epoch 1 after" in output
    assert inside >= 2, "no checkpoint inside an epoch"
    assert place["batch"] == 12  # the last ones fell into an evaluation: the epoch is trained, but not evaluated
    runs.complete(name, resume=True)
    assert hashes(runs.folder / name) == hashes(whole)
    assert rows(runs.folder / name) == rows(whole)


# --- a disk that is full ---------------------------------------------------------------------------------------

LIMITED = """
import resource, signal, sys
from yolov7 import cli
from yolov7.engine.trainer import Trainer
end_epoch = Trainer._end_epoch
def limited(self, *arguments):
    if self.state.epoch >= 1:  # from the second epoch on no file may grow beyond 200 kB
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    return end_epoch(self, *arguments)
Trainer._end_epoch = limited
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_full_disk_leaves_the_checkpoint_before_it(runs: Runs, tmp_path: Path) -> None:
    flags = ["train", "--data", str(runs.folder / "data"), "--cfg", MODEL, "--project",
             str(tmp_path), "--img-size", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--epochs",
             "3"]
    done = runs.forks.run([sys.executable, "-c", LIMITED, *flags], environment())
    assert done.returncode == 1
    last = tmp_path / "exp" / "weights" / "last.pt"
    assert f"{last}: the checkpoint cannot be written: File too large; the one before it is whole" in done.stdout
    assert "the run goes on and tries again after the next epoch" in done.stdout  # the second epoch
    assert f"error: {last}: the checkpoint cannot be written" in done.stderr  # the last one
    assert state.read_last(last)["place"]["epoch"] == 1
    assert not list(last.parent.glob(".*.tmp"))
    assert cli.main(["train", "--resume", str(tmp_path / "exp"), "--workers", "0"]) == 0
    assert state.read_last(last)["place"]["epoch"] == 3
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
