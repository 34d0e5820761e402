"""Real processes, started by torchrun: the same training as by one, the end of all when one fails, restarts.

One test, that of a signal, starts everything as a user does; in the others torchrun's agent and its processes are
forked (tests/forks.py).
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Fork, Forks

from yolov7.data.synthetic import generate
from yolov7.engine.restart import after_restart, note_run, own_agent
from yolov7.engine.run_config import TrainOptions

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BASE = ["--cfg", str(Path(__file__).parents[1] / "micro.yaml"), "--img-size", "64", "--batch-size", "4",
        "--nominal-batch", "8", "--device", "cpu", "--workers", "0", "--precision", "fp32"]


def environment_of_processes() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def launch(forks: Forks) -> Launch:
    return lambda *command: forks.run(command, environment_of_processes())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    generate(folder, train=12, val=4)
    return folder


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects in a third of the images only: some processes get none."""
    folder = tmp_path_factory.mktemp("data") / "sparse"
    generate(folder, train=12, val=4)
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    kept = {image["id"] for image in content["images"][:4]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    path.write_text(json.dumps(content))
    return folder


def results(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as stream:
        return list(csv.DictReader(stream))


MODELS = {
    "tiny": (Path(__file__).parents[1] / "micro.yaml").read_text(encoding="utf-8"),
    "auxiliary": "scale_of: yolov7-w6\nname: w6-eighth\nscale: {width: 0.125, hidden_width: 0.125}\n",
}


@pytest.mark.parametrize(("model", "graphs"), [("tiny", False), ("auxiliary", False), ("tiny", True)])
def test_two_processes_train_as_one(sparse: Path, tmp_path: Path, model: str, graphs: bool, launch: Launch) -> None:
    """Also where their steps are recorded; the one alone trains plainly."""
    script = str(Path(__file__).with_name("shared_training.py"))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, launcher in ((alone, [sys.executable]), (shared, TORCHRUN)):
        folder.mkdir()
        (folder / "model.yaml").write_text(MODELS[model])
        done = launch(*launcher, script, str(sparse), str(folder), *(["graphs"] if graphs and folder == shared else []))
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(path, weights_only=True) for path in
                          (alone / "result0.pt", shared / "result0.pt", shared / "result1.pt"))
    epochs = zip(first["objects"], second["objects"], strict=True)
    pairs = [pair for epoch in epochs for pair in zip(*epoch, strict=True)]
    assert len(pairs) == 21
    assert any(min(pair) == 0 < max(pair) for pair in pairs), "no step had a process without objects"
    assert sum(a != b for a, b in pairs) > 10
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=1e-7)
    start = one["model"]
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
        torch.testing.assert_close(value, start[key], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(first["ema"][key], one["ema"][key], rtol=1e-5, atol=1e-5)


def test_a_run_of_two_processes(shapes: Path, tmp_path: Path, launch: Launch) -> None:
    flags = ["--data", str(shapes), "--project", str(tmp_path), *BASE, "--epochs", "2"]
    done = launch(*TORCHRUN, str(ROOT / "train.py"), *flags)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "exp"
    assert [row["epoch"] for row in results(folder)] == ["1", "2"]
    assert done.stdout.count("best epoch") == 1  # the first process talks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exp"]
    best = torch.load(folder / "weights" / "best.pt", weights_only=True)
    assert all(value.isfinite().all() for value in best["model"].values())
    found = []
    for name, launcher in (("alone", [sys.executable]), ("shared", TORCHRUN)):
        weights = str(folder / "weights" / "best.pt")
        test = launch(*launcher, str(ROOT / "test.py"), "--weights", weights, "--name", name,
                      "--project", str(tmp_path / "test"), "--batch-size", "2", "--device", "cpu", "--workers", "0")
        assert test.returncode == 0, test.stderr
        assert test.stdout.count("4 images; written to") == 1
        found.append(json.loads((tmp_path / "test" / name / "results.json").read_text()))
    assert found[0]["stats"] == found[1]["stats"]
    assert found[0]["v7"] == pytest.approx(found[1]["v7"], abs=1e-9)
    row = results(folder)[best["epoch"]]
    assert found[0]["stats"][:2] == pytest.approx([float(row["AP"]), float(row["AP50"])], abs=0.02)  # other batches


FAILING = """
import os, sys
from yolov7 import cli
from yolov7.engine import step
if os.environ["RANK"] == "1":
    backward = step.TrainingStep.backward
    def fail(self, batch, key, images, last):
        if key[2] == 1:
            raise RuntimeError("this process has a fault")
        return backward(self, batch, key, images, last)
    step.TrainingStep.backward = fail
sys.exit(cli.main(sys.argv[1:]))
"""


def test_one_that_fails_ends_all(shapes: Path, tmp_path: Path, launch: Launch) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    started = time.monotonic()
    done = launch(*TORCHRUN, str(script), "train", "--data", str(shapes), "--project", str(tmp_path / "runs"), *BASE,
                  "--epochs", "2")
    assert done.returncode != 0
    assert "process 1: RuntimeError: this process has a fault" in done.stderr
    assert time.monotonic() - started < 120  # nobody waits for a collective that never comes


@pytest.mark.parametrize(("flags", "message"), [
    (["--batch-size", "1"], "--batch-size 1: is shared by 2 processes; accepted: at least 2"),
    (["--sync-bn"], "--sync-bn: found cpu; accepted: several processes on CUDA (torchrun)"),
    (["--data", "gone.yaml"], "--data 'gone.yaml'"),
])
def test_bad_input_is_bad_input_for_all(shapes: Path, tmp_path: Path, launch: Launch, flags: list[str],
                                        message: str) -> None:
    done = launch(*TORCHRUN, str(ROOT / "train.py"), "--data", str(shapes), "--project", str(tmp_path / "runs"), *BASE,
                  *flags)
    assert done.returncode != 0
    assert f"error: {message}" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("restarts", "same_agent", "goes_on"), [("0", True, True), ("1", False, True),
                                                                 ("0", False, False)])
def test_when_a_launch_goes_on(restarts: str, same_agent: bool, goes_on: bool, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """The count of restarts is the machine's own: one that only joined again says 0, as a new launch does."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    options = TrainOptions(project=str(tmp_path))
    assert after_restart(options, [own_agent()]) == options
    folder = tmp_path / "exp"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "last.pt").touch()
    note_run(str(tmp_path), folder, [own_agent(), ("another-1", False)])
    if not same_agent:
        monkeypatch.setattr("os.getppid", lambda: 1)
    assert after_restart(options, [own_agent()]).resume == (str(folder) if goes_on else None)
    assert after_restart(options, [own_agent(), ("another-1", False)]).resume == str(folder)


def test_a_launch_goes_on_as_long_as_one_agent_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine by machine all of them may be replaced, the first one, too."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    options = TrainOptions(project=str(tmp_path))
    folder = tmp_path / "exp"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "last.pt").touch()
    note_run(str(tmp_path), folder, [("a-1", False), ("b-1", False)])
    for agents in (("c-1", "b-1"), ("c-1", "d-1"), ("d-2", "d-1")):
        assert after_restart(options, [(agent, False) for agent in agents]).resume == str(folder)
    assert after_restart(options, [("e-1", False)]).resume is None


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def wait_for(path: Path, process: subprocess.Popen[str] | Fork) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_torchrun_restarts_and_the_run_goes_on(shapes: Path, tmp_path: Path, launch: Launch, forks: Forks) -> None:
    """One of two processes is killed in the second epoch: the restarted ones end as an undisturbed run does."""
    flags = ["--data", str(shapes), *BASE, "--epochs", "4"]
    whole = launch(*TORCHRUN, str(ROOT / "train.py"), "--project", str(tmp_path / "whole"), *flags)
    assert whole.returncode == 0, whole.stderr
    project = tmp_path / "part"
    command = [*TORCHRUN, "--max-restarts", "2", str(ROOT / "train.py"), "--project", str(project), *flags]
    agent = forks.start(command, environment_of_processes())
    wait_for(project / "exp" / "weights" / "last.pt", agent)
    os.kill(children(agent.pid)[-1], signal.SIGKILL)
    assert agent.wait() == 0, agent.stderr
    assert "going on in epoch" in agent.stdout
    assert [row["epoch"] for row in results(project / "exp")] == ["1", "2", "3", "4"]
    assert sorted(path.name for path in project.iterdir()) == ["exp"]
    ours, theirs = (torch.load(tmp_path / name / "exp" / "weights" / "last.pt", weights_only=True)
                    for name in ("whole", "part"))
    for part in ("model", "ema"):
        assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items())


def test_a_signal_to_torchrun_writes_a_checkpoint(shapes: Path, tmp_path: Path, launch: Launch) -> None:
    flags = ["--data", str(shapes), *BASE, "--epochs", "400"]
    agent = subprocess.Popen([*TORCHRUN, str(ROOT / "train.py"), "--project", str(tmp_path), *flags],
                             env=environment_of_processes(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "exp" / "weights" / "last.pt"
    wait_for(last, agent)
    written = last.stat().st_mtime_ns
    time.sleep(1)
    agent.send_signal(signal.SIGTERM)
    _, errors = agent.communicate(timeout=120)
    assert agent.returncode != 0
    assert last.stat().st_mtime_ns > written
    assert re.search(r"go on: \S*python\S* \S*train\.py --resume ", errors)
    place = torch.load(last, weights_only=True)["place"]
    resumed = launch(*TORCHRUN, str(ROOT / "train.py"), "--resume", str(tmp_path / "exp"), "--workers", "0", "--epochs",
                     str(place["epoch"] + 1))
    assert resumed.returncode == 0, resumed.stderr
    assert len(results(tmp_path / "exp")) == place["epoch"] + 1
