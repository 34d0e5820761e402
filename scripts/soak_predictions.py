"""Predictions by the thousand: in 4 threads, and at the same time in 2 spawned processes that were given the model.

    python scripts/soak_predictions.py [--calls 1000]

Each result is compared, to the bit, with the first prediction of its image. Writes
``scripts/results/soak_predictions.json``: wrong answers, memory and open files after every hundredth of the calls, for
weights and for an exported file (`tests/compat`). The last line is the ratio of the memory at the end to that after a
quarter, at most.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine, private_mib

import yolov7
from yolov7.config import atomic_write
from yolov7.data.images import cv2, load_image

COMPAT = Path(__file__).parents[1] / "tests" / "compat"
CONF = 0.01
THREADS, WORKERS, SAMPLES = 4, 2, 20
SIZES = ((120, 160), (96, 96), (200, 90), (64, 128), (150, 151))  # height, width

given: dict[str, Any] = {}  # to a spawned process


def sample_images() -> list[np.ndarray]:
    """One image in several shapes."""
    image = load_image(COMPAT / "picture.jpg")
    return [cv2.resize(image, (width, height)) for height, width in SIZES]


def is_same(one: yolov7.ImageResult, other: yolov7.ImageResult) -> bool:
    """To the bit."""
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


def measured(call: int) -> dict[str, float]:
    """What a process holds by now."""
    return {"call": call, "private_mib": round(private_mib(), 1), "open_files": len(os.listdir("/proc/self/fd"))}


def remember(model: yolov7.Model, images: list[np.ndarray]) -> None:
    """The first thing in a spawned process."""
    torch.set_num_threads(1)
    given.update(model=model, images=images, calls=0)


def predict_there(indices: list[int]) -> tuple[list[yolov7.ImageResult], int, dict[str, float]]:
    """In a spawned process: the results, whose they are, and what the process holds."""
    results = [given["model"](given["images"][index], CONF) for index in indices]
    given["calls"] += len(indices)
    return results, os.getpid(), measured(given["calls"])


def soak(weights: Path, calls: int) -> dict[str, Any]:
    """Threads and processes at once."""
    model, images = yolov7.load(weights, device="cpu", precision="fp32"), sample_images()
    expected = [model(image, CONF) for image in images]
    indices = [call % len(images) for call in range(calls)]
    part = max(calls // SAMPLES, 1)
    parts = [indices[start : start + part] for start in range(0, calls, part)]
    here: list[dict[str, float]] = []
    there: dict[int, list[dict[str, float]]] = {}
    wrong = {"threads": 0, "processes": 0}
    started = time.perf_counter()
    spawned = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), remember, (model, images))
    with ThreadPoolExecutor(THREADS) as threads, spawned as processes:
        others = [processes.submit(predict_there, some) for some in parts]
        for some in parts:
            found = threads.map(lambda index: model(images[index], CONF), some)
            wrong["threads"] += sum(not is_same(one, expected[index]) for index, one in zip(some, found, strict=True))
            here.append(measured(part * (len(here) + 1)))
        for some, other in zip(parts, others, strict=True):
            results, process, state = other.result()
            wrong["processes"] += sum(not is_same(one, expected[i]) for i, one in zip(some, results, strict=True))
            there.setdefault(process, []).append(state)
    return {"weights": weights.name, "calls": {"threads": calls, "processes": calls}, "wrong": wrong,
            "detections": sum(map(len, expected)), "seconds": round(time.perf_counter() - started, 1),
            "threads": here, "processes": list(there.values())}


def growth(rows: list[dict[str, float]]) -> float:
    """Memory at the end over that after a quarter."""
    return rows[-1]["private_mib"] / rows[len(rows) // 4]["private_mib"]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    files = [COMPAT / "best.pt", *([COMPAT / "best.onnx"] if find_spec("onnxruntime") else [])]
    rows = [soak(file, options.calls) for file in files]
    ratio = max(growth(some) for row in rows for some in chain([row["threads"]], row["processes"]))
    content = {"machine": describe_machine(), "rows": rows, "ratio": ratio}
    atomic_write(Path(__file__).parent / "results" / "soak_predictions.json", json.dumps(content, indent=1) + "\n")
    for row in rows:
        sys.stdout.write(f"{row['weights']}: {row['calls']} calls in {row['seconds']} s, wrong: {row['wrong']}\n")
    sys.stdout.write(f"ratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
