"""Verify that an exported file reproduces PyTorch's outputs: its runtime, in a fresh process, on real images.

Compared are boxes, scores and a task's columns of every row, a task's maps, and the detections that NMS leaves, with
their masks where the task finds some.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov7.data.images import letterbox
from yolov7.exporting.graphs import ABOVE
from yolov7.exporting.subprocess_runner import COLUMN, MAP, MASKS, rows_of
from yolov7.inference.exported import Thresholds, rows_above
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.model.detector import Detector
from yolov7.structures import Instances

BATCHES = (1, 3)
MIN_DETECTIONS = 50  # of an image: fewer say little
PACKAGE = Path(__file__).parents[2]

Rows = dict[str, np.ndarray]  # what `rows_of` gives of an image
# boxes [1, N, 4], then columns and maps of the detections of an image -> their masks [1, N, h, w]
MakeMasks = Callable[..., Tensor]


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass."""

    boxes: float = 1e-2  # pixels
    scores: float = 1e-4
    values: float = 1e-3  # of a task's columns and maps; of values above 1 as a share of them
    mask_iou: float = 0.99  # at least this, of the masks of one detection,
    mask_pixels: int = 2  # or no more pixels than these that are not the same


FULL, HALF = Tolerance(), Tolerance(2.0, 2e-2, 2e-2, 0.9, 8)


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
    outputs: Mapping[str, float] | None = None  # the same of each of them by its name
    mask_iou: float | None = None  # lowest of the masks of a detection, where the task finds some
    mask_pixels: int | None = None  # most pixels of a mask that are not the same


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


def compare(expected: dict[str, list[Rows]], found: dict[str, list[Rows]], tolerance: Tolerance,
            make_masks: MakeMasks | None = None) -> list[Parity]:
    """Rows and detections of every input. The threshold of the detections falls until each image has enough."""
    table = []
    for name, images in expected.items():
        pairs = list(zip(images, found[name], strict=True))
        boxes, scores = (float(np.max([_apart(a[key], b[key]) for a, b in pairs])) for key in ("boxes", "scores"))
        outputs = _apart_in_values(pairs)
        values = _largest(outputs) if outputs else None
        confidence, kept = _enough(images)
        unlike, masks = 0, _MaskDifference()
        for own, (a, b) in zip(kept, pairs, strict=True):
            other = _detections(_in_order_of(a, b, tolerance), NMSOptions(confidence))
            unlike += _unlike(own, other, tolerance)
            if make_masks:
                one, two = _paired(own, other, tolerance)
                # of the same boxes, which are judged by themselves: an edge moves the mask by whole cells
                masks.add(_made(one, a, make_masks), _made(replace(two, boxes=one.boxes), b, make_masks), tolerance)
        passed = (boxes <= tolerance.boxes and scores <= tolerance.scores and (values or 0.0) <= tolerance.values
                  and not unlike and masks.passed)
        table.append(Parity(name, boxes, scores, confidence, min(map(len, kept)), unlike, bool(passed), values,
                            outputs or None, *masks.numbers(make_masks)))
    return table


def compare_nms(table: Sequence[Parity], rows: dict[str, list[Rows]], found: dict[str, list[Rows]],
                thresholds: Thresholds, make_masks: MakeMasks | None = None) -> list[Parity]:
    """The comparison of a file's rows, together with that of its detections: are they those of our NMS?

    With ``make_masks`` also that of the masks that the file gives.
    """
    options = NMSOptions(thresholds.confidence, thresholds.iou, thresholds.most)
    whole = []
    for entry in table:
        unlike, pairs = entry.unlike, list(zip(rows[entry.input], found[entry.input], strict=True))
        masks = _MaskDifference(1.0 if entry.mask_iou is None else entry.mask_iou, entry.mask_pixels or 0)
        for before, after in pairs:
            kept = Instances(torch.from_numpy(after["boxes"]), *torch.from_numpy(after["scores"]).max(1),
                             extra=_columns(after))
            own = _detections(before, options)
            unlike += _unlike(own, kept, FULL)
            if make_masks:
                one, two = _paired(own, kept, FULL)
                masks.add(_made(one, before, make_masks), two.extra[MASKS] > ABOVE, FULL)
        maps_alike = _largest(_apart_in_values(pairs, (MAP,))) <= FULL.values
        iou, pixels = masks.numbers(make_masks) if make_masks else (entry.mask_iou, entry.mask_pixels)
        whole.append(replace(entry, unlike=unlike, passed=entry.passed and not unlike and maps_alike and masks.passed,
                             mask_iou=iou, mask_pixels=pixels))
    return whole


def text(table: Sequence[Parity]) -> str:
    """For people: one line an input, with columns for the values and the masks of a task where there are some."""
    of_task, has_masks = (any(getattr(row, key) is not None for row in table) for key in ("values", "mask_iou"))
    values = (f"{'values':>10}" if of_task else "") + (f"{'mask IoU':>10}" if has_masks else "")
    lines = [f"{'batch x H x W':<15}{'boxes, px':>11}{'scores':>10}{values}{'detections':>12}{'above':>8}{'unlike':>8}"]
    for row in table:
        values = f"{row.values or 0.0:10.1e}" if of_task else ""
        values += f"{row.mask_iou or 0.0:10.4f}" if has_masks else ""
        lines.append(f"{row.input:<15}{row.boxes:11.1e}{row.scores:10.1e}{values}{f'>= {row.detections}':>12}"
                     f"{row.confidence:8.3g}{row.unlike:8d}{'' if row.passed else '  differs'}")
    return "\n".join(lines)


def as_records(table: Sequence[Parity]) -> list[dict[str, Any]]:
    """For the file beside the exported one."""
    return [{key: _plain(value) for key, value in vars(row).items() if value is not None} for row in table]


def _plain(value: Any) -> Any:
    """As JSON takes it, which has no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _apart(a: np.ndarray, b: np.ndarray, relative: bool = False) -> float:
    """The largest difference; if ``relative``, of values above 1 as a share of them."""
    if a.shape != b.shape:
        return math.inf
    size = np.maximum(np.abs(a.astype(np.float64)), 1) if relative else 1
    return float((np.abs(a.astype(np.float64) - b) / size).max()) if a.size else 0.0


def _apart_in_values(pairs: Sequence[tuple[Rows, Rows]], kinds: tuple[str, ...] = (COLUMN, MAP)) -> dict[str, float]:
    """The largest relative difference in each of a task's columns and maps, by its name."""
    found: dict[str, float] = {}
    for a, b in pairs:
        for key in (key for key in {**a, **b} if key.startswith(kinds)):
            apart = _apart(a[key], b[key], relative=True) if key in a and key in b else math.inf
            name = key.partition("/")[2]
            found[name] = float(np.max([found.get(name, 0.0), apart]))  # NaN stays
    return found


def _largest(apart: Mapping[str, float]) -> float:
    """Of the differences of all outputs; NaN where one is."""
    return float(np.max(list(apart.values()), initial=0.0))


def _columns(rows: Rows, kind: str = COLUMN) -> dict[str, Tensor]:
    return {key.removeprefix(kind): torch.from_numpy(value) for key, value in rows.items() if key.startswith(kind)}


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


def _same(a: Instances, b: Instances, tolerance: Tolerance) -> Tensor:
    """Which detections are the same: bool ``[N, M]``."""
    apart = (a.boxes[:, None] - b.boxes).abs().amax(-1) <= tolerance.boxes
    same = apart & (a.labels[:, None] == b.labels) & ((a.scores[:, None] - b.scores).abs() <= tolerance.scores)
    for name, column in a.extra.items():
        if name in b.extra:  # one that is missing is told by the values
            width = math.prod(column.shape[1:])
            own, other = (part.double().reshape(len(part), width) for part in (column, b.extra[name]))
            size = own.abs().clamp(min=1)[:, None]
            same &= ((own[:, None] - other).abs() / size).amax(-1) <= tolerance.values
    return same


def _unlike(a: Instances, b: Instances, tolerance: Tolerance) -> int:
    """Detections of either that have no counterpart in the other."""
    same = _same(a, b, tolerance)
    return int((~same.any(1)).sum() + (~same.any(0)).sum())


def _paired(a: Instances, b: Instances, tolerance: Tolerance) -> tuple[Instances, Instances]:
    """The detections of both that are the same, row by row."""
    same = _same(a, b, tolerance)
    rows = same.any(1).nonzero().flatten()
    return a[rows], b[same[rows].int().argmax(1) if len(rows) else rows]


# --- masks -----------------------------------------------------------------------------------------------------


def _made(found: Instances, rows: Rows, make_masks: MakeMasks) -> Tensor:
    """The masks of detections ``[N, h, w]``, as a graph would make them of these columns and of the image's maps."""
    if not len(found):
        return torch.zeros(0, 1, 1, dtype=torch.bool)
    parts = (found.boxes, *found.extra.values(), *_columns(rows, MAP).values())
    return make_masks(*(part[None] for part in parts))[0] > ABOVE


@dataclass
class _MaskDifference:
    """The worst of the masks of detections that are the same."""

    iou: float = 1.0
    pixels: int = 0
    passed: bool = True

    def add(self, masks: Tensor, others: Tensor, tolerance: Tolerance) -> None:
        """Those of another image, bool ``[N, h, w]``."""
        if not len(masks):
            return
        if masks.shape != others.shape:
            self.iou, self.passed = 0.0, False
            return
        union, apart = (masks | others).flatten(1).sum(1), (masks ^ others).flatten(1).sum(1)
        iou = 1 - apart / union.clamp(min=1)
        self.iou, self.pixels = min(self.iou, float(iou.min())), max(self.pixels, int(apart.max()))
        self.passed &= bool(((iou >= tolerance.mask_iou) | (apart <= tolerance.mask_pixels)).all())

    def numbers(self, make_masks: MakeMasks | None) -> tuple[float, int] | tuple[None, None]:
        """For the report, where there are masks."""
        return (self.iou, self.pixels) if make_masks else (None, None)
