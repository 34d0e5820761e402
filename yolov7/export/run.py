"""The export command: write each format, run it where it will run, compare it with the model as it was loaded."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from yolov7 import __version__
from yolov7.config import InputError, unknown, write_atomically
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import load_image
from yolov7.data.sources import Files, open_source
from yolov7.export import parity, tensorrt
from yolov7.export.parity import Parity, Rows
from yolov7.export.suppression import Thresholds
from yolov7.export.writers import WRITERS, Request, require
from yolov7.inference.exported import ExportFacts
from yolov7.inference.network import to_half
from yolov7.model import weights
from yolov7.model.original import export_state_dict
from yolov7.model.reparam import deployed, is_fused
from yolov7.model.weights import LoadedModel
from yolov7.options import ExportOptions

logger = logging.getLogger(__name__)

FORMATS = ("weights", "original", *WRITERS)
PICTURES = 3  # real ones, to compare on


@dataclass(frozen=True)
class _Job:
    """What all formats share."""

    options: ExportOptions
    loaded: LoadedModel
    request: Request
    stem: Path  # of the written files
    inputs: dict[str, np.ndarray]
    expected: dict[str, list[Rows]]


def export(options: ExportOptions, path: Path) -> bool:
    """Write the formats that are asked for; returns whether every one was written and equals the model.

    The reference is the model as it was loaded, before re-parameterization, in float32. The comparison is printed and
    stored beside the files. Raises `InputError`, before anything is written, for formats that are unknown or that
    this machine cannot write, and for flags that do not go together.
    """
    _check(options)
    loaded = weights.load_model(path, options.cfg)
    if "original" in options.format and is_fused(loaded.model):
        raise InputError(f"{path}: is re-parameterized and has no original layout; accepted: best.pt or last.pt of a "
                         "run")
    facts = _facts(options, loaded)
    pictures = _pictures(options, loaded)
    folder = Path(options.output) if options.output else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    inputs = parity.make_inputs(pictures, facts, _size(options, loaded))
    job = _Job(options, loaded, _request(options, loaded, facts), folder / path.stem, inputs,
               parity.reference(loaded.model, inputs))
    results = {name: _attempt(name, job) for name in dict.fromkeys(options.format)}
    report = folder / f"{path.stem}-parity.json"
    write_atomically(report, json.dumps(results, indent=1) + "\n")
    passed = [name for name, result in results.items() if result["passed"]]
    logger.info("written and equal to the model: %s; comparison in %s", ", ".join(passed) or "none", report)
    return len(passed) == len(results)


def _attempt(name: str, job: _Job) -> dict[str, object]:
    """Write and compare one format; what goes wrong is told, and the others go on."""
    try:
        path = job.stem.with_name(job.stem.name + (_OWN | WRITERS)[name][1])
        if name in _OWN:
            _OWN[name][0](job, path)
        else:
            WRITERS[name][0](job.request, path)
        table = _compare(name, path, job)
        if name == "tensorrt" and (engine := tensorrt.write_engine(path, job.options.fp16)):
            logger.info("tensorrt: %s", engine)
    except Exception as error:  # torch, onnx and openvino raise what they like
        logger.error("%s: failed: %s", name, " ".join(str(error).split())[:500] or type(error).__name__)
        return {"passed": False, "error": str(error)}
    passed = all(row.passed for row in table)
    logger.log(logging.INFO if passed else logging.ERROR, "%s: %s, %.1f MB\n%s", name, path, path.stat().st_size / 1e6,
               parity.text(table))
    return {"passed": passed, "file": path.name, "inputs": parity.as_records(table)}


def _compare(name: str, path: Path, job: _Job) -> list[Parity]:
    exact = name in _OWN or not job.options.fp16
    tolerance = parity.FULL if exact else parity.HALF
    if name == "tensorrt":
        with tensorrt.without_suppression(path) as rows:
            return parity.compare(job.expected, parity.run_fresh(rows, job.inputs), tolerance)
    if name == "original":  # its layout does not say which model it is
        with tempfile.TemporaryDirectory() as folder:
            cfg = Path(folder) / "model.yaml"
            cfg.write_text(yaml.safe_dump(dict(job.loaded.model.spec.definition), sort_keys=False), encoding="utf-8")
            return parity.compare(job.expected, parity.run_fresh(path, job.inputs, cfg), tolerance)
    found = parity.run_fresh(path, job.inputs)
    if name in WRITERS and job.request.facts.head == "end2end":
        return parity.compare_detections(job.expected, found, job.request.thresholds, tolerance)
    return parity.compare(job.expected, found, tolerance)


# --- our own formats -------------------------------------------------------------------------------------------


def _write_weights(job: _Job, path: Path) -> None:
    loaded, fused = job.loaded, deployed(job.loaded.model)
    description = weights.describe(fused, loaded.names, loaded.image_size, loaded.data, loaded.merged)
    weights.save({**description, "model": fused.state_dict(), "epoch": loaded.epoch}, path)


def _write_original(job: _Job, path: Path) -> None:
    weights.save(export_state_dict(job.loaded.model), path)


_OWN: dict[str, tuple[Callable[[_Job, Path], None], str]] = {
    "weights": (_write_weights, "-deploy.pt"), "original": (_write_original, "-original.pt")}


# --- what the flags mean ---------------------------------------------------------------------------------------


def _check(options: ExportOptions) -> None:
    for name in options.format:
        if name not in FORMATS:
            raise InputError(f"--format: {unknown('format', name, FORMATS)}")
        require(name)
    if "tensorrt" in options.format and options.head != "end2end":
        raise InputError(f"--format tensorrt: found --head {options.head}; accepted: --head end2end")
    if "torchscript" in options.format and options.head == "end2end":
        raise InputError("--head end2end: not for --format torchscript; accepted: onnx, openvino, tensorrt")


def _size(options: ExportOptions, loaded: LoadedModel) -> tuple[int, int]:
    sizes, stride = options.img_size or (loaded.image_size,), loaded.model.stride
    height, width = (-(-size // stride) * stride for size in (sizes[0], sizes[-1]))
    return height, width


def _facts(options: ExportOptions, loaded: LoadedModel) -> ExportFacts:
    height, width = _size(options, loaded)
    head = loaded.model.head
    return ExportFacts(
        loaded.model.spec.name, loaded.names, max(height, width), loaded.model.stride, options.head,
        tuple(tuple((w, h) for w, h in level) for level in head.anchors.tolist()), head.strides,
        None if options.dynamic or options.dynamic_batch else options.batch_size,
        None if options.dynamic else height, None if options.dynamic else width, options.with_preprocess, loaded.data,
        loaded.merged, package=__version__)


def _request(options: ExportOptions, loaded: LoadedModel, facts: ExportFacts) -> Request:
    model = deployed(loaded.model)
    if options.fp16:
        to_half(model, torch.float16)
    return Request(model, facts, Thresholds(options.conf_thres, options.iou_thres, options.max_det), options.fp16)


def _pictures(options: ExportOptions, loaded: LoadedModel) -> Sequence[np.ndarray]:
    """Some of ``--source``, else of the validation split that the weights name."""
    if options.source:
        source = open_source(options.source)
        if not isinstance(source, Files):
            raise InputError(f"--source {options.source!r}: a stream; accepted: a picture, a folder, a glob")
        found = [frame.image for frame, _ in zip(source, range(PICTURES), strict=False)]
        if not found:
            raise InputError(f"--source {options.source!r}: no picture in it; the first fault: {source.faults[0]}")
        return found
    try:
        paths = open_split(open_data(loaded.data), "val").paths[:PICTURES]
    except InputError as error:
        raise InputError(f"--source: needed for the comparison with PyTorch (pictures), as {error}") from None
    return [load_image(path) for path in paths]
