"""How long ``data check --report`` takes, and how much memory: sets of made images of 640 x 480 pixels.

Each in a fresh process, decoding included; the memory is the largest of the process and of its largest child, which
should not grow with the set. Writes ``scripts/results/data_report.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from machine import describe_machine

from yolov7.config import atomic_write
from yolov7.data.images import cv2, encode_image
from yolov7.data.synthetic import CLASSES, paint

RESULT = Path(__file__).parent / "results" / "data_report.json"
MEASURED = """
import json, resource, sys, time
from yolov7 import cli
started = time.perf_counter()
code = cli.main(["data", "check", "--data", sys.argv[1], "--report", sys.argv[2]])
own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"code": code, "seconds": time.perf_counter() - started, "MiB": own, "MiB of a child": children}))
"""


def write_image(task: tuple[str, int]) -> list[dict[str, Any]]:
    """One image, and its annotations."""
    folder, index = task
    image, objects = paint(1, "train", index)
    width, height = 640, round(640 * image.shape[0] / image.shape[1])
    gain = width / image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    (Path(folder) / "images" / f"{index:06}.jpg").write_bytes(encode_image(resized, ".jpg", 90))
    rows = [{"image_id": index, "width": width, "height": height}]
    for label, polygons in objects:
        x, y, w, h = (float(value) * gain for value in cv2.boundingRect(polygons[0]))
        outline = cv2.approxPolyDP(polygons[0], 1.0, True).reshape(-1)  # of as many points as people draw
        rows.append({"image_id": index, "category_id": label + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
                     "segmentation": [[float(value) * gain for value in outline]]})
    return rows


def write_set(folder: Path, images: int) -> Path:
    """A COCO set of so many images, written once."""
    if (folder / "set.yaml").is_file():
        return folder / "set.yaml"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(write_image, [(str(folder), index) for index in range(images)], chunksize=50))
    content: dict[str, Any] = {"categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
                               "images": [{"id": part[0]["image_id"], "file_name": f"{part[0]['image_id']:06}.jpg",
                                           "width": part[0]["width"], "height": part[0]["height"]} for part in parts],
                               "annotations": []}
    for part in parts:
        content["annotations"] += [{**row, "id": len(content["annotations"]) + place}
                                   for place, row in enumerate(part[1:], 1)]
    atomic_write(folder / "set.json", json.dumps(content))
    atomic_write(folder / "set.yaml", "train: {images: images, annotations: set.json}\n")
    return folder / "set.yaml"


def main() -> None:
    """Two sizes of sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--project", type=Path, default=Path("runs/data_report"))
    options = parser.parse_args()
    rows = []
    for images in options.images:
        data = write_set(options.project / str(images), images)
        page = options.project / f"{images}.html"
        environment = {**os.environ, "YOLOV7_CACHE_DIR": str(options.project / f"cache{images}")}
        done = subprocess.run([sys.executable, "-c", MEASURED, str(data), str(page)], capture_output=True, text=True,
                              check=True, env=environment)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({"images": images, **found, "page MiB": page.stat().st_size / 2**20})
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    atomic_write(RESULT, json.dumps({"machine": describe_machine(), "sets": rows}, indent=1) + "\n")
    sys.stdout.write(f"ratio {rows[-1]['MiB'] / rows[0]['MiB']:.2f}\n")


if __name__ == "__main__":
    main()
