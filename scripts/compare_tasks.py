"""Masks and key points learned on the built-in data: assignments, and from a detector's weights against from scratch.

yolov7-tiny-seg on the shapes and yolov7-tiny-pose on the stick figures with their own settings, three seeds each:
every candidate is a positive (plain), simOTA, and both from the weights of yolov7-tiny (of-detector), which was trained
on the boxes of the same images: a run of its own, whose time counts as none of the others'. The arms of a task have
equal epochs. A run that takes longer than --budget ends there, as by Ctrl-C, and the table marks its epochs with "!".
AP50 is that of the epoch with the best AP of masks or key points.

Writes ``scripts/results/tasks.json`` (on a GPU ``tasks-gpu.json``), one record a run, after every run, and goes on from
it. Prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from overfit_tasks import task_scores

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.engine.log import read_results
from yolov7.model.spec import read_spec
from yolov7.tasks.base import find_task

RESULTS = Path(__file__).parent / "results"
DETECTOR, DETECTOR_ARM = "yolov7-tiny", "detector"
TASKS = {"seg": ("yolov7-tiny-seg", "shapes"), "pose": ("yolov7-tiny-pose", "stick-figures")}  # model, data
ARMS: dict[str, tuple[str, bool]] = {  # name -> change of the recipe, whether from the detector's weights
    "plain": ("loss.loss_ota=false", False), "simota": ("loss.loss_ota=true", False),
    "plain-of-detector": ("loss.loss_ota=false", True), "simota-of-detector": ("loss.loss_ota=true", True)}
GOALS = {"seg": 0.55, "pose": 0.5}
SEEDS = (0, 1, 2)
BUDGET = 600.0  # seconds


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    arm: str
    seed: int

    @property
    def label(self) -> str:
        """A folder's name, and the key of its record."""
        return f"{self.task}-{self.arm}-{self.seed}"

    @property
    def detector(self) -> Run:
        """The run whose weights it starts from, if it does."""
        return Run(self.task, DETECTOR_ARM, self.seed)


@dataclass(frozen=True)
class Place:
    """Where runs go, and what all of them share."""

    project: Path
    budget: float  # seconds
    epochs: int  # 0: those of the data set's settings
    threads: int  # of a run
    device: str = "cpu"

    @property
    def results(self) -> Path:
        """The file of the records."""
        return RESULTS / ("tasks.json" if self.device == "cpu" else "tasks-gpu.json")


def flags_of(run: Run, place: Place) -> list[str]:
    """The command line of a training."""
    model, data = TASKS[run.task]
    flags = ["train", "--data", data, "--seed", str(run.seed), "--device", place.device, "--workers", "0",
             "--cache", "ram", "--patience", "0", "--project", str(place.project), "--name", run.label, "--exist-ok"]
    if place.epochs:
        flags += ["--epochs", str(place.epochs)]
    if run.arm == DETECTOR_ARM:
        return [*flags, "--cfg", DETECTOR]
    change, from_detector = ARMS[run.arm]
    weights = place.project / run.detector.label / "weights" / "best.pt"
    return [*flags, "--cfg", model, *(["--weights", str(weights)] if from_detector else []), "--set", change]


def measure(run: Run, place: Place) -> dict[str, Any]:
    """Train; the record of the run."""
    torch.set_num_threads(place.threads)
    with log_to(place.project / "logs" / f"{run.label}.log"):
        started, processor = time.perf_counter(), time.process_time()
        with stopped_after(place.budget):
            code = cli.main(flags_of(run, place))
        taken = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    if code not in (0, cli.INTERRUPTED):
        raise RuntimeError(f"{run.label}: exit code {code}; see {place.project / 'logs' / run.label}.log")
    model = DETECTOR if run.arm == DETECTOR_ARM else TASKS[run.task][0]
    terms = tuple(term.name for term in find_task(read_spec(model).head.block).training().terms)
    history = [record.metrics for record in read_results(place.project / run.label / "results.csv", terms)]
    scores = [(row["AP50"], row["AP"]) if run.arm == DETECTOR_ARM else task_scores(row) for row in history]
    best = max(range(len(scores)), key=lambda epoch: scores[epoch][1])
    return {"task": run.task, "arm": run.arm, "seed": run.seed, "epochs": len(history), "best_epoch": best + 1,
            "stopped": code == cli.INTERRUPTED, "AP50": round(scores[best][0], 4), "AP": round(scores[best][1], 4),
            "last_AP50": round(scores[-1][0], 4), "box_AP50": round(history[best]["AP50"], 4),
            "AP50_of_epochs": [round(score[0], 3) for score in scores],
            "budget_seconds": place.budget, "threads": place.threads,
            **{key: round(value, 1) for key, value in taken.items()}}


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """As Ctrl-C after so many seconds."""
    # to the thread that runs: another one would take it without ending what this one waits for
    timer = threading.Timer(seconds, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """What the commands say goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream), \
            contextlib.redirect_stderr(stream):
        yield


class Records:
    """What is measured, in a file that is whole at any moment."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        same = {"epochs": place.epochs}
        if other := {key: found[key] for key in same if found.get(key, same[key]) != same[key]}:
            raise SystemExit(f"{path}: is of other runs ({other}); take the same flags, or another file")
        self.runs: dict[str, dict[str, Any]] = found.get("runs", {})
        gpu = "" if place.device == "cpu" else f", {torch.cuda.get_device_name()}"
        self.content = {"machine": describe_machine() + gpu, **same, "runs": self.runs}

    def add(self, run: Run, record: dict[str, Any]) -> None:
        """Keep a record."""
        self.runs[run.label] = record
        atomic_write(self.path, json.dumps(self.content, indent=1) + "\n")
        stopped = ", stopped by the budget" if record["stopped"] else ""
        say(f"{run.label}: AP50 {record['AP50']:.3f}, AP {record['AP']:.3f}, {record['epochs']} epochs, "
            f"{record['seconds']:.0f} s{stopped}")


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def side_by_side(runs: Iterable[Run], place: Place, keep: Callable[[Run, dict[str, Any]], None], jobs: int) -> None:
    """Each run in one of so many processes, which train one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(measure, run, place): run for run in runs}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def wanted(tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> tuple[list[Run], list[Run]]:
    """What can be trained at once, and what starts from that; seed by seed, so that unfinished tables compare arms."""
    runs = [Run(task, arm, seed) for seed in seeds for task in tasks for arm in arms]
    later = [run for run in runs if ARMS[run.arm][1]]
    detectors = dict.fromkeys(run.detector for run in later)
    return [*detectors, *(run for run in runs if run not in later)], later


def mean_and_range(values: Sequence[float]) -> str:
    """``0.612 (0.598 to 0.631)``."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-"


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The means over the seeds as Markdown."""
    lines = ["| task | arm | seeds | epochs | minutes, at most | AP50 (from to) | AP | last AP50 | box AP50 | goal |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for task in TASKS:
        for arm in (*ARMS, DETECTOR_ARM):
            rows = [row for row in records.values() if (row["task"], row["arm"]) == (task, arm)]
            if not rows:
                continue
            columns = {key: [row[key] for row in rows] for key in ("AP50", "AP", "last_AP50", "box_AP50")}
            epochs = "/".join(sorted({str(row["epochs"]) + "!" * row["stopped"] for row in rows}))
            reached = "reached" if min(columns["AP50"]) >= GOALS[task] else "missed"
            goal = "-" if arm == DETECTOR_ARM else f"{GOALS[task]}, {reached}"
            minutes = max(row["seconds"] for row in rows) / 60
            cells = [task, arm, str(len(rows)), epochs, f"{minutes:.1f}", *map(mean_and_range, columns.values()), goal]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the threads")
    parser.add_argument("--threads", type=int, default=2, help="of all runs together")
    parser.add_argument("--only", nargs="+", choices=tuple(TASKS), default=list(TASKS), help="tasks")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds that a run may take")
    parser.add_argument("--epochs", type=int, default=0, help="of every run; default: the data set's settings")
    parser.add_argument("--device", default="cpu", help="cpu, or the index of a GPU, which all runs share")
    parser.add_argument("--project", type=Path, default=Path("runs/tasks"))
    options = parser.parse_args()
    options.project.mkdir(parents=True, exist_ok=True)
    place = Place(options.project.absolute(), options.budget, options.epochs,
                  max(1, options.threads // max(1, options.jobs)), options.device)
    records = Records(place.results, place)
    for runs in wanted(options.only, options.arms, options.seeds):
        missing = [run for run in runs if run.label not in records.runs]
        side_by_side(missing, place, records.add, options.jobs)
    say(f"\n{table(records.runs)}")


if __name__ == "__main__":
    main()
