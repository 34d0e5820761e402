"""Which recipe to fine-tune a small data set with: yolov7-tiny, 60 images, weights from other data, by recipe.

Two transfers, so that no recipe fits one set only: weights of the built-in shapes to 60 images of blood cells (BCCD),
and weights of blood cells to 60 images of shapes, both at 256 px. Each recipe runs with the same seeds; figures are
AP at the best epoch, and at the last. Writes ``scripts/results/recipes.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml
from machine import describe_machine

from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.data.catalog import open_data, open_split
from yolov7.engine.log import read_results

IMAGES, SIZE = 60, 256
RECIPES: dict[str, list[str]] = {  # name -> flags
    "custom": ["--hyp", "custom"],
    "custom, nominal 16": ["--hyp", "custom", "--nominal-batch", "16"],
    "custom, nominal 16, lr0 0.003": ["--hyp", "custom", "--nominal-batch", "16", "--set", "optimizer.lr0=0.003"],
    "custom, nominal 16, gains of tiny": ["--hyp", "custom", "--nominal-batch", "16", "--set", "loss.cls=0.5",
                                          "loss.obj=1.0"],  # what the recipe finetune was then
    "custom, nominal 16, less scale": ["--hyp", "custom", "--nominal-batch", "16", "--set", "augment.scale=0.3",
                                       "augment.translate=0.1"],
}


def small_set(data: str, folder: Path) -> str:
    """A data-set file of the first images of a split for training, and the whole split for validation."""
    path = folder / f"{data}{IMAGES}.yaml"
    if path.exists():
        return str(path)
    source = open_data(data)
    parts = {name: open_split(source, name) for name in ("train", "val")}
    for name, part in parts.items():
        truth = part.ground_truth()
        names = {image_id: path for image_id, path in zip(part.image_ids, part.paths, strict=True)}
        images = truth["images"][: IMAGES if name == "train" else None]
        kept = {image["id"] for image in images}
        content = {"categories": truth["categories"],
                   "images": [{"id": image["id"], "file_name": str(Path(names[image["id"]]).absolute()),
                               "width": image["width"], "height": image["height"]} for image in images],
                   "annotations": [a for a in truth["annotations"] if a["image_id"] in kept]}
        (folder / f"{data}_{name}.json").write_text(json.dumps(content), encoding="utf-8")
    root = str(Path(parts["train"].paths[0]).absolute().parents[2])
    description = {"path": root, **{name: {"images": f"images/{name}", "annotations":
                                           str((folder / f"{data}_{name}.json").absolute())} for name in parts}}
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return str(path)


def run(name: str, flags: list[str], weights: str, data: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One recipe on one set, with every seed; finished runs are read again."""
    rows = []
    for seed in options.seeds:
        label = f"{Path(data).stem}_{name}_{seed}".replace(" ", "").replace(",", "_")
        folder = options.project / label
        if not (folder / "results.png").exists():
            common = ["--weights", weights, "--cfg", "yolov7-tiny", "--data", data, "--img-size", str(SIZE), "--epochs",
                      str(options.epochs), "--batch-size", "16", "--device", "cpu", "--seed", str(seed), "--cache",
                      "ram", "--project", str(options.project), "--name", label, "--exist-ok"]
            if code := cli.main(["train", *common, *flags]):
                sys.exit(code)
        records = read_results(folder / "results.csv")
        best = max(records, key=lambda record: record.metrics.get("AP", 0))
        rows.append({"seed": seed, "best_AP": best.metrics["AP"], "best_epoch": best.epoch,
                     "last_AP": records[-1].metrics["AP"]})
    return rows


def main() -> None:
    """All recipes on both transfers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes-weights", default="", help="best.pt of a run on the built-in shapes")
    parser.add_argument("--cells-weights", default="", help="best.pt of a run on BCCD")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--project", type=Path, default=Path("runs/recipes"))
    options = parser.parse_args()
    options.project.mkdir(parents=True, exist_ok=True)
    transfers = {"shapes to cells": (options.shapes_weights, small_set("bccd", options.project)),
                 "cells to shapes": (options.cells_weights, small_set("shapes", options.project))}
    transfers = {name: pair for name, pair in transfers.items() if pair[0]}
    table: dict[str, Any] = {}
    for name in options.recipes:
        table[name] = {"flags": RECIPES[name]}
        for transfer, (weights, data) in transfers.items():
            rows = run(name, RECIPES[name], weights, data, options)
            table[name][transfer] = {"runs": rows, "best_AP": statistics.mean(row["best_AP"] for row in rows),
                                     "last_AP": statistics.mean(row["last_AP"] for row in rows)}
        means = {transfer: round(table[name][transfer]["best_AP"], 3) for transfer in transfers}
        sys.stdout.write(f"{name}: {means}\n")
        sys.stdout.flush()
    content = {"machine": describe_machine(), "images": IMAGES, "size": SIZE, "epochs": options.epochs,
               "recipes": table}
    path = Path(__file__).parent / "results" / "recipes.json"
    atomic_write(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
