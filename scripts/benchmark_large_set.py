"""Opening a set of millions: time and memory for 200,000 images with 3 million boxes on a server, as in Objects365.

    python scripts/benchmark_large_set.py [--images 200000]

The annotations are written (15 boxes an image, no outlines) with a list of tar files of 2,000 images each, none of
which is there: opening needs none. Each start is a fresh process, the first one reads the JSON, the second one the
cache. Also the checkpoint of yolov7: its bytes, and the seconds until it stands on this disk. Writes
``scripts/results/large_set.json``; the last line is the ratio of the first start to the second one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from yolov7.config import atomic_write

RESULTS = Path(__file__).parent / "results" / "large_set.json"
BOXES, PER_FILE = 15, 2_000  # of an image; images of a tar file
START = """
import sys, time
import yolov7.engine.run
from yolov7.data.catalog import _open_folder, open_split
from yolov7.data.windows import windows_of
from pathlib import Path
def memory(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
imports = memory("VmRSS")
started = time.perf_counter()
found = open_split(_open_folder(Path(sys.argv[1])), "train")
opened = time.perf_counter()
windows_of(found, 16, 0).of_epoch(0)
windows = time.perf_counter() - opened
print(len(found), len(found.objects), opened - started, windows, imports, memory("VmHWM"), memory("VmRSS"))
"""
CHECKPOINT = """
import sys, time, os, torch, dataclasses
from contextlib import ExitStack
from pathlib import Path
from yolov7.engine import run
from yolov7.engine.run_config import TrainOptions
from yolov7.runtime.distributed import Processes
trainer = run.build_trainer(TrainOptions(cfg="yolov7", data="shapes", img_size=(64,), batch_size=2, epochs=1, workers=0,
                            device="cpu", precision="fp32", project=sys.argv[1]), torch.device("cpu"), Processes(),
                            ExitStack())
for parameter in trainer.state.model.parameters():
    parameter.grad = torch.zeros_like(parameter)
trainer.state.optimizer.step()
trainer.checkpoints.last.parent.mkdir(parents=True, exist_ok=True)
started = time.perf_counter()
trainer.checkpoints.save_last(trainer.state, required=False)
waited = time.perf_counter() - started
trainer.checkpoints.settle()
print(os.path.getsize(trainer.checkpoints.last), waited, time.perf_counter() - started)
trainer.close()
"""


def write_set(folder: Path, images: int) -> int:
    """Annotations, list and note of a mirror without tar files; returns the bytes of the annotations."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    (folder / "images" / "train").mkdir(parents=True)
    corners, sides = (rng.uniform(low, high, (images * BOXES, 2)).round(2) for low, high in ((0, 300), (5, 200)))
    labels = rng.integers(1, 366, images * BOXES)
    boxes = np.concatenate((corners, sides), axis=1).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{i // PER_FILE:06d}.tar/{i:012d}.jpg", "height": 512, "width": 640}
                   for i in range(images)],
        "annotations": [{"id": t, "image_id": t // BOXES, "category_id": label, "bbox": box, "iscrowd": 0,
                         "area": round(box[2] * box[3], 2)}
                        for t, (label, box) in enumerate(zip(labels.tolist(), boxes, strict=True))],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 366)]}
    file = folder / "annotations" / "instances_train.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    files = {f"images/train/{i:06d}.tar": (PER_FILE * 150_000, "0" * 64) for i in range(-(-images // PER_FILE))}
    note = {"address": "s3://sets/objects", "room": 1 << 40, "files": files}
    (folder / "mirror.json").write_text(json.dumps(note), encoding="utf-8")
    return file.stat().st_size


def run(code: str, *arguments: str, cache: str) -> list[float]:
    """The numbers that a fresh process prints last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True,
                          env=os.environ | {"YOLOV7_CACHE_DIR": cache})
    return [float(word) for word in done.stdout.split("\n")[-2].split()]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        size = write_set(Path(folder) / "set", options.images)
        for start in ("first", "second"):
            found = run(START, f"{folder}/set", cache=f"{folder}/cache")
            images, objects, seconds, windows, before, peak, after = found
            rows.append({"start": start, "images": images, "objects": objects, "seconds": seconds, "windows_s": windows,
                         "peak_mib": peak - before, "held_mib": after - before})
            sys.stdout.write(f"{rows[-1]}\n")
        length, waited, whole = run(CHECKPOINT, f"{folder}/runs", cache=f"{folder}/cache")
    checkpoint = {"bytes": length, "waited_s": waited, "whole_s": whole}
    sys.stdout.write(f"{checkpoint}\n")
    atomic_write(RESULTS, json.dumps({"machine": describe_machine(), "json_bytes": size, "rows": rows,
                                      "checkpoint": checkpoint, "time": time.strftime("%F")}, indent=1) + "\n")
    sys.stdout.write(f"ratio {rows[0]['seconds'] / rows[1]['seconds']:.1f}\n")


if __name__ == "__main__":
    main()
