"""Prototypes or blending: yolov7-tiny-seg and yolov7-tiny-mask from the same detector, in equal time.

Per seed yolov7-tiny learns the built-in shapes; its weights start both networks, which then train for --budget seconds
of processor time each: one epoch of each is timed first, and the schedule has as many as fit. Scored on ``val`` of the
shapes are masks as each way makes them: AP, AP50, AP75, that of objects below 32 x 32 px (APs) and of those above
(APm: none has 96 x 96 px), and the milliseconds of an image from pixels to masks, both networks in turn. The ways of
yolov7-tiny-mask to count masks in scores (``--mask-scores``) and those of yolov7-tiny-seg to make masks (``--masks``)
stand in rows of their own.

Writes ``scripts/results/compare_masks.json``, after every seed, and goes on from it and from the trainings that ended.
The last line is the ratio of the mask AP of blending to that of prototypes, each in its usual way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compare_tasks import log_to, mean_and_range, say
from machine import describe_machine

import yolov7
from yolov7 import cli
from yolov7.config import atomic_write
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import load_image

RESULTS = Path(__file__).parent / "results" / "compare_masks.json"
DATA, DETECTOR = "shapes", "yolov7-tiny"
MODELS = ("yolov7-tiny-seg", "yolov7-tiny-mask")
# how masks are made or counted, the usual way of `test` first
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    MODELS[0]: {"fine": {}, "upsampled": {"masks": "upsampled"}, "soft": {"masks": "soft"}},
    MODELS[1]: {"kept": {}, "all": {"mask_scores": "all"}, "none": {"mask_scores": "none"}}}
KEYS = ("AP", "AP50", "AP75", "APs", "APm")
TIMED = 40  # images
IMAGE_SIZE = 192


@dataclass(frozen=True)
class Place:
    """Where runs go, and what all of them share."""

    project: Path
    budget: float  # seconds of the processor
    device: str


def train(place: Place, name: str, *flags: str) -> tuple[Path, float]:
    """A run's best weights, and the seconds of the processor that it took; one that has ended is not run again."""
    best, ended = place.project / name / "weights" / "best.pt", place.project / "logs" / f"{name}.json"
    if ended.exists() and (known := json.loads(ended.read_text(encoding="utf-8")))["flags"] == [*flags]:
        return best, known["seconds"]
    started = time.process_time()
    common = ["train", "--data", DATA, "--device", place.device, "--workers", "0", "--cache", "ram", "--patience", "0",
              "--project", str(place.project), "--name", name, "--exist-ok"]
    with log_to(place.project / "logs" / f"{name}.log"):
        code = cli.main([*common, *flags])
    if code:
        raise SystemExit(f"{name}: exit code {code}; see {place.project / 'logs' / name}.log")
    seconds = time.process_time() - started
    atomic_write(ended, json.dumps({"flags": flags, "seconds": seconds}))
    return best, seconds


def run_seed(seed: int, place: Place) -> dict[str, Any]:
    """Train the detector and both networks, and score them."""
    start, _ = train(place, f"detector-{seed}", "--cfg", DETECTOR, "--seed", str(seed))
    found: dict[str, Any] = {}
    weights: dict[str, Path] = {}
    for model in MODELS:
        flags = ("--cfg", model, "--weights", str(start), "--seed", str(seed))
        _, once = train(place, f"{model}-{seed}-one", *flags, "--epochs", "1")
        _, twice = train(place, f"{model}-{seed}-two", *flags, "--epochs", "2")
        cost = twice - once  # without the start
        epochs = max(round((place.budget - (once - cost)) / cost), 1)
        weights[model], taken = train(place, f"{model}-{seed}", *flags, "--epochs", str(epochs))
        found[model] = {"epochs": epochs, "seconds of the processor": round(taken, 1),
                        "ways": {way: score(weights[model], place, **how) for way, how in WAYS[model].items()}}
        best = max(found[model]["ways"].items(), key=lambda entry: entry[1]["AP"])
        say(f"seed {seed}, {model}: {epochs} epochs, mask AP {best[1]['AP']:.3f} ({best[0]})")
    for model, milliseconds in times_in_turn(weights, place).items():
        found[model]["milliseconds"] = milliseconds
    return found


def score(weights: Path, place: Place, **how: Any) -> dict[str, float]:
    """Numbers of the masks on ``val``."""
    with log_to(place.project / "logs" / "test.log"):
        run = yolov7.test(weights=weights, data=DATA, device=place.device, project=place.project / "test",
                          img_size=IMAGE_SIZE, workers=0, **how)
    numbers = run.evaluation.results["segm"].numbers
    return {key: round(numbers[key][0], 4) for key in KEYS}


def times_in_turn(weights: Mapping[str, Path], place: Place) -> dict[str, float]:
    """Median milliseconds from an image to its masks."""
    models = {model: yolov7.load(path, device=place.device) for model, path in weights.items()}
    images = [load_image(path) for path in open_split(open_data(DATA), "val").paths[:TIMED]]
    spent: dict[str, list[float]] = {model: [] for model in models}
    for image in images:
        for name, model in models.items():
            started = time.perf_counter()
            model(image)
            spent[name].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(times), 1) for name, times in spent.items()}


def table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The means over the seeds as Markdown."""
    lines = [f"| model | masks | epochs | ms an image | {' | '.join(KEYS)} |", f"|{'---|' * (4 + len(KEYS))}"]
    for model in MODELS:
        for way in WAYS[model]:
            rows = [seed[model] for seed in seeds]
            epochs = "/".join(sorted({str(row["epochs"]) for row in rows}))
            first = way == next(iter(WAYS[model]))
            milliseconds = f"{statistics.mean(row['milliseconds'] for row in rows):.1f}" if first else ""
            numbers = [mean_and_range([row["ways"][way][key] for row in rows]) for key in KEYS]
            lines.append(f"| {model} | {way} | {epochs} | {milliseconds} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=400.0, help="seconds of the processor for a training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--project", type=Path, default=Path("runs/compare_masks"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = Place(options.project.absolute(), options.budget, options.device)
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"seeds": {}}
    if content["seeds"] and content["budget"] != options.budget:
        raise SystemExit(f"{RESULTS}: is of --budget {content['budget']:g}; take that, or another file")
    for seed in (seed for seed in options.seeds if str(seed) not in content["seeds"]):
        content = {"machine": describe_machine(), "budget": options.budget, "threads": options.threads,
                   "seeds": content["seeds"] | {str(seed): run_seed(seed, place)}}
        atomic_write(RESULTS, json.dumps(content, indent=1) + "\n")
    seeds = list(content["seeds"].values())
    say(f"\n{table(seeds)}")
    usual = [statistics.mean(seed[model]["ways"][next(iter(WAYS[model]))]["AP"] for seed in seeds) for model in MODELS]
    say(f"ratio {usual[1] / usual[0]:.3f}")


if __name__ == "__main__":
    main()
