"""The images of the README, from real runs: detections of networks that are trained here, and the curves of a run.

Writes ``docs/images/``: ``shapes.jpg`` and ``curves.png`` (the README's first command), ``bccd.jpg`` (BCCD, where
``data/bccd.yaml`` looks for it), and ``images.json`` with what they were made of. A run that has ended already is taken
as it is, one that was stopped goes on; ``--only shapes`` makes that part alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe_machine

import yolov7
from yolov7.config import atomic_write
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import encode_image
from yolov7.engine.log import read_results

IMAGES = Path(__file__).parents[1] / "docs" / "images"
HEIGHT, GAP, SHOWN = 256, 4, 4  # pixels of a sheet and between images, and how many
THRESHOLD = 0.4
RUNS: dict[str, dict[str, Any]] = {
    "shapes": {"device": "cpu"},  # nothing else: the README's first command
    "bccd": {"data": "bccd.yaml", "cfg": "yolov7-tiny", "img_size": 320, "epochs": 30, "nominal_batch": 16,
             "device": "cpu"}}
SPLITS = {"shapes": ("shapes", "val"), "bccd": ("bccd.yaml", "test")}


def run_of(name: str, project: Path) -> dict[str, Any]:
    """Train, go on with a run that was stopped, or take the one that has ended; what it reached."""
    folder, flags = project / name, RUNS[name]
    seconds = folder / "seconds.txt"
    if not seconds.is_file():
        started = time.perf_counter()
        begun = (folder / "weights" / "last.pt").is_file()
        if begun:
            yolov7.train(resume=folder)
        else:
            yolov7.train(**flags, project=project, name=name, exist_ok=True)
        atomic_write(seconds, "" if begun else f"{time.perf_counter() - started:.0f}")  # of a whole run only
    records = read_results(folder / "results.csv")
    best = max(records, key=lambda record: 0.9 * record.metrics["AP"] + 0.1 * record.metrics["AP50"])
    return {"flags": flags, "epochs": len(records), "best_epoch": best.epoch, "AP": round(best.metrics["AP"], 3),
            "AP50": round(best.metrics["AP50"], 3), "seconds": int(seconds.read_text() or 0) or None}


def sheet_of(name: str, weights: Path) -> np.ndarray:
    """The first images of a split with what the network finds, side by side, RGB."""
    data, split = SPLITS[name]
    model = yolov7.load(weights, device="cpu", precision="fp32")
    paths = open_split(open_data(data), split).paths[:SHOWN]
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    parts = [part for found in model(list(map(str, paths)), conf=THRESHOLD) for part in (gap, fitted(found.plot()))]
    return np.concatenate(parts[1:], axis=1)


def fitted(image: np.ndarray) -> np.ndarray:
    """As high as the sheet."""
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    return cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)


def small(path: Path, width: int = 1000) -> np.ndarray:
    """An image file, at most so wide, RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    scale = min(1, width / image.shape[1])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def main() -> None:
    """Train, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=Path("runs/images"))
    parser.add_argument("--only", choices=list(RUNS), nargs="+", default=list(RUNS))
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in options.only:
        made[name] = run_of(name, options.project) | {"machine": describe_machine(), "threshold": THRESHOLD}
        weights = options.project / name / "weights" / "best.pt"
        atomic_write(IMAGES / f"{name}.jpg", encode_image(sheet_of(name, weights), ".jpg"))
        if name == "shapes":
            curves = small(options.project / name / "results.png")
            atomic_write(IMAGES / "curves.png", encode_image(curves, ".png"))
    facts_file = IMAGES / "images.json"
    facts = (json.loads(facts_file.read_text()) if facts_file.is_file() else {}) | made
    atomic_write(facts_file, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
