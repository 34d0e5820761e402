"""Memory and open files over thousands of training steps: yolov7-tiny at 64 px with loader processes and evaluations.

Writes ``scripts/results/soak.json``; the last line is the ratio of the memory at the end to that after a quarter.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from machine import describe_machine, private_mib
from torch import Tensor

from yolov7.config import atomic_write
from yolov7.data.synthetic import generate
from yolov7.engine import run
from yolov7.engine.run_config import TrainOptions
from yolov7.runtime.distributed import Processes
from yolov7.runtime.memory import used_memory

EVERY = 100  # steps
DEVICE = torch.device("cpu")


def main() -> None:
    """Train and look every hundred steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        generate(data, train=400, val=8)
        train = TrainOptions(data=str(data), img_size=(64,), batch_size=4, nominal_batch=4, workers=2, device="cpu",
                             epochs=-(-options.steps // 100), project=folder)
        trainer = run.build_trainer(train, DEVICE, Processes(), ExitStack())
        update, done = trainer.step.update, 0

        def counted(stop: bool = False) -> Tensor:
            nonlocal done
            flags = update(stop)
            done += 1
            if done % EVERY == 0:
                workers = trainer.loader._iterator._workers if trainer.loader._iterator else []
                rows.append({"step": done, "memory_mib": used_memory(DEVICE) / 2**20,
                             "workers_mib": sum(private_mib(w.pid) for w in workers),
                             "open_files": len(os.listdir("/proc/self/fd"))})
                sys.stdout.write(f"{json.dumps(rows[-1])}\n")
                sys.stdout.flush()
            return flags

        trainer.step.update = counted  # type: ignore[method-assign]
        trainer.fit()
    settled = rows[len(rows) // 4]
    ratio = rows[-1]["memory_mib"] / settled["memory_mib"]
    content = {"machine": describe_machine(), "rows": rows, "ratio": ratio}
    atomic_write(Path(__file__).parent / "results" / "soak.json", json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"open files {settled['open_files']} -> {rows[-1]['open_files']}\nratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
