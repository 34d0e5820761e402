"""Training batches: the pipeline beside the simple way (the oracle of the tests), cold and with cached images.

From the files to batches of 16, p5 recipe, 640 px, coco-mini, one core, the same decoder for both, in turn within one
run; milliseconds a sample. Writes
``scripts/results/data.json``. The last line is the ratio of simple to fast, cold, without outlines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine
from sample_statistics import open_with_txt

from yolov7.config import atomic_write  # noqa: E402
from yolov7.config.recipe import read_recipe  # noqa: E402
from yolov7.data.catalog import open_data, open_split  # noqa: E402
from yolov7.data.dataset import TrainingDataset  # noqa: E402
from yolov7.data.image_set import ImageSet  # noqa: E402
from yolov7.data.images import cv2, load_image  # noqa: E402
from yolov7.data.loader import collate
from yolov7.data.objects import Sample
from yolov7.runtime.memory import keep_freed_memory

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "data"), str(Path(__file__).parents[1] / "tests")]
from simple_augment import SimpleDataset, simple_collate  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "data.json"
SIZE = 640
BATCH = 16
Make = Callable[[tuple[int, int, int]], Sample]


def milliseconds(make: Make, stack: Callable[[list[Sample]], object], keys: list[tuple[int, int, int]]) -> float:
    """Time of one sample, over these keys."""
    started = time.perf_counter()
    for first in range(0, len(keys), BATCH):
        stack([make(key) for key in keys[first : first + BATCH]])
    return 1000 * (time.perf_counter() - started) / len(keys)


def compare(image_set: ImageSet, cached: bool, samples: int, rounds: int) -> dict[str, float]:
    """Medians of rounds in turn; every round makes the same samples with both."""
    augment = read_recipe("p5").augment
    fast = TrainingDataset(image_set, SIZE, augment, cache="ram" if cached else "off")
    simple = SimpleDataset(image_set, SIZE, augment, cached=cached)
    keys = [(0, position, position % len(image_set)) for position in range(samples)]
    for index in range(len(image_set)):  # the files are in memory, and the cache of the simple way is filled
        simple.load(index)
    times: dict[str, list[float]] = {"fast": [], "simple": []}
    for _ in range(rounds):
        times["fast"].append(milliseconds(fast.__getitem__, collate, keys))
        times["simple"].append(milliseconds(simple.__getitem__, simple_collate, keys))
    fast_ms, simple_ms = (statistics.median(times[name]) for name in ("fast", "simple"))
    ratios = [slow / quick for slow, quick in zip(times["simple"], times["fast"], strict=True)]
    return {"fast_ms": fast_ms, "simple_ms": simple_ms, "ratio": statistics.median(ratios)}


def decoders(image_set: ImageSet, rounds: int) -> dict[str, float]:
    """Milliseconds an image of the decoders at hand: ours (with checks), and three alone."""
    import numpy as np
    import simplejpeg
    from torchvision.io import decode_jpeg

    files = [np.fromfile(path, np.uint8) for path in image_set.paths]
    tensors = [torch.from_numpy(data) for data in files]
    kinds: dict[str, Callable[[int], object]] = {
        "load_image": lambda i: load_image(image_set.paths[i]),
        "opencv": lambda i: cv2.imdecode(files[i], cv2.IMREAD_COLOR),
        "torchvision": lambda i: decode_jpeg(tensors[i]),
        "simplejpeg": lambda i: simplejpeg.decode_jpeg(files[i]),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, decode in kinds.items():
            started = time.perf_counter()
            for i in range(len(files)):
                decode(i)
            times[kind].append(1000 * (time.perf_counter() - started) / len(files))
    return {kind: statistics.median(values) for kind, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=Path(__file__).parents[2] / "shared" / "data" / "coco-mini", type=Path)
    parser.add_argument("--samples", default=240, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # what a loader process does at its start
    torch.set_num_threads(1)
    keep_freed_memory()
    sets = {"boxes": open_with_txt(options.data), "polygons": open_split(open_data(str(options.data)), "train")}
    rows = {}
    for kind, image_set in sets.items():
        for cached in (False, True):
            name = f"{kind}, {'cached' if cached else 'cold'}"
            rows[name] = row = compare(image_set, cached, options.samples, options.rounds)
            sys.stdout.write(f"{name:18} fast {row['fast_ms']:6.2f} ms  simple {row['simple_ms']:6.2f} ms  "
                             f"{row['ratio']:.2f} times\n")
    decoding = decoders(sets["boxes"], options.rounds)
    sys.stdout.write("decoding           " + "  ".join(f"{kind} {ms:.2f} ms" for kind, ms in decoding.items()) + "\n")
    content = {"machine": describe_machine(), "samples": options.samples, "rows": rows, "decoding_ms": decoding}
    atomic_write(RESULTS, json.dumps(content, indent=1))
    sys.stdout.write(f"ratio {rows['boxes, cold']['ratio']:.2f}\n")


if __name__ == "__main__":
    main()
