"""Memory of the loader: private bytes (USS) of every process over thousands of batches, and with COCO's labels.

First 5,000 batches of coco-mini with 2 workers: the memory must stay flat. Then the labels of a set as large as COCO
(118,287 images, 860,000 objects, polygons of 23 points): what each worker has for itself. Writes
``scripts/results/loader.json``. The last line is the ratio of all memory at the end to that after a fifth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import describe_machine, private_mib
from PIL import Image
from tqdm import tqdm

from yolov7.config import atomic_write
from yolov7.config.recipe import read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import EpochSampler, training_loader
from yolov7.data.objects import Ragged, no_objects
from yolov7.structures import Batch

RESULTS = Path(__file__).parent / "results" / "loader.json"
MIB = 2**20
WORKERS = 2


def memory() -> dict[str, float]:
    """Private memory of this process, the largest of its workers, and all together."""
    workers = [private_mib(child.pid or 0) for child in multiprocessing.active_children()]
    main = private_mib()
    return {"main": main, "worker": max(workers, default=0.0), "all": main + sum(workers)}


def batches(image_set: ImageSet, size: int, batch_size: int, count: int) -> Iterator[Batch]:
    """``count`` batches over as many epochs as that takes."""
    dataset = TrainingDataset(image_set, size, read_recipe("p5").augment)
    sampler = EpochSampler(len(dataset), batch_size, 0)
    loader = training_loader(dataset, sampler, WORKERS)
    made = epoch = 0
    while made < count:
        sampler.set_epoch(epoch)
        for batch in loader:
            yield batch
            made += 1
            if made == count:
                return
        epoch += 1


def over_time(data: Path, count: int) -> list[dict[str, float]]:
    """Memory at ten moments of a long run."""
    image_set = open_split(open_data(str(data)), "train")
    rows = []
    progress = tqdm(batches(image_set, 160, 4, count), total=count, desc="batches", leave=False, disable=None)
    for number, _ in enumerate(progress, 1):
        if number % (count // 10) == 0:
            rows.append({"batch": number, **memory()})
    return rows


def coco_sized(folder: Path) -> ImageSet:
    """Labels like COCO's; the images are 50 files named again and again."""
    rng, images = np.random.default_rng(0), 118_287
    files = []
    for number in range(50):
        files.append(str(folder / f"{number}.jpg"))
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(files[-1])
    per_image = rng.poisson(7.27, images)
    total = int(per_image.sum())
    corners = rng.uniform(0, 30, (total, 2)).astype(np.float32)
    boxes = np.concatenate((corners, corners + rng.uniform(4, 18, (total, 2))), 1).astype(np.float32)
    counts = rng.integers(8, 39, total)
    share = rng.uniform(0, 1, (int(counts.sum()), 2)).astype(np.float32)
    low, high = (np.repeat(boxes[:, part], counts, axis=0) for part in (slice(0, 2), slice(2, 4)))
    polygons = Ragged(low + share * (high - low), counts)
    return ImageSet(
        paths=tuple(files[i % 50] for i in range(images)), image_ids=tuple(range(images)),
        sizes=np.tile(np.array((48, 64), np.int32), (images, 1)), offsets=np.concatenate(([0], np.cumsum(per_image))),
        objects=no_objects().like(boxes, rng.integers(0, 80, total), polygons=polygons),
        names=tuple(map(str, range(80))), category_ids=tuple(range(80)),
    )


def with_coco_labels() -> dict[str, float]:
    """Memory with the labels of a set of COCO's size after 300 batches."""
    with tempfile.TemporaryDirectory() as folder:
        image_set = coco_sized(Path(folder))
        found = {}
        for number, _ in enumerate(batches(image_set, 64, 16, 300), 1):
            if number == 299:
                found = memory()
        arrays = image_set.sizes, image_set.offsets, *image_set.objects.arrays().values()
        labels = sum(array.nbytes for array in arrays) / MIB
        return {"labels": labels, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=Path(__file__).parents[2] / "shared" / "data" / "coco-mini", type=Path)
    parser.add_argument("--batches", default=5000, type=int)
    options = parser.parse_args()
    coco = with_coco_labels()
    sys.stdout.write("COCO's labels: " + ", ".join(f"{key} {value:.0f} MiB" for key, value in coco.items()) + "\n")
    rows = over_time(options.data, options.batches)
    for row in rows:
        sys.stdout.write(f"batch {row['batch']:5}: main {row['main']:.0f} MiB, worker {row['worker']:.0f} MiB, "
                         f"all {row['all']:.0f} MiB\n")
    atomic_write(RESULTS, json.dumps({"machine": describe_machine(), "coco": coco, "rows": rows}, indent=1))
    sys.stdout.write(f"ratio {rows[-1]['all'] / rows[1]['all']:.3f}\n")


if __name__ == "__main__":
    main()
