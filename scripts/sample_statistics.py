"""What the augmentation makes of coco-mini, beside what the original made of it: boxes, their sizes, colours.

The original's figures are those of 400 samples at 640 px from its txt labels, where nothing is pasted; the same with
the JSON's polygons shows what pasting adds. Writes ``scripts/results/samples.json``; the last line is the largest
deviation from the original as a ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from machine import describe_machine
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from yolov7.config import atomic_write
from yolov7.config.recipe import read_recipe
from yolov7.data.catalog import open_data, open_split
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet

RESULTS = Path(__file__).parent / "results" / "samples.json"
ORIGINAL = {
    "p5": {"boxes": 19.9, "boxes_deviation": 18.7, "width": 27.7, "height": 31.8, "width_95": 241, "height_95": 247,
           "red": 115.6, "green": 108.7, "blue": 101.2},
    "tiny": {"boxes": 17.9, "red": 114.4, "green": 107.2, "blue": 99.0},
}


class Reduced(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Samples one after the other, each reduced to what is counted."""

    def __init__(self, samples: TrainingDataset, count: int) -> None:
        self.samples, self.count = samples, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        length = len(self.samples)
        sample = self.samples[position // length, position, position % length]
        return sample.objects.boxes, sample.image.reshape(-1, 3).mean(0)


def open_with_txt(folder: Path) -> ImageSet:
    """The training images with their txt labels, which are boxes only."""
    names = list(open_data("coco").names)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "txt.yaml"
        file.write_text(yaml.safe_dump({"path": str(folder.resolve()), "train": "images/train2017", "names": names}))
        return open_split(open_data(str(file)), "train")


def measure(image_set: ImageSet, recipe: str, count: int, workers: int, title: str) -> dict[str, float]:
    """Statistics of ``count`` samples at 640 px."""
    dataset = TrainingDataset(image_set, 640, read_recipe(recipe).augment)
    loader = DataLoader(Reduced(dataset, count), batch_size=None, num_workers=workers)
    boxes, colours = [], []
    for found, colour in tqdm(loader, desc=title, leave=False, disable=None):
        boxes.append(np.asarray(found))
        colours.append(np.asarray(colour))
    counts = np.array([len(found) for found in boxes])
    sizes = np.concatenate(boxes)
    width, height = sizes[:, 2] - sizes[:, 0], sizes[:, 3] - sizes[:, 1]
    red, green, blue = np.mean(colours, axis=0)
    values = {"boxes": counts.mean(), "boxes_deviation": counts.std(), "width": np.median(width),
              "height": np.median(height), "width_95": np.percentile(width, 95),
              "height_95": np.percentile(height, 95), "red": red, "green": green, "blue": blue}
    return {key: round(float(value), 2) for key, value in values.items()}


def main() -> None:
    """Measure and print both recipes with both kinds of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=Path(__file__).parents[2] / "shared" / "data" / "coco-mini", type=Path)
    parser.add_argument("--samples", default=4000, type=int)
    parser.add_argument("--workers", default=2, type=int)
    options = parser.parse_args()
    sets = {"txt": open_with_txt(options.data), "polygons": open_split(open_data(str(options.data)), "train")}
    rows: dict[str, dict[str, float]] = {}
    worst = 1.0
    for recipe, original in ORIGINAL.items():
        rows[f"{recipe}, original"] = dict(original)
        for kind, image_set in sets.items():
            name = f"{recipe}, {kind}"
            rows[name] = measure(image_set, recipe, options.samples, options.workers, name)
        ratios = [rows[f"{recipe}, txt"][key] / value for key, value in original.items()]
        worst = max([worst, *ratios, *(1 / ratio for ratio in ratios)])
    for name, row in rows.items():
        sys.stdout.write(f"{name:16} " + "  ".join(f"{key} {value:g}" for key, value in row.items()) + "\n")
    content = {"machine": describe_machine(), "samples": options.samples, "rows": rows}
    atomic_write(RESULTS, json.dumps(content, indent=1))
    sys.stdout.write(f"ratio {worst:.3f}\n")


if __name__ == "__main__":
    main()
