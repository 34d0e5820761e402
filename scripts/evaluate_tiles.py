"""What tiles bring: made images of 3000 x 2000 pixels with small shapes, seen whole, enlarged and in tiles.

Shapes of 20 to 45 pixels are put on busy backgrounds, some of them on the seams of the tiles. A model that was trained
on the built-in shapes sees each image reduced to its own size, reduced to a larger one, and in tiles of the size that
it was trained on. AP is that of small objects (below 32 x 32 pixels) and of all. On more images the objects that two
detections claim are counted. Writes ``scripts/results/tiles.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from made_films import cut_out

import yolov7
from yolov7.boxes import pairwise_iou
from yolov7.config import atomic_write
from yolov7.data.images import cv2, encode_image
from yolov7.data.synthetic import CLASSES, busy_background

HEIGHT, WIDTH, OBJECTS = 2000, 3000, 120
TILE, OVERLAP = 320, 0.2
RESULT = Path(__file__).parent / "results" / "tiles.json"


def make_image(seed: int) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """An image uint8 ``[H, W, 3]`` RGB, and its objects: class and box xywh."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(busy_background(rng, HEIGHT // 4, WIDTH // 4), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    seams = np.arange(1, WIDTH // TILE) * (TILE * (1 - OVERLAP))
    objects: list[tuple[int, list[float]]] = []
    taken = np.zeros((HEIGHT, WIDTH), bool)
    while len(objects) < OBJECTS:
        label, sprite = cut_out(rng)
        gain = rng.uniform(20, 45) / max(sprite.shape[:2])
        sprite = cv2.resize(sprite, None, fx=gain, fy=gain, interpolation=cv2.INTER_AREA)
        height, width = sprite.shape[:2]
        x, y = (int(value) for value in rng.uniform((0, 0), (WIDTH - width, HEIGHT - height)))
        if rng.random() < 0.3:
            x = int(np.clip(rng.choice(seams) - width / 2, 0, WIDTH - width))
        if taken[y - 3 if y > 2 else 0 : y + height + 3, x - 3 if x > 2 else 0 : x + width + 3].any():
            continue
        there = sprite[..., 3] > 127
        image[y : y + height, x : x + width][there] = sprite[..., :3][there]
        taken[y : y + height, x : x + width] = True
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        objects.append((label, [float(x + columns[0]), float(y + rows[0]), float(columns[-1] + 1 - columns[0]),
                                float(rows[-1] + 1 - rows[0])]))
    return image, objects


def write_set(folder: Path, images: int) -> Path:
    """The images as a data set, written once; returns its YAML."""
    if (folder / "set.yaml").is_file():
        return folder / "set.yaml"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]}
    for seed in range(images):
        image, objects = make_image(seed)
        (folder / "images" / f"{seed}.jpg").write_bytes(encode_image(image, ".jpg", 95))
        content["images"].append({"id": seed, "file_name": f"{seed}.jpg", "width": WIDTH, "height": HEIGHT})
        content["annotations"] += [{
            "id": len(content["annotations"]) + place, "image_id": seed, "category_id": label + 1, "bbox": box,
            "area": box[2] * box[3], "iscrowd": 0} for place, (label, box) in enumerate(objects, 1)]
    atomic_write(folder / "set.json", json.dumps(content))
    atomic_write(folder / "set.yaml", "val: {images: images, annotations: set.json}\n")
    return folder / "set.yaml"


def claimed_twice(model: Any, images: int) -> dict[str, int]:
    """Objects that are found, and those that two detections of their class claim at IoU 0.5."""
    found = twice = 0
    for seed in range(images):
        image, objects = make_image(10_000 + seed)
        result = model(image, tile=TILE, overlap=OVERLAP)
        boxes = torch.tensor([[x, y, x + w, y + h] for _, (x, y, w, h) in objects])
        labels = torch.tensor([label for label, _ in objects])
        claims = ((pairwise_iou(boxes, result.boxes) >= 0.5) & (labels[:, None] == result.labels)).sum(1)
        found, twice = found + int((claims > 0).sum()), twice + int((claims > 1).sum())
    return {"images": images, "objects": images * OBJECTS, "found": found, "claimed twice": twice}


def main() -> None:
    """Make the images, score them in three ways, count what is found twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="", help="best.pt of a run on the built-in shapes")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--counted", type=int, default=200, help="images in which objects found twice are counted")
    parser.add_argument("--enlarged", type=int, default=1536, help="larger side of the network's input")
    parser.add_argument("--project", type=Path, default=Path("runs/tiles"))
    options = parser.parse_args()
    data = write_set(options.project / "set", options.images)
    model = yolov7.load(options.weights or (), device="cpu")
    ways: dict[str, dict[str, Any]] = {"whole": {}, "enlarged": {"img_size": options.enlarged},
                                       "tiles": {"tile": TILE, "overlap": OVERLAP}}
    table = {}
    for name, flags in ways.items():
        started = time.perf_counter()
        result = yolov7.test(weights=options.weights or (), data=data, device="cpu", batch_size=1, workers=0,
                             project=options.project, name=name, exist_ok=True, **flags)
        seconds = (time.perf_counter() - started) / options.images
        table[name] = {key: result.metrics[key] for key in ("AP", "AP50")} | {
            "APs": float(result.evaluation.boxes.numbers["APs"][0]), "seconds an image": seconds}
        sys.stdout.write(f"{name}: {table[name]}\n")
        sys.stdout.flush()
    twice = claimed_twice(model, options.counted)
    content = {"machine": describe_machine(), "pixels": [WIDTH, HEIGHT], "objects an image": OBJECTS, "tile": TILE,
               "overlap": OVERLAP, "images": options.images, "ways": table, "found twice": twice}
    atomic_write(RESULT, json.dumps(content, indent=1) + "\n")
    ratio = table["tiles"]["APs"] / max(table["enlarged"]["APs"], 1e-9)
    sys.stdout.write(f"{twice}\nratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
