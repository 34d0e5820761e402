"""What ``--class-weights auto`` and ``yolov7 average`` bring: BCCD, yolov7-tiny from scratch at 320 px, on `test`.

Red cells are ten times as many as white ones or platelets. Each seed trains with and without weights of the classes,
and keeps its last epochs; the best epoch (by `val`) and the mean of the last ones are scored on the images of `test`.
Goes on where it was stopped. Writes ``scripts/results/research_flags.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from machine import describe_machine

import yolov7
from yolov7.config import atomic_write
from yolov7.experiments.jobs import run_list
from yolov7.experiments.processes import Job, Place

FLAGS: dict[str, Any] = {"cfg": "yolov7-tiny", "data": "bccd", "hyp": "tiny", "img_size": [320], "batch_size": 16,
                         "nominal_batch": 16, "patience": 0, "log": ["none"]}
WAYS: dict[str, dict[str, Any]] = {"recipe": {}, "auto": {"class_weights": "auto"}}
RESULT = Path(__file__).parent / "results" / "research_flags.json"


def score(weights: Path, folder: Path) -> dict[str, float]:
    """AP, and that of each class, on the test split."""
    found = yolov7.test(weights=weights, data="bccd", task="test", device="cpu", precision="fp32", project=folder,
                        name=f"test_{weights.stem}", exist_ok=True)
    return {"AP": found.metrics["AP"], **{name: row["AP"] for name, row in found.classes.items()}}


def main() -> None:
    """Train, average, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--keep", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--project", type=Path, default=Path("runs/research"))
    options = parser.parse_args()
    jobs = {(way, seed): Job(options.project / f"{way}_seed{seed}",
                             {**FLAGS, **flags, "epochs": options.epochs, "keep": options.keep, "seed": seed},
                             f"{way}, seed {seed}") for seed in options.seeds for way, flags in WAYS.items()}
    if failed := run_list(list(jobs.values()), [Place(("cpu",))], "trainings"):
        sys.exit(f"failed: {failed}")
    rows: dict[str, list[dict[str, float]]] = {}
    for (way, _), job in jobs.items():
        mean = yolov7.average(runs=[job.folder]).output
        rows.setdefault(f"{way}, best epoch", []).append(score(job.folder / "weights" / "best.pt", job.folder))
        rows.setdefault(f"{way}, mean of the last {options.keep}", []).append(score(mean, job.folder))
    means = {name: {key: statistics.mean(row[key] for row in found) for key in found[0]}
             | {"deviation of AP": statistics.stdev(row["AP"] for row in found)} for name, found in rows.items()}
    content = {"machine": describe_machine(), "flags": FLAGS, "epochs": options.epochs, "seeds": options.seeds,
               "test": rows, "mean": means}
    atomic_write(RESULT, json.dumps(content, indent=1) + "\n")
    sys.stdout.write(json.dumps(means, indent=1) + "\n")


if __name__ == "__main__":
    main()
