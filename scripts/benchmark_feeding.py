"""Samples a second of the training loader, beside another commit: cold, cached, and from tar files.

    python scripts/benchmark_feeding.py --base FOLDER [--rounds 5] [--data FOLDER_IN_COCO_LAYOUT] [--workers 2]

p5 recipe, 640 px, batches of 16. Every round starts a process of each state, in turn, which warms up for an epoch and
then takes some; "tars" are the same images as tar files (`yolov7 data shard`), which the base may not know. Writes
``scripts/results/feeding.json``; the last line is the ratio of the cold rates, the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "coco-mini"
KINDS = ("cold", "cached", "tars")


def rate(data: str, cached: bool, workers: int, images: int) -> float:
    """Images a second, in a process of one state."""
    from yolov7.config.recipe import read_recipe
    from yolov7.data.catalog import open_data, open_split
    from yolov7.data.dataset import TrainingDataset
    from yolov7.data.loader import EpochSampler, training_loader

    image_set = open_split(open_data(data), "train")
    dataset = TrainingDataset(image_set, 640, read_recipe("p5").augment, cache="ram" if cached else "off")
    sampler = EpochSampler(len(dataset), 16, 0)
    loader = training_loader(dataset, sampler, workers)
    taken, epoch, start = 0, 0, 0.0
    while taken < images:
        sampler.set_epoch(epoch)
        for batch in loader:
            taken += len(batch.images) if epoch else 0
        start = start or time.perf_counter()  # behind the first epoch, which starts the workers
        epoch += 1
    return taken / (time.perf_counter() - start)


def once(tree: Path, kind: str, data: str, options: argparse.Namespace) -> float:
    """The rate of a state by a process that imports the package of ``tree``."""
    command = [sys.executable, __file__, "--once", kind, "--data", data, "--workers", str(options.workers), "--images",
               str(options.images)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(tree), "YOLOV7_CACHE_DIR": folder}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}, {kind}: {done.stderr}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--data", type=str, default=str(DEFAULT_DATA))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--once", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        sys.stdout.write(f"{rate(options.data, options.once == 'cached', options.workers, options.images)}\n")
        return
    from machine import describe_machine

    from yolov7.config import atomic_write

    base = options.base and options.base.absolute()
    rates: dict[str, dict[str, list[float]]] = {kind: {"base": [], "ours": []} for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        tars = str(Path(folder) / "tars")
        subprocess.run([sys.executable, "-m", "yolov7", "data", "shard", "--data", options.data, "--output", tars,
                        "--splits", "train"], cwd=ROOT, check=True, capture_output=True)
        for _ in range(options.rounds):
            for kind in KINDS:
                data = tars if kind == "tars" else options.data
                if base and kind != "tars":
                    rates[kind]["base"].append(once(base, kind, data, options))
                rates[kind]["ours"].append(once(ROOT, kind, data, options))
    rows: list[dict[str, Any]] = []
    for kind, found in rates.items():
        row: dict[str, Any] = {"kind": kind, **{name: statistics.median(own) for name, own in found.items() if own}}
        if found["base"]:
            row["ratio"] = statistics.median(a / b for a, b in zip(found["ours"], found["base"], strict=True))
        rows.append(row)
        sys.stdout.write(f"{row}\n")
    of_files = statistics.median(a / b for a, b in zip(rates["tars"]["ours"], rates["cold"]["ours"], strict=True))
    sys.stdout.write(f"tar files over single files: {of_files:.2f}\n")
    content = {"machine": describe_machine(), "workers": options.workers, "rows": rows, "tars_over_files": of_files}
    atomic_write(ROOT / "scripts" / "results" / "feeding.json", json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"ratio {rows[0].get('ratio', of_files):.2f}\n")


if __name__ == "__main__":
    main()
