"""Is an exported file the model? Its runtime, in a fresh process, against PyTorch, on real pictures.

Boxes and scores of every row, and the detections that are left of them after suppression.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov7.data.images import letterbox
from yolov7.export.fresh import rows_of
from yolov7.inference.exported import Thresholds, rows_above
from yolov7.inference.postprocess import NMSOptions, suppress
from yolov7.model.anchors import Predictions
from yolov7.model.detector import Detector
from yolov7.structures import Detections

BATCHES = (1, 3)
LEAST_DETECTIONS = 50  # a picture: fewer say little
PACKAGE = Path(__file__).parents[2]

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass."""

    boxes: float = 1e-2  # pixels
    scores: float = 1e-4


FULL, HALF = Tolerance(), Tolerance(2.0, 2e-2)


@dataclass(frozen=True)
class Parity:
    """What a comparison found, of one input."""

    input: str
    boxes: float  # largest difference, pixels
    scores: float
    confidence: float  # of the detections
    detections: int  # least number in a picture
    unlike: int  # detections without a counterpart
    passed: bool


def make_inputs(pictures: Sequence[np.ndarray], size: tuple[int, int], stride: int) -> dict[str, np.ndarray]:
    """Batches of letterboxed pictures of two sizes, one of them rectangular; the first is ``size``."""
    batches = {}
    for height, width in _two_sizes(size, stride):
        for batch in BATCHES:
            chosen = [pictures[index % len(pictures)] for index in range(batch)]
            boxed = [letterbox(picture, (height, width), stride, auto=False)[0] for picture in chosen]
            stacked = np.stack(boxed).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            batches[f"{batch}x{height}x{width}"] = np.ascontiguousarray(stacked)
    return batches


def _two_sizes(size: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    height, width = size
    narrow = max(round(0.75 * height / stride), 1) * stride
    return [(height, width), (narrow, width) if narrow != height else (height, 2 * width)]


@torch.inference_mode()
def reference(model: Detector, inputs: dict[str, np.ndarray]) -> dict[str, list[Rows]]:
    """What PyTorch makes of the inputs, in float32, without any re-parameterization."""
    found = {}
    for name, images in inputs.items():
        pictures = zip(*model.eval().decode(model(torch.from_numpy(images))), strict=True)
        found[name] = [rows_of(Predictions(*picture)) for picture in pictures]
    return found


def run_fresh(file: Path, inputs: dict[str, np.ndarray], cfg: Path | None = None) -> dict[str, list[Rows]]:
    """What the file's own runtime makes of them, in a new process. Raises `RuntimeError` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **inputs)  # type: ignore[arg-type]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run([sys.executable, "-m", "yolov7.export.fresh", str(file), str(given), str(made),
                               *([str(cfg)] if cfg else [])],
                              env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise RuntimeError(f"{file}: cannot be run: {lines[-1] if lines else f'exit code {done.returncode}'}")
        with np.load(made) as arrays:
            return {name: [{key: arrays[f"{name}/{index}/{key}"] for key in ("boxes", "scores")}
                           for index in range(len(images))] for name, images in inputs.items()}


def compare(expected: dict[str, list[Rows]], found: dict[str, list[Rows]], tolerance: Tolerance) -> list[Parity]:
    """Rows and detections of every input. The threshold of the detections falls until each picture has enough."""
    table = []
    for name, pictures in expected.items():
        pairs = list(zip(pictures, found[name], strict=True))
        boxes, scores = (float(np.max([_apart(a[key], b[key]) for a, b in pairs])) for key in ("boxes", "scores"))
        confidence, kept = _enough(pictures)
        unlike = sum(_unlike(own, _detections(_in_order_of(a, b, tolerance), NMSOptions(confidence)), tolerance)
                     for own, (a, b) in zip(kept, pairs, strict=True))
        passed = boxes <= tolerance.boxes and scores <= tolerance.scores and not unlike
        table.append(Parity(name, boxes, scores, confidence, min(map(len, kept)), unlike, bool(passed)))
    return table


def compare_suppression(table: Sequence[Parity], rows: dict[str, list[Rows]], found: dict[str, list[Rows]],
                        thresholds: Thresholds) -> list[Parity]:
    """The comparison of a file's rows, together with that of its detections: are they those of our suppression?"""
    options = NMSOptions(thresholds.confidence, thresholds.iou, thresholds.most)
    whole = []
    for entry in table:
        unlike = entry.unlike
        for before, after in zip(rows[entry.input], found[entry.input], strict=True):
            kept = Detections(torch.from_numpy(after["boxes"]), *torch.from_numpy(after["scores"]).max(1))
            unlike += _unlike(_detections(before, options), kept, FULL)
        whole.append(replace(entry, unlike=unlike, passed=entry.passed and not unlike))
    return whole


def text(table: Sequence[Parity]) -> str:
    """For people: one line an input."""
    lines = [f"{'batch x H x W':<15}{'boxes, px':>11}{'scores':>10}{'detections':>12}{'above':>8}{'unlike':>8}"]
    lines += [f"{row.input:<15}{row.boxes:11.1e}{row.scores:10.1e}{f'>= {row.detections}':>12}{row.confidence:8.3g}"
              f"{row.unlike:8d}{'' if row.passed else '  differs'}" for row in table]
    return "\n".join(lines)


def as_records(table: Sequence[Parity]) -> list[dict[str, Any]]:
    """For the file beside the exported one."""
    return [{key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
             for key, value in vars(row).items()} for row in table]


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b).max()) if a.size else 0.0


def _detections(rows: Rows, options: NMSOptions) -> Detections:
    boxes, scores = torch.from_numpy(rows["boxes"]), torch.from_numpy(rows["scores"])
    return suppress(rows_above(boxes, scores, options.confidence), options)


def _in_order_of(expected: Rows, found: Rows, tolerance: Tolerance) -> Rows:
    """``found`` with the scores of ``expected`` where they are the same within the tolerance: which of two boxes of
    equal scores stays is decided by the last bit, and says nothing of the file."""
    if found["scores"].shape != expected["scores"].shape:
        return found
    same = np.abs(found["scores"] - expected["scores"]) <= tolerance.scores
    return {**found, "scores": np.where(same, expected["scores"], found["scores"])}


def _enough(pictures: Sequence[Rows]) -> tuple[float, list[Detections]]:
    """The highest threshold that leaves enough detections in every picture, and those."""
    every = [_detections(rows, NMSOptions(0.0)).scores for rows in pictures]
    last = [float(scores[LEAST_DETECTIONS - 1]) if len(scores) >= LEAST_DETECTIONS else 0.0 for scores in every]
    confidence = 0.999 * min(last)
    return confidence, [_detections(rows, NMSOptions(confidence)) for rows in pictures]


def _unlike(a: Detections, b: Detections, tolerance: Tolerance) -> int:
    """Detections of either that have no counterpart in the other."""
    apart = (a.boxes[:, None] - b.boxes).abs().amax(-1) <= tolerance.boxes
    same = apart & (a.labels[:, None] == b.labels) & ((a.scores[:, None] - b.scores).abs() <= tolerance.scores)
    return int((~same.any(1)).sum() + (~same.any(0)).sum())
