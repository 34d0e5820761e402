"""Is a tuned recipe better than the one it began from? BCCD, yolov7-tiny from scratch at 320 px, scored on `test`.

A study of a stated budget searches on `val` (`yolov7 tune`, the shipped search space). Then the recipe that it began
from and the best one are trained with seeds that the study has not seen, and each training's best weights are scored on
the images of `test`. Goes on where it was stopped. Writes ``scripts/results/tuned.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml
from machine import describe_machine

import yolov7
from yolov7.config import atomic_write
from yolov7.experiments.jobs import run_list
from yolov7.experiments.processes import Job, Place

FLAGS: dict[str, Any] = {"cfg": "yolov7-tiny", "data": "bccd", "img_size": [320], "batch_size": 16, "nominal_batch": 16}
RESULT = Path(__file__).parent / "results" / "tuned.json"


def score(weights: Path, project: Path) -> dict[str, float]:
    """AP and AP50 on the test split."""
    found = yolov7.test(weights=weights, data="bccd", task="test", device="cpu", precision="fp32", project=project,
                        name=f"test_{weights.parents[1].name}", exist_ok=True).metrics
    return {"AP": found["AP"], "AP50": found["AP50"]}


def main() -> None:
    """Search, train again, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104, 105])
    parser.add_argument("--project", type=Path, default=Path("runs/tuned"))
    options = parser.parse_args()
    study = yolov7.tune(**FLAGS, hyp="tiny", epochs=options.epochs, trials=options.trials, project=options.project,
                        study="study")
    recipes = {"given": study.folder / "base.yaml", "tuned": study.recipe}
    jobs = [Job(options.project / f"{name}_seed{seed}", {**FLAGS, "hyp": str(path), "epochs": options.epochs,
                                                         "seed": seed, "patience": 0, "log": ["none"]},
                f"{name}, seed {seed}") for seed in options.seeds for name, path in recipes.items()]
    if failed := run_list(jobs, [Place(("cpu",))], "training again"):
        sys.exit(f"failed: {failed}")
    scores = {name: [score(options.project / f"{name}_seed{seed}" / "weights" / "best.pt", options.project)
                     for seed in options.seeds] for name in recipes}
    paired = [tuned["AP"] - given["AP"] for given, tuned in zip(scores["given"], scores["tuned"], strict=True)]
    states = [row["state"] for row in study.rows]
    content = {
        "machine": describe_machine(), "flags": FLAGS, "epochs": options.epochs, "seeds": options.seeds,
        "study": {"trials": len(states), "finished": states.count("complete"), "pruned": states.count("pruned"),
                  "failed": states.count("failed"), "epochs trained": sum(row["epochs"] for row in study.rows),
                  "best trial": study.best, "importance": dict(study.importance)},
        "recipe": yaml.safe_load(study.recipe.read_text(encoding="utf-8")), "test": scores,
        "mean AP": {name: statistics.mean(row["AP"] for row in rows) for name, rows in scores.items()},
        "deviation": {name: statistics.stdev(row["AP"] for row in rows) for name, rows in scores.items()},
        "tuned minus given": {"mean": statistics.mean(paired), "deviation": statistics.stdev(paired), "each": paired}}
    atomic_write(RESULT, json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps({key: content[key] for key in ('mean AP', 'deviation', 'tuned minus given')})}\n")


if __name__ == "__main__":
    main()
