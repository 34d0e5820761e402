"""Kills at random moments, a quarter of them between checkpoint and record: nothing of the run is lost.

``YOLOV7_TEST_KILLS=40`` is the whole test, which takes minutes; without it none is made (tests/engine/test_resume.py
kills runs, and tests/engine/test_records.py has what follows).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from forks import Forks
from test_resume import NAMES, Runs, hashes, rows

from yolov7.engine.log import plot_results

KILLS = int(os.environ.get("YOLOV7_TEST_KILLS", "0"))
OF_RECORD = max(1, KILLS // 4)  # between the checkpoint and the record

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not KILLS, reason="takes minutes: YOLOV7_TEST_KILLS=40"),
              pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def test_the_whole_record_is_that_of_an_uninterrupted_run(tmp_path: Path, forks: Forks) -> None:
    runs, rng = Runs(tmp_path, forks), random.Random(1)
    runs.complete("whole", resume=False)
    aims = ["R"] * OF_RECORD + [rng.choice("TEC-") for _ in range(KILLS - OF_RECORD)]
    rng.shuffle(aims)
    places, name, ended = Counter[str](), "killed", 0
    for aim in aims:
        process = runs.begin(name, resume=runs.last(name).exists())
        try:
            place = runs.stop(process, aim, 0.002 if aim == "R" else rng.uniform(0, 0.2), signal.SIGKILL)
        except AssertionError:  # the run was over before it was killed: another one
            ended += 1
            check(runs, name)
            name = f"killed{ended}"
            continue
        places["record" if place == "R" else NAMES[place]] += 1
    assert runs.begin(name, resume=runs.last(name).exists()).wait() in (0, 2)  # 2: it had finished
    check(runs, name)
    sys.stdout.write(f"kills fell into: {dict(places)}, complete runs: {ended + 1}\n")
    assert places["record"] >= OF_RECORD - ended


def check(runs: Runs, name: str) -> None:
    """Weights, record and curves are those of the run that nobody interrupted."""
    whole, killed = runs.folder / "whole", runs.folder / name
    assert hashes(killed) == hashes(whole)
    assert rows(killed) == rows(whole)
    drawn = runs.folder / "drawn"
    drawn.mkdir(exist_ok=True)
    best = int(hashes(whole)["best"].strip("[").split(",")[0]) + 1
    (drawn / killed.name).mkdir(exist_ok=True)
    copy = drawn / killed.name / "results.csv"
    copy.write_bytes((killed / "results.csv").read_bytes())
    plot_results(copy, copy.with_suffix(".png"), best=best)
    assert (killed / "results.png").read_bytes() == copy.with_suffix(".png").read_bytes()
