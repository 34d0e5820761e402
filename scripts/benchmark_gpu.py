"""Everything that is measured on a GPU, in the order of its value; goes on where it was cut off.

Parts run one after the other, each in a process of its own, until ``--minutes`` are over; a part that was cut off goes
on the next time, one that failed runs twice at most. What is done stands in ``scripts/results/gpu-progress.json``, with
the device: on another one everything begins anew. Results are written as soon as they are there:

tests      ``pytest -m gpu`` and the kernels of norms, 4 processes
train-32   training steps of yolov7, 640 px, batch 32: plain loop, ours, fused norms, graphs, both -> train-gpu.json
inference  yolov7, batches 1 and 32, with and without --fast; end to end from a decoded image -> infer-gpu.json
train-64, train-128   larger batches
bounded    yolov7-tiny at 640 px, yolov7-w6 at 1280 px: host against device
profile    where the time of the best step goes, by kind of kernel -> profile-gpu.json
augment    ``benchmark_augment.py``: images that the device decodes and augments -> augment.json
compile    ``benchmark_compile.py``
loss       ``benchmark_loss.py``

The last line is the ratio of the main comparison: the best images a second of yolov7 over those of the plain loop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yolov7.config import atomic_write

SCRIPTS = Path(__file__).parent
RESULTS = SCRIPTS / "results"
TRIES = 2
WORTH = 60.0  # seconds
ROWS = str(SCRIPTS / "gpu_parts.py")  # whose parts go on row by row
TESTS = ["-m", "pytest", "-q", "-n", "4", "--no-cov", "--durations", "8"]

# a command behind the interpreter, and the seconds that it may take
PARTS: dict[str, tuple[list[str], int]] = {
    "tests": ([*TESTS, "-m", "gpu", "tests/runtime/test_norm_kernels.py", "tests/engine/test_gpu.py",
               "tests/engine/test_gpu_lockstep.py", "tests/inference/test_graphed.py", "tests/inference/test_nms.py",
               "tests/inference/test_mask_assembly.py", "tests/loss", "tests/data/test_loader.py",
               "tests/data/test_device_letterbox.py", "tests/data/test_device_augment.py"], 240),
    "train-32": ([ROWS, "train", "32"], 240),
    "inference": ([ROWS, "inference"], 120),
    "train-64": ([ROWS, "train", "64"], 240),
    "bounded": ([ROWS, "bounded"], 150),
    "profile": ([ROWS, "profile"], 90),
    "augment": ([str(SCRIPTS / "benchmark_augment.py"), "--samples", "60"], 180),
    "compile": ([str(SCRIPTS / "benchmark_compile.py"), "--forms", "plain", "norms"], 240),
    "train-128": ([ROWS, "train", "128"], 240),
    "loss": ([str(SCRIPTS / "benchmark_loss.py"), "--repeats", "5"], 240),
}


def device_name() -> str:
    """What results belong to."""
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def read_progress(path: Path, device: str) -> dict[str, Any]:
    """What is done on this device: ``{"device": ..., "parts": {name: {"tries", "done", "seconds"}}}``."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if content.get("device") == device else {"device": device, "parts": {}}


def next_part(progress: dict[str, Any], names: list[str], left: float) -> str | None:
    """The first part that is not done, was not tried too often and fits into the seconds that are left."""
    for name in names:
        found = progress["parts"].get(name, {"tries": 0, "done": False})
        if not found["done"] and found["tries"] < TRIES and _needs(name, found) <= left:
            return name
    return None


def _needs(name: str, found: dict[str, Any]) -> float:
    """Seconds: a part of many rows is worth a minute, any other all that it may take."""
    command, limit = PARTS[name]
    return min(limit, WORTH) if ROWS in command else limit


def run_part(name: str, left: float, resume: bool = False) -> tuple[bool, float]:
    """Whether the part has ended well, and the seconds it took; its output is passed on.

    To ``resume`` is to leave out the rows that a part has written before it was cut off.
    """
    command, limit = PARTS[name]
    command = [*command, "--resume"] if resume and ROWS in command else command
    start = time.monotonic()
    sys.stdout.write(f"--- {name}\n")
    sys.stdout.flush()
    try:
        done = subprocess.run([sys.executable, *command], cwd=SCRIPTS.parent, timeout=min(limit, left), check=False,
                              env=os.environ | {"PYTHONUNBUFFERED": "1"})
        well = done.returncode == 0
    except subprocess.TimeoutExpired:
        well = False
    seconds = time.monotonic() - start
    sys.stdout.write(f"--- {name}: {'done' if well else 'not done'} in {seconds:.0f} s\n")
    return well, seconds


def work_through(names: list[str], minutes: float, progress: dict[str, Any], keep: Callable[[dict[str, Any]], None],
                 run: Callable[[str, float, bool], tuple[bool, float]] = run_part) -> None:
    """Run parts in their order until the time is over; ``keep`` writes the progress after each of them."""
    end = time.monotonic() + 60 * minutes
    while name := next_part(progress, names, end - time.monotonic()):
        found = progress["parts"].setdefault(name, {"tries": 0, "done": False})
        resume = found["tries"] > 0 or "seconds" in found
        found["tries"] += 1
        keep(progress)  # a part that takes the machine down is not tried for ever
        left = end - time.monotonic()
        found["done"], found["seconds"] = run(name, left, resume)
        if not found["done"] and found["seconds"] >= left - 1:  # the call was over: no fault of the part
            found["tries"] -= 1
        keep(progress)


def main() -> None:
    """Run what is left, print what is done and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call, at most")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="forget what is done")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("benchmark_gpu.py needs a CUDA device; on a CPU: benchmark_train.py, benchmark_inference.py, "
                         "benchmark_compile.py, benchmark_loss.py\n")
        sys.exit(2)
    path = RESULTS / "gpu-progress.json"
    progress = read_progress(path, device_name())
    if options.again:
        progress["parts"] = {}
    work_through(options.only, options.minutes, progress,
                 lambda content: atomic_write(path, json.dumps(content, indent=1) + "\n"))
    for name in options.only:
        found = progress["parts"].get(name)
        state = "waits" if found is None else "done" if found["done"] else f"not done after {found['tries']} tries"
        sys.stdout.write(f"{name}: {state}\n")
    if (RESULTS / "train-gpu.json").is_file():
        rows = json.loads((RESULTS / "train-gpu.json").read_text(encoding="utf-8"))["rows"]
        pace = {kind: max((row["images_per_second"] for row in rows if row["model"] == "yolov7"
                           and row["mode"].startswith("plain") == (kind == "plain")), default=0.0)
                for kind in ("plain", "ours")}
        if all(pace.values()):
            sys.stdout.write(f"ratio {pace['ours'] / pace['plain']:.2f}\n")


if __name__ == "__main__":
    main()
