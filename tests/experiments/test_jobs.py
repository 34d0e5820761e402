"""Trainings in processes of their own: they end with who started them, go on, and share the work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from yolov7.config import InputError
from yolov7.experiments.jobs import run_list
from yolov7.experiments.processes import Job, Place, TrainingProcess, places
from yolov7.experiments.run_folders import RunFolder
from yolov7.runtime.folders import claimed, process_in

ROOT = Path(__file__).parents[2]
LIMIT = 120.0  # seconds


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_list_goes_on_after_its_process_was_killed(flags: dict[str, Any], tmp_path: Path) -> None:
    """The training ends with a checkpoint as its parent is gone; then another process finishes it and the next one."""
    options = flags | {"epochs": 40}
    jobs = [{"folder": str(tmp_path / "long"), "options": options}]
    program = ("import json, sys; from pathlib import Path; from yolov7.experiments.jobs import run_list; "
               "from yolov7.experiments.processes import Job, Place; "
               "jobs = [Job(Path(job['folder']), job['options'], 'x') for job in json.loads(sys.argv[1])]; "
               "run_list(jobs, [Place(('cpu',))], 'jobs')")
    parent = subprocess.Popen([sys.executable, "-c", program, json.dumps(jobs)], cwd=ROOT)
    wait_for(lambda: len(RunFolder(tmp_path / "long").epochs) >= 2)
    assert process_in(tmp_path / "long")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not process_in(tmp_path / "long"))
    done = len(RunFolder(tmp_path / "long").epochs)
    assert 2 <= done < 40 and (tmp_path / "long" / "weights" / "last.pt").is_file()
    log = (tmp_path / "long" / "train.log").read_text()
    assert "interrupted in epoch" in log

    process = TrainingProcess(Job(tmp_path / "long", options, "x"), Place(("cpu",)))  # goes on from there
    told: list[float] = []
    wait_for(lambda: told.extend(row["epoch"] for row in process.new_epochs()) or len(told) > done)
    process.stop()
    wait_for(lambda: process.outcome() is not None)
    assert process.outcome() == "stopped" and told == [float(n) for n in range(1, len(told) + 1)]


def test_failed_and_finished_and_other_flags(flags: dict[str, Any], tmp_path: Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    good = Job(tmp_path / "good", flags | {"epochs": 1}, "good")
    bad = Job(tmp_path / "bad", flags | {"epochs": 1, "set": ["loss.bx=1"]}, "bad")
    failed = run_list([bad, good], places(["cpu", "cpu"], 1), "jobs")  # at a time
    assert list(failed) == ["bad"] and "did you mean 'box'" in failed["bad"]
    assert good.is_finished() and not bad.is_finished()
    before = (tmp_path / "good" / "results.csv").stat().st_mtime_ns
    assert run_list([good], [Place(("cpu",))], "jobs") == {}
    assert (tmp_path / "good" / "results.csv").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="was begun with epochs 1, this is 2"):
        run_list([Job(good.folder, flags | {"epochs": 2}, "good")], [Place(("cpu",))], "jobs")
    with pytest.raises(InputError, match="would share a folder"):
        run_list([good, good], [Place(("cpu",))], "jobs")
    (good.folder / "job.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        good.note()


def test_a_folder_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    program = ("import sys; from pathlib import Path; from yolov7.runtime.folders import claimed\n"
               "with claimed(Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "a")], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdin and holder.stdout.readline() == "held\n"
    assert process_in(tmp_path / "a") == str(holder.pid)
    assert Job(tmp_path / "a", {"epochs": 1}).is_elsewhere()
    holder.stdin.close()
    holder.wait(LIMIT)
    assert process_in(tmp_path / "a") == "" and process_in(tmp_path / "b") == ""
    with claimed(tmp_path / "a"):
        pass


def test_places() -> None:
    assert [place.devices for place in places(["0", "1", "2", "3"], 2)] == [("0", "1"), ("2", "3")]
    (two, _) = places(["0", "1", "2", "3"], 2)
    assert two.command({"epochs": 3})[:5] == ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    assert two.environment()["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert places([""], 1)[0].command({"seed": 0, "resume": None}) == ["yolov7", "train", "--seed", "0"]
    assert all(place.threads >= 1 for place in places(["cpu", "cpu"], 1))
    assert "--workers" in places(["cpu", "cpu"], 1)[0].command({})
    with pytest.raises(InputError, match="does not divide the 3 devices"):
        places(["0", "1", "2"], 2)
    with pytest.raises(InputError, match="would share a run"):
        places(["0", "cpu"], 2)
