"""An epoch against its steps: what evaluation, checkpoints and the start of the next epoch add.

Trains a network on built-in shapes with its data from loader processes; "steps" is the time that all batches of an
epoch take, one behind the other, with data that is there already; "training" is the time from the first batch of an
epoch to its last step; "epoch" is that from the end of one epoch to the end of the next. Medians over the epochs but
the first, which starts everything. On a CPU yolov7-tiny at 320 px; on a GPU yolov7 at 640.

With ``--base FOLDER``, a checkout of another commit, both take turns. Writes ``scripts/results/epoch[-gpu].json``; the
last line is the ratio of the epoch to its steps.
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
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

ROOT = Path(__file__).parents[1]


def measure(images: int, epochs: int, batch: int) -> dict[str, float]:
    """Seconds of an epoch, of its training, and of its steps alone."""
    from yolov7.data.synthetic import generate
    from yolov7.engine import run
    from yolov7.engine.run_config import TrainOptions
    from yolov7.runtime.distributed import Processes

    gpu = torch.cuda.is_available()
    device = torch.device("cuda:0" if gpu else "cpu")
    with tempfile.TemporaryDirectory() as name, ExitStack() as held:
        folder = Path(name)
        generate(folder / "data", train=images, val=79)
        options = TrainOptions(data=str(folder / "data"), cfg="yolov7" if gpu else "yolov7-tiny",
                               img_size=(640 if gpu else 320,), batch_size=batch, nominal_batch=batch, epochs=epochs,
                               device=str(device), project=str(folder / "runs"))
        trainer = run.build_trainer(options, device, Processes(), held)
        ends, parts = [], []
        whole, end = trainer.train_epoch, trainer._end_epoch

        def train_epoch() -> dict[str, float]:
            start = time.perf_counter()
            found = whole()
            parts.append(time.perf_counter() - start)
            return found

        def end_epoch(*arguments: Any) -> bool:
            over = end(*arguments)
            ends.append(time.perf_counter())
            return over

        trainer.train_epoch, trainer._end_epoch = train_epoch, end_epoch  # type: ignore[method-assign]
        trainer.fit()
        steps = steps_alone(trainer, device)
        trainer.close()
    times = [later - earlier for earlier, later in zip(ends[:-2], ends[1:-1], strict=True)]  # the last waits for files
    return {"epoch": statistics.median(times), "training": statistics.median(parts[1:-1]), "steps": steps}


def steps_alone(trainer: Any, device: torch.device) -> float:
    """Seconds of an epoch's steps, each with a batch that is there already."""
    trainer.sampler.set_epoch(0)
    batches = [batch for batch in islice(trainer.loader, 8) if len(batch.images) == trainer.config.batch_size]
    trainer.loader.close()
    trainer.state.model.train()

    def step(index: int) -> None:
        batch = batches[index % len(batches)]
        trainer.step.backward(batch, (0, 0, index), len(batch.images), True)
        trainer.step.update()

    for index in range(4):
        step(index)
    count = 24
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for index in range(count):
        step(index)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count * len(trainer.train_set) / trainer.config.batch_size


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--images", type=int, default=2080)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64 if gpu else 16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [str(value) for name in ("images", "epochs", "batch") for value in (f"--{name}", getattr(options, name))]
    if options.once:
        sys.stdout.write(json.dumps(measure(options.images, options.epochs, options.batch)) + "\n")
        return
    trees = {"ours": ROOT, **({"base": options.base.absolute()} if options.base else {})}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(options.rounds):
        for name, tree in trees.items():
            done = subprocess.run([sys.executable, __file__, "--once", *sizes], check=True, capture_output=True,
                                  text=True, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree)
            rows[name].append(json.loads(done.stdout.splitlines()[-1]))
            sys.stdout.write(f"{name}: {rows[name][-1]}\n")
            sys.stdout.flush()
    found = {name: {key: statistics.median(row[key] for row in own) for key in own[0]} for name, own in rows.items()}
    for own in found.values():
        own["ratio"] = own["epoch"] / own["steps"]
    content = {"machine": describe_machine(), "images": options.images, "batch": options.batch, **found}
    from yolov7.config import atomic_write

    file = ROOT / "scripts" / "results" / f"epoch{'-gpu' if gpu else ''}.json"
    atomic_write(file, json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"ratio {found['ours']['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
