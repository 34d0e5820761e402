"""What compiling a network for training takes and gives, by region: forward and backward of random images.

Forms: plain; whole (the network as one graph); blocks (each node of the model); norms (each norm with its activation,
for maps of any size: what ``--compile`` does on a GPU). Each form runs in two processes of its own, one after the
other, with an empty folder of compiled parts for the first: ``first`` is the first step with all compiling, ``again``
that of the second process. Steps are then timed in both. On a CPU yolov7-tiny at 320 px, batch 4; on a GPU yolov7 at
640 px, batch 32.

Writes ``scripts/results/compile[-gpu].json``. The last line is the time of a step by region over that of the whole.
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

import torch
from machine import describe_machine

from yolov7.config import atomic_write
from yolov7.model.detector import Detector
from yolov7.model.norms import compile_norms
from yolov7.model.spec import read_spec
from yolov7.runtime.precision import FORMATS

RESULTS = Path(__file__).parent / "results"
FORMS = ("plain", "whole", "blocks", "norms")
LIMIT = 900  # seconds of a process


def measure(form: str, model: str, size: int, batch: int, precision: str, steps: int) -> dict[str, float]:
    """Seconds of the first step, and the median of those after it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = Detector(read_spec(model)).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.rand(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    run: Any = torch.compile(network, dynamic=False) if form == "whole" else network
    if form == "blocks":
        for node in network.nodes.values():
            node.compile(dynamic=False)
    if form == "norms":
        compile_norms(network)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device, FORMATS[precision], enabled=precision != "fp32"):
            output = run(images)
        loss = torch.stack([level.float().square().mean() for level in output.levels]).sum()
        loss.backward()
        network.zero_grad(set_to_none=True)
        found = loss.item()  # waits for the device
        losses.append(found)
        return time.perf_counter() - start

    losses: list[float] = []
    first = step()
    return {"first": first, "step": statistics.median(step() for _ in range(steps)), "loss": losses[0]}


def in_a_process(form: str, arguments: list[str], folder: str) -> dict[str, float]:
    """`measure` in a process that keeps compiled parts in a folder; what it took where it did not end in time."""
    command = [sys.executable, __file__, "--form", form, *arguments]
    try:
        done = subprocess.run(command, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}, capture_output=True,
                              text=True, timeout=LIMIT, check=True)
    except subprocess.TimeoutExpired:
        return {"first": float("inf"), "step": float("nan"), "loss": float("nan")}
    content: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return content


def main() -> None:
    """Print the rows and write them."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov7" if gpu else "yolov7-tiny")
    parser.add_argument("--size", type=int, default=640 if gpu else 320)
    parser.add_argument("--batch", type=int, default=32 if gpu else 4)
    parser.add_argument("--precision", choices=FORMATS, default="bf16")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        found = measure(options.form, options.model, options.size, options.batch, options.precision, options.steps)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    arguments = [part for name in ("model", "size", "batch", "precision", "steps")
                 for part in (f"--{name}", str(getattr(options, name)))]
    rows = []
    for form in options.forms:
        with tempfile.TemporaryDirectory() as folder:
            new, again = (in_a_process(form, arguments, folder) for _ in range(2))
        step = statistics.median((new["step"], again["step"]))
        rows.append({"form": form, "first": new["first"], "again": again["first"], "step": step, "loss": new["loss"]})
        sys.stdout.write("{form:7} first step {first:6.1f} s, in the next process {again:5.1f} s; step {step:.3f} s, "
                         "loss {loss:.5f}\n".format(**rows[-1]))
        sys.stdout.flush()
    settings = {name: getattr(options, name) for name in ("model", "size", "batch", "precision")}
    content = {"machine": describe_machine(), **settings, "rows": rows}
    atomic_write(RESULTS / f"compile{'-gpu' if gpu else ''}.json", json.dumps(content, indent=1) + "\n")
    steps = {row["form"]: row["step"] for row in rows}
    if {"norms", "whole"} <= steps.keys():
        sys.stdout.write(f"ratio {steps['norms'] / steps['whole']:.2f}\n")


if __name__ == "__main__":
    main()
