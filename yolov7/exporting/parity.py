"""Verify that an exported file reproduces PyTorch's outputs: its runtime, in a fresh process, on real images.

Compared are boxes, scores and a task's columns of every row, a task's maps, and the detections that NMS leaves.
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
from yolov7.exporting.subprocess_runner import COLUMN, MAP, rows_of
from yolov7.inference.exported import Thresholds, rows_above
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.model.detector import Detector
from yolov7.structures import Instances

BATCHES = (1, 3)
MIN_DETECTIONS = 50  # of an image: fewer say little
PACKAGE = Path(__file__).parents[2]

Rows = dict[str, np.ndarray]  # what `rows_of` gives of an image


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass."""

    boxes: float = 1e-2  # pixels
    scores: float = 1e-4
    values: float = 1e-3  # of a task's columns and maps; of values above 1 as a share of them


FULL, HALF = Tolerance(), Tolerance(2.0, 2e-2, 2e-2)


@dataclass(frozen=True)
class Parity:
    """What a comparison found, of one input."""

    input: str
    boxes: float  # largest difference, pixels
    scores: float
    confidence: float  # of the detections
    detections: int  # smallest number in an image
    unlike: int  # detections without a counterpart
    passed: bool
    values: float | None = None  # largest difference in a task's columns and maps, where there are some


def make_inputs(images: Sequence[np.ndarray], size: tuple[int, int], stride: int) -> dict[str, np.ndarray]:
    """Batches of letterboxed images of two sizes, one of them rectangular; the first is ``size``."""
    batches = {}
    for height, width in _two_sizes(size, stride):
        for batch in BATCHES:
            chosen = [images[index % len(images)] for index in range(batch)]
            boxed = [letterbox(image, (height, width), stride, auto=False)[0] for image in chosen]
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
        predictions = model.eval().decode(model(torch.from_numpy(images)))
        found[name] = [rows_of(image) for image in predictions.images()]
    return found


def run_fresh(file: Path, inputs: dict[str, np.ndarray], cfg: Path | None = None) -> dict[str, list[Rows]]:
    """What the file's own runtime makes of them, in a new process. Raises `RuntimeError` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **inputs)  # type: ignore[arg-type]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "yolov7.exporting.subprocess_runner", str(file), str(given), str(made)]
        done = subprocess.run([*command, *([str(cfg)] if cfg else [])], env=environment, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise RuntimeError(f"{file}: cannot be run: {lines[-1] if lines else f'exit code {done.returncode}'}")
        found: dict[str, list[Rows]] = {name: [{} for _ in images] for name, images in inputs.items()}
        with np.load(made) as arrays:
            for place in arrays.files:
                name, index, key = place.split("/", 2)
                found[name][int(index)][key] = arrays[place]
        return found


def compare(expected: dict[str, list[Rows]], found: dict[str, list[Rows]], tolerance: Tolerance) -> list[Parity]:
    """Rows and detections of every input. The threshold of the detections falls until each image has enough."""
    table = []
    for name, images in expected.items():
        pairs = list(zip(images, found[name], strict=True))
        boxes, scores = (float(np.max([_apart(a[key], b[key]) for a, b in pairs])) for key in ("boxes", "scores"))
        values = _apart_in_values(pairs)
        confidence, kept = _enough(images)
        unlike = sum(_unlike(own, _detections(_in_order_of(a, b, tolerance), NMSOptions(confidence)), tolerance)
                     for own, (a, b) in zip(kept, pairs, strict=True))
        passed = (boxes <= tolerance.boxes and scores <= tolerance.scores and (values or 0.0) <= tolerance.values
                  and not unlike)
        table.append(Parity(name, boxes, scores, confidence, min(map(len, kept)), unlike, bool(passed), values))
    return table


def compare_nms(table: Sequence[Parity], rows: dict[str, list[Rows]], found: dict[str, list[Rows]],
                thresholds: Thresholds) -> list[Parity]:
    """The comparison of a file's rows, together with that of its detections: are they those of our NMS?"""
    options = NMSOptions(thresholds.confidence, thresholds.iou, thresholds.most)
    whole = []
    for entry in table:
        unlike, pairs = entry.unlike, list(zip(rows[entry.input], found[entry.input], strict=True))
        for before, after in pairs:
            kept = Instances(torch.from_numpy(after["boxes"]), *torch.from_numpy(after["scores"]).max(1),
                             extra=_columns(after))
            unlike += _unlike(_detections(before, options), kept, FULL)
        maps_alike = (_apart_in_values(pairs, (MAP,)) or 0.0) <= FULL.values
        whole.append(replace(entry, unlike=unlike, passed=entry.passed and not unlike and maps_alike))
    return whole


def text(table: Sequence[Parity]) -> str:
    """For people: one line an input, with a column for the values of a task where there are some."""
    of_task = any(row.values is not None for row in table)
    values = f"{'values':>10}" if of_task else ""
    lines = [f"{'batch x H x W':<15}{'boxes, px':>11}{'scores':>10}{values}{'detections':>12}{'above':>8}{'unlike':>8}"]
    for row in table:
        values = f"{row.values or 0.0:10.1e}" if of_task else ""
        lines.append(f"{row.input:<15}{row.boxes:11.1e}{row.scores:10.1e}{values}{f'>= {row.detections}':>12}"
                     f"{row.confidence:8.3g}{row.unlike:8d}{'' if row.passed else '  differs'}")
    return "\n".join(lines)


def as_records(table: Sequence[Parity]) -> list[dict[str, Any]]:
    """For the file beside the exported one."""
    return [{key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
             for key, value in vars(row).items() if value is not None} for row in table]


def _apart(a: np.ndarray, b: np.ndarray, relative: bool = False) -> float:
    """The largest difference; if ``relative``, of values above 1 as a share of them."""
    if a.shape != b.shape:
        return math.inf
    size = np.maximum(np.abs(a.astype(np.float64)), 1) if relative else 1
    return float((np.abs(a.astype(np.float64) - b) / size).max()) if a.size else 0.0


def _apart_in_values(pairs: Sequence[tuple[Rows, Rows]], kinds: tuple[str, ...] = (COLUMN, MAP)) -> float | None:
    """The largest relative difference in a task's columns and maps; None where there are none."""
    found = [_apart(a[key], b[key], relative=True) if key in a and key in b else math.inf
             for a, b in pairs for key in {**a, **b} if key.startswith(kinds)]
    return float(np.max(found)) if found else None


def _columns(rows: Rows) -> dict[str, torch.Tensor]:
    return {key.removeprefix(COLUMN): torch.from_numpy(value) for key, value in rows.items() if key.startswith(COLUMN)}


def _detections(rows: Rows, options: NMSOptions) -> Instances:
    boxes, scores = torch.from_numpy(rows["boxes"]), torch.from_numpy(rows["scores"])
    return nms_image(rows_above(boxes, scores, options.confidence, _columns(rows)), options)


def _in_order_of(expected: Rows, found: Rows, tolerance: Tolerance) -> Rows:
    """``found`` with the scores of ``expected`` where they are the same within the tolerance: which of two boxes of
    equal scores stays is decided by the last bit, and says nothing of the file."""
    if found["scores"].shape != expected["scores"].shape:
        return found
    same = np.abs(found["scores"] - expected["scores"]) <= tolerance.scores
    return {**found, "scores": np.where(same, expected["scores"], found["scores"])}


def _enough(images: Sequence[Rows]) -> tuple[float, list[Instances]]:
    """The highest threshold that leaves enough detections in every image, and those."""
    every = [_detections(rows, NMSOptions(0.0)).scores for rows in images]
    last = [float(scores[MIN_DETECTIONS - 1]) if len(scores) >= MIN_DETECTIONS else 0.0 for scores in every]
    confidence = 0.999 * min(last)
    return confidence, [_detections(rows, NMSOptions(confidence)) for rows in images]


def _unlike(a: Instances, b: Instances, tolerance: Tolerance) -> int:
    """Detections of either that have no counterpart in the other."""
    apart = (a.boxes[:, None] - b.boxes).abs().amax(-1) <= tolerance.boxes
    same = apart & (a.labels[:, None] == b.labels) & ((a.scores[:, None] - b.scores).abs() <= tolerance.scores)
    for name, column in a.extra.items():
        if name in b.extra:  # one that is missing is told by the values
            width = math.prod(column.shape[1:])
            own, other = (part.double().reshape(len(part), width) for part in (column, b.extra[name]))
            size = own.abs().clamp(min=1)[:, None]
            same &= ((own[:, None] - other).abs() / size).amax(-1) <= tolerance.values
    return int((~same.any(1)).sum() + (~same.any(0)).sum())
