"""BCCD from scratch as the README shows it, for several seeds: best epoch of each, and the mean.

Writes ``scripts/results/bccd.json``, or ``bccd_<precision>.json``. The data set is expected where ``data/bccd.yaml``
looks for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from machine import describe_machine

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.data.catalog import open_data, open_split
from yolov7.data.loader import evaluation_loader
from yolov7.engine.log import read_results
from yolov7.evaluation.evaluate import PROTOCOL, evaluate
from yolov7.evaluation.v7_metric import V7Metric
from yolov7.inference.network import TorchNetwork
from yolov7.model.weights import load_model

NMS_IOUS = (0.65, 0.6)  # of the paper's protocol, and of the original's evaluation during training
RESULTS = Path(__file__).parent / "results"
FLAGS = ["--cfg", "yolov7-tiny", "--weights", "", "--data", "bccd.yaml", "--hyp", "data/hyp.scratch.tiny.yaml",
         "--img-size", "320", "--batch-size", "16", "--nominal-batch", "16", "--device", "cpu"]


def run(seed: int, project: Path, more: list[str]) -> dict[str, float]:
    """Train with one seed, or read a finished run; the best epoch by the run's own fitness."""
    folder = project / f"bccd{seed}"
    if not (folder / "results.png").exists():
        where = ["--project", str(project), "--name", folder.name, "--exist-ok"]
        if code := cli.main(["train", *FLAGS, *more, "--seed", str(seed), *where]):
            sys.exit(code)
    best = folder / "weights" / "best.pt"
    records = read_results(folder / "results.csv")
    chosen = max(records, key=lambda record: 0.9 * record.metrics.get("AP", 0) + 0.1 * record.metrics.get("AP50", 0))
    seconds = statistics.median(record.seconds for record in records)
    return {"seed": seed, "epoch": chosen.epoch, "epoch_seconds": seconds, **score(best)}


def score(best: Path) -> dict[str, float]:
    """The weights on both splits by both metrics, and how far bfloat16 is from float32 on the same weights."""
    loaded = load_model(best)
    network, half = (TorchNetwork(loaded.model, torch.device("cpu"), precision) for precision in ("fp32", "bf16"))
    found: dict[str, float] = {}
    for split in ("val", "test"):
        image_set = open_split(open_data("bccd.yaml"), split)
        loader = evaluation_loader(image_set, loaded.image_size, 32, network.stride, 2)
        official = evaluate(network, loader, image_set).boxes
        found |= {f"{split}_AP": official.AP, f"{split}_AP50": official.AP50}
        for iou in NMS_IOUS:
            own = evaluate(network, loader, image_set, replace(PROTOCOL, iou=iou), [V7Metric()]).results["v7"].metrics()
            found |= {f"{split}_v7_{iou}_{name}": own[name] for name in ("AP", "AP50")}
        found[f"{split}_AP_bf16_minus_fp32"] = evaluate(half, loader, image_set).boxes.AP - official.AP
    return found


def main() -> None:
    """Run the seeds one after the other and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--project", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    suffix = "" if options.precision == "auto" and options.epochs == 60 else f"_{options.precision}_{options.epochs}"
    more = ["--precision", options.precision, "--epochs", str(options.epochs)]
    rows = [run(seed, options.project.with_name(options.project.name + suffix), more) for seed in options.seeds]
    mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key not in ("seed", "epoch")}
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe_machine(), "flags": [*FLAGS, *more], "runs": rows, "mean": mean}
    atomic_write(RESULTS / f"bccd{suffix}.json", json.dumps(content, indent=1) + "\n")
    sys.stdout.write(json.dumps(content["runs"], indent=1) + f"\nmean {mean}\n")


if __name__ == "__main__":
    main()
