"""Fine-tuning on few images at equal time: the rule of `yolov7.engine.finetuning` beside fixed recipes.

yolov7-tiny from weights of the built-in shapes, to 30, 60, 120 and 205 training images of blood cells (BCCD) at 256 px.
Of every seed a permutation of the training images is drawn, whose first N are the subset: nested within a seed,
independent between seeds. What an epoch of each arm costs (with its evaluation) is measured once, as processor time of
one thread; every arm gets the number of epochs that fits the budget, and its schedule ends with them. The best epoch is
chosen on the first images of `val`; it is scored on the whole `test`.

Writes ``scripts/results/finetuning.json`` after every run, and goes on from it. Prints the table; the last line is
``ratio <AP of the rule / AP of the default>``, the mean over the subset sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from machine import describe_machine

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.config.options import TestOptions
from yolov7.data.catalog import open_data, open_split
from yolov7.engine.log import read_results
from yolov7.engine.testing import test

RESULTS = Path(__file__).parent / "results" / "finetuning.json"
SUBSETS = (30, 60, 120, 205)
SEEDS = (0, 1, 2, 3, 4)
SIDE, VAL_IMAGES = 256, 30
CALIBRATED = (30, 120)  # an epoch of other subsets costs what the straight line through these says
DEFAULT, RULE = "default until now", "the rule"
FINETUNE = ["--hyp", "custom", "--set", "loss.cls=0.5", "loss.obj=1.0"]  # the recipe finetune until now
STEPS = ["--batch-size", "16", "--nominal-batch", "16", "--patience", "0"]
ARMS: dict[str, list[str]] = {  # name -> flags
    DEFAULT: ["--hyp", "tiny", "--batch-size", "16", "--nominal-batch", "64", "--patience", "0"],
    "custom": ["--hyp", "custom", "--batch-size", "16", "--nominal-batch", "64", "--patience", "0"],
    "finetune until now": [*STEPS, *FINETUNE],
    "finetune until now, frozen backbone": [*STEPS, *FINETUNE, "--freeze", "9"],
    RULE: [],
}
AS_GIVEN: dict[str, list[str]] = {  # neither size nor epochs are those of the comparison
    "default until now, as given, stopped": [*ARMS[DEFAULT], "--img-size", "640", "--epochs", "300"],
}
AS_GIVEN_SUBSET, AS_GIVEN_SEEDS = 60, (0,)


@dataclass(frozen=True)
class Run:
    """One training, of ``epochs`` epochs; of 0: of as many as its flags say."""

    arm: str
    images: int
    seed: int
    epochs: int
    flags: tuple[str, ...]

    @property
    def label(self) -> str:
        """A folder's name."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.arm).split()
        return f"{'_'.join(words)}-{self.images}-{self.seed}-{self.epochs}"


@dataclass(frozen=True)
class Place:
    """Where runs go, what they start from, and how long they may take."""

    project: Path
    weights: str
    budget: float  # seconds of one thread


def subset(images: int, seed: int, project: Path) -> str:
    """The data-set file of a subset: so many training images, the first of ``val``, and the whole ``test``."""
    path = project / "data" / f"cells{images}-{seed}.yaml"
    if path.exists():
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = open_data("bccd.yaml")
    description: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        part = open_split(source, name)
        order = np.random.default_rng(seed).permutation(len(part))[:images] if name == "train" else range(len(part))
        chosen = {part.image_ids[index] for index in order[: VAL_IMAGES if name == "val" else None]}
        truth = part.ground_truth()
        files = dict(zip(part.image_ids, part.paths, strict=True))
        content = {"categories": truth["categories"],
                   "images": [{**image, "file_name": str(Path(files[image["id"]]).absolute())}
                              for image in truth["images"] if image["id"] in chosen],
                   "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen]}
        annotations = path.with_name(f"{path.stem}-{name}.json").absolute()
        atomic_write(annotations, json.dumps(content))
        description[name] = {"images": str(Path(part.paths[0]).absolute().parent), "annotations": str(annotations)}
    atomic_write(path, yaml.safe_dump(description))
    return str(path)


def flags_of(run: Run, place: Place) -> list[str]:
    """The command line of a training."""
    common = ["train", "--weights", place.weights, "--data", subset(run.images, run.seed, place.project), "--device",
              "cpu", "--workers", "0", "--cache", "ram", "--seed", str(run.seed), "--project", str(place.project),
              "--name", run.label, "--exist-ok"]
    equal = ["--img-size", str(SIDE), "--epochs", str(run.epochs)] if run.epochs else []
    return [*common, *equal, *run.flags]


def measure(run: Run, place: Place) -> dict[str, Any]:
    """Train and score: a row of the table."""
    with log_to(place.project / "logs" / f"{run.label}.log"):
        started, processor = time.perf_counter(), time.process_time()
        with stopped_after(place.budget if run.arm.endswith("stopped") else 0):
            code = cli.main(flags_of(run, place))
        taken = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
        if code not in (0, cli.INTERRUPTED):
            raise RuntimeError(f"{run.label}: exit code {code}")
        best = place.project / run.label / "weights" / "best.pt"
        boxes = test(TestOptions(weights=(str(best),), data=subset(run.images, run.seed, place.project), task="test",
                                 device="cpu", workers=0, project=str(place.project / "tests"), name=run.label,
                                 exist_ok=True)).evaluation.boxes
    epochs = len(read_results(place.project / run.label / "results.csv"))
    return {"arm": run.arm, "images": run.images, "seed": run.seed, "epochs": epochs, "AP": round(boxes.AP, 4),
            "AP50": round(boxes.AP50, 4), **{key: round(value, 1) for key, value in taken.items()}}


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """As Ctrl-C after so many seconds of this process; 0: never."""
    signal.signal(signal.SIGPROF, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """What the commands say goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream), \
            contextlib.redirect_stderr(stream):
        yield


def processor_seconds(run: Run, place: Place) -> float:
    """Of a training without its score."""
    with log_to(place.project / "logs" / f"{run.label}.log"):
        started = time.process_time()
        if code := cli.main(flags_of(run, place)):
            raise RuntimeError(f"{run.label}: exit code {code}")
        return time.process_time() - started


def epoch_cost(run: Run, place: Place) -> dict[str, Any]:
    """Seconds of an epoch: of a run of three epochs, those behind the first."""
    warm_up(place)
    short, longer = (processor_seconds(dataclasses.replace(run, epochs=epochs), place) for epochs in (1, 3))
    return {"arm": run.arm, "images": run.images, "cost": (longer - short) / 2}


@functools.cache
def warm_up(place: Place) -> None:
    """What the first training of a process makes stays."""
    processor_seconds(Run(f"warm-up {os.getpid()}", SUBSETS[0], 0, 1, tuple(ARMS[DEFAULT])), place)


def one_thread() -> None:
    """Start of a process: runs side by side share the cores."""
    torch.set_num_threads(1)


class Table:
    """What is measured, in a file that is whole at any moment."""

    def __init__(self, path: Path, arms: dict[str, list[str]], budget: float) -> None:
        self.path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if found.get("budget_seconds", budget) != budget:
            raise SystemExit(f"{path} is of --budget {found['budget_seconds']:g}")
        same = {arm for arm, flags in arms.items() if found.get("arms", {}).get(arm) == flags}
        self.content = {
            "machine": describe_machine(), "side": SIDE, "val_images": VAL_IMAGES, "budget_seconds": budget,
            "arms": arms,
            "epoch_seconds": {arm: costs for arm, costs in found.get("epoch_seconds", {}).items() if arm in same},
            "runs": [row for row in found.get("runs", []) if row["arm"] in same]}

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Rows of `measure`."""
        found: list[dict[str, Any]] = self.content["runs"]
        return found

    def has(self, arm: str, images: int, seed: int) -> bool:
        """Whether that run is done."""
        return any((row["arm"], row["images"], row["seed"]) == (arm, images, seed) for row in self.runs)

    def add_run(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.runs.append(row)
        self.runs.sort(key=lambda row: (list(self.content["arms"]).index(row["arm"]), row["images"], row["seed"]))
        self._write(f"{row['arm']}, {row['images']} images, seed {row['seed']}: AP {row['AP']:.3f}, "
                    f"{row['processor_seconds']:.0f} s")

    def add_cost(self, row: dict[str, Any]) -> None:
        """Keep what an epoch costs."""
        self.content["epoch_seconds"].setdefault(row["arm"], {})[str(row["images"])] = round(row["cost"], 3)
        self._write(f"{row['arm']}, {row['images']} images: {row['cost']:.2f} s an epoch")

    def epochs(self, arm: str, images: int) -> int:
        """How many fit the budget."""
        costs = self.content["epoch_seconds"][arm]
        slope, fixed = np.polyfit(CALIBRATED, [costs[str(number)] for number in CALIBRATED], 1)
        cost = fixed + slope * images
        return max(int(self.content["budget_seconds"] / cost), 1)

    def _write(self, said: str) -> None:
        atomic_write(self.path, json.dumps(self.content, indent=1) + "\n")
        say(said)


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def side_by_side(work: Callable[[Run, Place], dict[str, Any]], runs: Iterable[Run], place: Place,
                 keep: Callable[[dict[str, Any]], None], processes: int) -> None:
    """Each run in one of so many processes, which train one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=one_thread) as pool:
        futures = [pool.submit(work, run, place) for run in runs]
        try:
            for future in as_completed(futures):
                keep(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def missing_costs(table: Table) -> list[Run]:
    """What is to be measured before the number of epochs is known."""
    known = table.content["epoch_seconds"]
    return [Run(arm, images, 0, 1, tuple(flags)) for arm, flags in table.content["arms"].items() if arm not in AS_GIVEN
            for images in CALIBRATED if str(images) not in known.get(arm, {})]


def missing_runs(table: Table, seeds: Iterable[int], subsets: Iterable[int]) -> list[Run]:
    """Seed by seed, so that a table that is not complete compares all arms; the long ones last."""
    runs = []
    for seed in seeds:
        for images in subsets:
            for arm, flags in table.content["arms"].items():
                left_out = arm in AS_GIVEN and (images != AS_GIVEN_SUBSET or seed not in AS_GIVEN_SEEDS)
                if not left_out and not table.has(arm, images, seed):
                    epochs = 0 if arm in AS_GIVEN else table.epochs(arm, images)
                    runs.append(Run(arm, images, seed, epochs, tuple(flags)))
    return sorted(runs, key=lambda run: run.arm in AS_GIVEN)


def scores(table: Table, arm: str, images: int, metric: str = "AP") -> dict[int, float]:
    """Of the runs of an arm, by seed."""
    return {row["seed"]: row[metric] for row in table.runs if (row["arm"], row["images"]) == (arm, images)}


def cell(table: Table, arm: str, images: int) -> str:
    """``0.123 (0.234), +0.050 +- 0.010``: AP, AP50, and the paired difference of AP to the default over the seeds."""
    own, base = scores(table, arm, images), scores(table, DEFAULT, images)
    if not own:
        return "-"
    text = f"{statistics.mean(own.values()):.3f} ({statistics.mean(scores(table, arm, images, 'AP50').values()):.3f})"
    pairs = [own[seed] - base[seed] for seed in own if seed in base]
    if arm == DEFAULT or len(pairs) < 2:  # noqa: PLR2004  # a deviation needs two
        return text
    return f"{text}, {statistics.mean(pairs):+.3f} ± {statistics.stdev(pairs):.3f}"


def ratio(table: Table) -> float:
    """AP of the rule over AP of the default: the mean over the subsets of the ratio of the means."""
    pairs = [[scores(table, arm, images) for arm in (RULE, DEFAULT)] for images in SUBSETS]
    means = [[statistics.mean(found.values()) for found in pair] for pair in pairs if all(pair)]
    return statistics.mean(own / max(base, 1e-9) for own, base in means)


def report(table: Table) -> None:
    """The table as Markdown, then the ratio."""
    say("\n| arm | " + " | ".join(f"{images} images" for images in SUBSETS) + " |\n|" + "---|" * (len(SUBSETS) + 1))
    for arm in table.content["arms"]:
        say(f"| {arm} | " + " | ".join(cell(table, arm, images) for images in SUBSETS) + " |")
    say(f"ratio {ratio(table):.2f}")


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="best.pt of a run on the built-in shapes (python train.py)")
    parser.add_argument("--project", type=Path, default=Path("runs/finetuning"))
    parser.add_argument("--budget", type=float, default=40, help="seconds of one thread for the epochs of a run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--subsets", type=int, nargs="+", default=list(SUBSETS))
    options = parser.parse_args()
    options.project.mkdir(parents=True, exist_ok=True)
    place = Place(options.project.absolute(), str(Path(options.weights).absolute()), options.budget)
    table = Table(RESULTS, ARMS | AS_GIVEN, options.budget)
    for images in options.subsets:  # here, so that no two processes write the same file
        for seed in options.seeds:
            subset(images, seed, place.project)
    side_by_side(epoch_cost, missing_costs(table), place, table.add_cost, options.processes)
    side_by_side(measure, missing_runs(table, options.seeds, options.subsets), place, table.add_run, options.processes)
    report(table)


if __name__ == "__main__":
    main()
