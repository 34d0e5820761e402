"""Opening a data set of COCO's size: seconds of the first scan and of the second start, as YOLO txt and as COCO JSON.

Tiny images (64 x 48) with as many objects and outline points as COCO's, in a temporary folder; each start is a
fresh process, and what it imports is not counted. Writes ``scripts/results/scan.json``. The last line is the first
scan of YOLO txt over its second start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe_machine
from tqdm import tqdm

from yolov7.config import atomic_write

RESULTS = Path(__file__).parent / "results" / "scan.json"
IMAGES = 118_287  # of COCO's training split
DISTINCT = 50
WIDTH, HEIGHT = 64, 48
OBJECTS, POINTS = 7.3, 23  # of an image and of an outline, on average
CLASSES = 80
CHILD = """
import json, sys, time
from yolov7.data.catalog import open_data, open_split
started = time.perf_counter()
found = open_split(open_data(sys.argv[1]), "train")
seconds = time.perf_counter() - started
lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
peak = next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_MiB": peak, "images": len(found), "objects": len(found.objects),
                  "points": len(found.objects.polygons.points), "faults": len(found.faults)}))
"""


def outlines(rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """Objects of one image: a class and float64 ``[K, 2]``, normalised."""
    for _ in range(rng.poisson(OBJECTS)):
        count = max(int(rng.gamma(2, POINTS / 2)), 3)
        turn = np.sort(rng.uniform(0, 2 * np.pi, count))
        centre, radius = rng.uniform(0.1, 0.9, 2), rng.uniform(0.05, 0.3)
        points = centre + radius * np.column_stack((np.cos(turn), np.sin(turn)))
        yield int(rng.integers(CLASSES)), points.clip(0, 1)


def as_row(label: int, points: np.ndarray) -> str:
    """A line of a label file."""
    return f"{label} " + " ".join(f"{value:.6f}" for value in points.ravel().tolist())


def as_annotation(image_id: int, label: int, points: np.ndarray) -> dict[str, Any]:
    """An entry of a COCO JSON, without its id."""
    pixels = (points * (WIDTH, HEIGHT)).round(2)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return {"image_id": image_id, "category_id": label + 1, "segmentation": [pixels.ravel().tolist()],
            "bbox": [*low.tolist(), *(high - low).round(2).tolist()], "area": 1.0, "iscrowd": 0}


def write_data(root: Path, count: int) -> None:
    """Images, label files, a JSON file, and the YAML files of both forms."""
    rng = np.random.default_rng(0)
    image_folder, labels = root / "images" / "train", root / "labels" / "train"
    for folder in (image_folder, labels):
        folder.mkdir(parents=True)
    for number in range(DISTINCT):
        noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        (root / f"{number}.bytes").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    objects = [list(outlines(rng)) for _ in range(20 * DISTINCT)]
    rows = ["".join(f"{as_row(*item)}\n" for item in items) for items in objects]
    annotations = [[json.dumps(as_annotation(-1, *item)) for item in items] for items in objects]
    images, written = [], []
    for image_id in tqdm(range(1, count + 1), desc="writing", unit="image", disable=None, leave=False):
        kind = int(rng.integers(len(objects)))
        name = f"{image_id:012d}"
        os.link(root / f"{image_id % DISTINCT}.bytes", image_folder / f"{name}.jpg")
        (labels / f"{name}.txt").write_text(rows[kind], encoding="ascii")
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        for text in annotations[kind]:
            written.append(text.replace('"image_id": -1', f'"id": {len(written) + 1}, "image_id": {image_id}', 1))
    categories = [{"id": label + 1, "name": f"class {label}"} for label in range(CLASSES)]
    (root / "train.json").write_text(
        f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, '
        f'"annotations": [{", ".join(written)}]}}', encoding="ascii"
    )
    (root / "txt.yaml").write_text(f"train: images/train\nnc: {CLASSES}\n", encoding="ascii")
    (root / "json.yaml").write_text("train: {images: images/train, annotations: train.json}\n", encoding="ascii")


def measure(yaml: Path) -> dict[str, float]:
    """Seconds, peak of memory and counts of one start."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(yaml)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    """Write the data, measure both forms twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    count = parser.parse_args().images
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["YOLOV7_CACHE_DIR"] = str(Path(folder) / "cache")
        write_data(Path(folder), count)
        for form in ("txt", "json"):
            for start in ("first", "second"):
                row = rows[f"{form}, {start}"] = measure(Path(folder) / f"{form}.yaml")
                sys.stdout.write(f"{form:5} {start:7} {row['seconds']:7.2f} s  {row['peak_MiB']:7.0f} MiB  "
                                 f"{row['images']} images, {row['objects']} objects, {row['points']} points\n")
                sys.stdout.flush()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(RESULTS, json.dumps({"machine": describe_machine(), "images": count, "starts": rows}, indent=1)
                     + "\n")
    sys.stdout.write(f"ratio {rows['txt, first']['seconds'] / rows['txt, second']['seconds']:.1f}\n")


if __name__ == "__main__":
    main()
