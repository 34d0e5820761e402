"""How well objects keep their numbers: films of the built-in shapes with known places, by each tracker.

Objects cross each other, pass behind a wall, leave and come back, or all of it in a crowd. Each film is a real video
that a model trained on the built-in shapes sees frame by frame, or, with ``--perfect``, the true boxes moved by a
pixel. Scores are IDF1 and MOTA of the package motmetrics (an object is found at IoU 0.5), and how often a number
changes. Writes ``scripts/results/tracking.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import motmetrics
import numpy as np
import torch
from machine import describe_machine
from made_films import FPS, HEIGHT, KINDS, WIDTH, Film, make_film

import yolov7
from yolov7.boxes import pairwise_iou
from yolov7.config import atomic_write
from yolov7.data.video import Frame, VideoInfo
from yolov7.inference.tracking import NO_TRACK, TRACK, TRACKERS, TrackOptions, Tracks
from yolov7.structures import Instances

METRICS = ("idf1", "mota", "num_switches", "num_fragmentations")
RESULT = Path(__file__).parent / "results" / "tracking.json"
Boxes = dict[int, tuple[float, ...]]


def followed(film: Film, tracker: str, buffer: float, model: Any, folder: Path) -> list[Boxes]:
    """Of each frame the boxes by number."""
    if model is None:
        return perfect(film, tracker, buffer)
    video = film.write(folder / f"{film.kind}.mp4")
    return [numbered(found) for found in model.track(video, tracker=tracker, buffer=buffer)]


def numbered(found: Instances) -> Boxes:
    """The boxes of the objects that have a number."""
    return {int(track): tuple(box) for track, box in zip(found.extra[TRACK].tolist(), found.boxes.tolist(), strict=True)
            if track != NO_TRACK}


def perfect(film: Film, tracker: str, buffer: float) -> list[Boxes]:
    """What a tracker makes of the true boxes, each moved by about a pixel."""
    rng, tracks = np.random.default_rng(0), Tracks(TrackOptions(tracker, buffer=buffer))
    info = VideoInfo(FPS, WIDTH, HEIGHT, len(film.frames))
    result = []
    for index, (image, truth) in enumerate(zip(film.frames, film.truth, strict=True), 1):
        boxes = np.array([*truth.values()], np.float32).reshape(-1, 4) + rng.normal(0, 1, (len(truth), 4))
        given = Instances(torch.from_numpy(boxes.astype(np.float32)), torch.full((len(truth),), 0.9),
                          torch.zeros(len(truth), dtype=torch.int64), ("object",))
        result.append(numbered(tracks.update(Frame(image, "film", "film", index, info, index / FPS), given)))
    return result


def score(films: list[Film], results: list[list[Boxes]]) -> dict[str, float]:
    """Of all films together."""
    accumulators = []
    for film, result in zip(films, results, strict=True):
        accumulator = motmetrics.MOTAccumulator(auto_id=True)
        for truth, found in zip(film.truth, result, strict=True):
            sides = [torch.tensor([*boxes.values()]).reshape(-1, 4) for boxes in (truth, found)]
            distances = 1 - pairwise_iou(*sides).double().numpy()
            accumulator.update([*truth], [*found], np.where(distances <= 0.5, distances, np.nan))
        accumulators.append(accumulator)
    table = motmetrics.metrics.create().compute_many(accumulators, metrics=METRICS, generate_overall=True)
    return {name: float(table.loc["OVERALL", name]) for name in METRICS}


def main() -> None:
    """Every tracker on every kind of film."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="", help="best.pt of a run on the built-in shapes")
    parser.add_argument("--perfect", action="store_true", help="true boxes instead of a model")
    parser.add_argument("--films", type=int, default=5, help="of each kind")
    parser.add_argument("--trackers", nargs="+", default=list(TRACKERS))
    parser.add_argument("--buffers", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="seconds")
    options = parser.parse_args()
    model = None if options.perfect else yolov7.load(options.weights or (), device="cpu")
    films = {kind: [make_film(kind, seed) for seed in range(options.films)] for kind in KINDS}
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tracker, buffer in itertools.product(options.trackers, options.buffers):
            row = f"{tracker}, {buffer:g} s"
            for kind, made in films.items():
                results = [followed(film, tracker, buffer, model, Path(folder)) for film in made]
                table.setdefault(row, {})[kind] = score(made, results)
            mean = np.mean([scores["idf1"] for scores in table[row].values()])
            shown = ", ".join(f"{kind} {scores['idf1']:.3f}" for kind, scores in table[row].items())
            sys.stdout.write(f"{row:16} IDF1 {mean:.3f}: {shown}\n")
            sys.stdout.flush()
    content = {"machine": describe_machine(), "films of each kind": options.films,
               "detections": "true boxes" if options.perfect else "a model's", "score": table}
    path = RESULT.with_name("tracking_perfect.json") if options.perfect else RESULT
    atomic_write(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
