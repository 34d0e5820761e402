"""The comparison of tasks: what is run, what is kept, and what the table says."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from script_module import SCRIPTS, load_script

from yolov7 import cli
from yolov7.engine.run_config import TrainOptions

TERMS = "box,objectness,classification"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return load_script("compare_tasks")


@pytest.fixture
def place(script: ModuleType, tmp_path: Path) -> Any:
    return script.Place(tmp_path, 60.0, 0, 1)


def record(task: str, arm: str, seed: int, **values: Any) -> dict[str, Any]:
    return {"task": task, "arm": arm, "seed": seed, "epochs": 3, "stopped": False, "AP50": 0.6, "AP": 0.3,
            "last_AP50": 0.5, "box_AP50": 0.7, "seconds": 60.0, **values}


def test_detectors_come_first_and_once(script: ModuleType) -> None:
    first, later = script.wanted(["seg", "pose"], list(script.ARMS), [0, 1])
    assert [run.label for run in first[:4]] == ["seg-detector-0", "pose-detector-0", "seg-detector-1",
                                                "pose-detector-1"]
    assert {run.arm for run in first[4:]} == {"plain", "simota"} and {run.seed for run in first[4:8]} == {0}
    assert len(first) == 12 and len(later) == 8 and {run.detector for run in later} == {*first[:4]}
    assert [run.arm for run in script.wanted(["seg"], ["plain", "simota"], [0])[0]] == ["plain", "simota"]


def test_flags_are_those_of_train(script: ModuleType, place: Any) -> None:
    flags = script.flags_of(script.Run("pose", "simota-of-detector", 2), place)
    assert flags[flags.index("--weights") + 1] == str(place.project / "pose-detector-2" / "weights" / "best.pt")
    assert flags[-2:] == ["--set", "loss.loss_ota=true"]
    known = {f"--{name.replace('_', '-')}" for name in TrainOptions.__dataclass_fields__}
    assert {flag for flag in flags if flag.startswith("--")} <= known
    assert "--epochs" not in flags and "--set" not in script.flags_of(script.Run("seg", "detector", 0), place)


def test_a_run_becomes_a_record(script: ModuleType, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(flags: list[str]) -> int:
        folder = place.project / flags[flags.index("--name") + 1]
        folder.mkdir()
        (folder / "results.csv").write_text(
            f"epoch,{TERMS},AP,AP50,mask_AP,mask_AP50,lr,seconds,skipped\n"
            "1,1,1,1,0.2,0.4,0.1,0.3,0.01,5,0\n2,1,1,1,0.3,0.6,0.4,0.7,0.01,5,0\n3,1,1,1,0.3,0.5,0.2,0.5,0.01,5,0\n")
        return 0

    monkeypatch.setattr(cli, "main", train)
    monkeypatch.setitem(script.TASKS, "seg", ("yolov7-tiny", "shapes"))  # whose head has just these terms
    found = script.measure(script.Run("seg", "plain", 1), place)
    assert (found["AP50"], found["AP"], found["last_AP50"], found["box_AP50"]) == (0.7, 0.4, 0.5, 0.6)
    assert (found["epochs"], found["best_epoch"], found["stopped"]) == (3, 2, False)


def test_the_budget_is_as_ctrl_c(script: ModuleType) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background without
    try:
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt), script.stopped_after(0.2):
            signal.sigtimedwait([], 30)
        assert time.perf_counter() - started < 20
        with script.stopped_after(0.2):
            pass
        time.sleep(0.4)  # nothing comes afterwards
    finally:
        signal.signal(signal.SIGINT, before)


def test_records_are_whole_and_gone_on_from(script: ModuleType, place: Any, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    run = script.Run("seg", "plain", 0)
    script.Records(path, place).add(run, record("seg", "plain", 0))
    assert json.loads(path.read_text())["runs"][run.label]["AP50"] == 0.6
    assert run.label in script.Records(path, place).runs
    with pytest.raises(SystemExit, match="other runs"):
        script.Records(path, script.Place(tmp_path, 60.0, 5, 1))


def test_the_table_says_what_was_reached(script: ModuleType) -> None:
    rows = [record("seg", "plain", 0), record("seg", "plain", 1, AP50=0.5, stopped=True, epochs=2),
            record("pose", "simota", 0), record("pose", "detector", 0)]
    lines = script.table({str(number): row for number, row in enumerate(rows)}).splitlines()[2:]
    assert lines[0].startswith("| seg | plain | 2 | 2!/3 | 1.0 | 0.550 (0.500 to 0.600) |")
    assert [line.split(" | ")[-1] for line in lines] == ["0.55, missed |", "0.5, reached |", "- |"]
