"""Augmentation by the loader processes and on a device: the same samples of every recipe, and what both take.

500 samples of each recipe at 640 px, from the same seed: boxes, polygons and key points must be equal, pixels differ by
grey levels (mean over an image: of all, and of the worst). Then for the recipe p5 the time of a sample in a loader
process, in turn within one run, and, where there is a CUDA device, how many images a second it makes of what loader
processes send it, and the share of its time. Writes ``scripts/results/augment.json``. The last line is the ratio of a
loader process's time for whole samples to that for samples that are left to a device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from tqdm import tqdm

from yolov7.config import atomic_write, shipped_files
from yolov7.config.recipe import AugmentConfig, read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.device_augment import DeviceAugmenter
from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.loader import EpochSampler, collate, packed_batch, training_loader
from yolov7.data.objects import COLUMNS, Objects, Ragged
from yolov7.data.packing import Key
from yolov7.runtime.memory import keep_freed_memory
from yolov7.structures import Batch

RESULTS = Path(__file__).parent / "results" / "augment.json"
SIZE, BATCH = 640, 10
LIMIT = 1e-3  # pixels, of boxes and points
GREY_LEVELS = 2.0  # between two images, mean


def difference(first: Objects, second: Objects) -> float:
    """Between the columns of two tables, in pixels where these are places; endless where they do not fit."""
    furthest = 0.0
    for name in COLUMNS:
        one, other = (value.points if isinstance(value, Ragged) else value
                      for value in (getattr(first, name), getattr(second, name)))
        if one.shape != other.shape:
            return float("inf")
        furthest = max(furthest, float(np.nan_to_num(np.abs(one.astype(float) - other)).max(initial=0.0)))
    return furthest


def never(keys: object) -> Batch:
    """All images of this set can be decoded."""
    raise AssertionError(keys)


def equality(image_set: ImageSet, augment: AugmentConfig, samples: int, device: torch.device) -> dict[str, float]:
    """The same samples both ways."""
    dataset = TrainingDataset(image_set, SIZE, augment, seed=7)
    augmenter = DeviceAugmenter(dataset.reader, device, never)
    keys: list[Key] = [(0, position, position % len(image_set)) for position in range(samples)]
    grey, furthest = [], 0.0
    for start in range(0, samples, BATCH):
        part = keys[start : start + BATCH]
        usual, packed = ([dataset.sample(key, way) for key in part] for way in (False, True))
        furthest = max(furthest, *(difference(a.objects, b.objects) for a, b in zip(usual, packed, strict=True)))
        made = augmenter(packed_batch(packed)).images.cpu().float()
        grey += (collate(usual).images.float() - made).abs().mean((1, 2, 3)).tolist()
    assert furthest <= LIMIT
    assert max(grey) <= GREY_LEVELS
    return {"pixels": furthest, "mean": statistics.mean(grey), "worst": max(grey)}


def worker_times(image_set: ImageSet, samples: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a sample on one core, whole and left to a device; bytes that a device gets."""
    dataset = TrainingDataset(image_set, SIZE, read_recipe("p5").augment)
    keys: list[Key] = [(0, position, position % len(image_set)) for position in range(samples)]
    times: dict[bool, list[float]] = {False: [], True: []}
    length = 0
    for _ in range(rounds):
        for packed, found in times.items():
            started = time.perf_counter()
            for start in range(0, samples, BATCH):
                made = [dataset.sample(key, packed) for key in keys[start : start + BATCH]]
                batch = packed_batch(made) if packed else collate(made)
                length += batch.images.numel() * packed
            found.append(1000 * (time.perf_counter() - started) / samples)
    whole, left = (statistics.median(found) for found in times.values())
    return {"whole_ms": whole, "left_ms": left, "kib": length / samples / rounds / 1024,
            "ratio": statistics.median(a / b for a, b in zip(times[False], times[True], strict=True))}


def device_rate(image_set: ImageSet, batch_size: int, batches: int, workers: int | None) -> dict[str, float]:
    """Images a second of a loader whose images a CUDA device makes, and the share of its time that this takes."""
    device = torch.device("cuda:0")
    dataset = TrainingDataset(image_set, SIZE, read_recipe("p5").augment)
    sampler = EpochSampler(len(image_set), batch_size, 0)
    loader = training_loader(dataset, sampler, workers, device=device)
    images, epoch, started = 0, 0, 0.0
    while images < (batches + 4) * batch_size:
        sampler.set_epoch(epoch)
        for batch in loader:
            images += len(batch.images)
            if not started and images >= 4 * batch_size:
                torch.cuda.synchronize()
                started, before = time.perf_counter(), images
        epoch += 1
    torch.cuda.synchronize()
    rate = (images - before) / (time.perf_counter() - started)
    loader.close()
    return {"batch": batch_size, "img_s": rate, "device_ms": (own := _device_ms(dataset, device, batch_size)),
            "share_at_this_rate": own / 1000 * rate / batch_size}


def _device_ms(dataset: TrainingDataset, device: torch.device, batch_size: int) -> float:
    """Device time of a batch alone, between events."""
    augmenter = DeviceAugmenter(dataset.reader, device, never)
    packed = packed_batch([dataset.sample((0, i, i % len(dataset)), True) for i in range(batch_size)]).pin_memory()
    times = []
    for _ in range(8):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        augmenter(packed)
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times[3:])


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=Path(__file__).parents[2] / "shared" / "data" / "coco-mini", type=Path)
    parser.add_argument("--samples", default=500, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--batch", default=64, type=int)
    parser.add_argument("--workers", default=None, type=int)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # what a loader process does at its start
    keep_freed_memory()
    cuda = torch.cuda.is_available()
    image_set = open_split(open_data(str(options.data)), "train")
    recipes = shipped_files("data", ("hyp.",))
    rows = {}
    for name in tqdm(recipes, desc="recipes", disable=None, leave=False):
        augment = read_recipe(str(recipes[name])).augment
        rows[name] = row = equality(image_set, augment, options.samples, torch.device("cuda:0" if cuda else "cpu"))
        sys.stdout.write(f"{name:16} objects {row['pixels']:.1e} px, grey levels {row['mean']:.3f} (worst image "
                         f"{row['worst']:.3f})\n")
    torch.set_num_threads(1)
    times = worker_times(image_set, min(options.samples, 240), options.rounds)
    sys.stdout.write(f"a sample on one core: whole {times['whole_ms']:.2f} ms, left to a device {times['left_ms']:.2f} "
                     f"ms with {times['kib']:.0f} KiB\n")
    content: dict[str, Any] = {"machine": describe_machine(), "samples": options.samples, "rows": rows, "times": times}
    if cuda:
        content["device"] = device = device_rate(image_set, options.batch, 60, options.workers)
        sys.stdout.write(f"{json.dumps(device)}\n")
    atomic_write(RESULTS, json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"ratio {times['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
