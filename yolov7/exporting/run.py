"""The export command: write each format, run it where it will run, compare it with the model as it was loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from yolov7 import __version__
from yolov7.config import InputError, atomic_write, unknown
from yolov7.config.options import ExportOptions
from yolov7.data.catalog import open_data, open_split
from yolov7.data.images import load_image
from yolov7.data.sources import Files, open_source
from yolov7.exporting import parity, tensorrt
from yolov7.exporting.graphs import MasksOf, column_names
from yolov7.exporting.parity import Parity, Rows
from yolov7.exporting.strip_nms import without_nms
from yolov7.exporting.writers import WRITERS, Request, require
from yolov7.inference.exported import FIXED_INPUT, INPUT, ExportFacts, Thresholds
from yolov7.inference.network import to_half
from yolov7.model import weights
from yolov7.model.heads.base import Head
from yolov7.model.reference.layout import EXPORTED, export_state_dict
from yolov7.model.reparam import deployed, is_fused
from yolov7.model.weights import LoadedModel
from yolov7.runtime.plugins import package_of

logger = logging.getLogger(__name__)

FORMATS = ("weights", "original", *WRITERS)
IMAGES = 3  # real ones, to compare on


@dataclass(frozen=True)
class ExportRun:
    """What was written, and how it compares with the model."""

    files: dict[str, Path]  # by format, those that equal the model
    failed: dict[str, str]  # by format: what went wrong
    report: Path  # the comparison, JSON

    @property
    def exit_code(self) -> int:
        """1 if a format could not be written, or differs from the model."""
        return int(bool(self.failed))


@dataclass(frozen=True)
class _Job:
    """What all formats share."""

    options: ExportOptions
    loaded: LoadedModel
    request: Request
    stem: Path  # of the written files
    inputs: dict[str, np.ndarray]
    expected: dict[str, list[Rows]]


def export(options: ExportOptions, path: Path) -> ExportRun:
    """Write the formats that are asked for, and compare each with the model.

    The reference is the model as it was loaded, before re-parameterization, in float32. The comparison is printed and
    stored beside the files. Raises `InputError`, before anything is written, for formats that are unknown or that
    this machine cannot write, and for flags that do not go together.
    """
    _check(options)
    loaded = weights.load_model(path, options.cfg)
    if "original" in options.format and is_fused(loaded.model):
        raise InputError(f"{path}: is re-parameterized and has no original layout; accepted: best.pt or last.pt of a "
                         "run")
    _check_task(options, loaded.model.head)
    images = _images(options, loaded)
    folder = _folder(options.output) if options.output else path.parent
    size = _size(options, loaded)
    inputs = parity.make_inputs(images, size, loaded.model.stride)
    job = _Job(options, loaded, make_request(options, loaded, size), folder / path.stem, inputs,
               parity.reference(loaded.model, inputs))
    results = {name: _attempt(name, job) for name in dict.fromkeys(options.format)}
    report = folder / f"{path.stem}-parity.json"
    atomic_write(report, json.dumps(_earlier(report) | results, indent=1) + "\n")
    passed = [name for name, result in results.items() if result["passed"]]
    logger.info("written and equal to the model: %s; comparison in %s", ", ".join(passed) or "none", report)
    failed = {name: str(result.get("error", "differs from the model")) for name, result in results.items()
              if name not in passed}
    return ExportRun({name: folder / str(results[name]["file"]) for name in passed}, failed, report)


def _attempt(name: str, job: _Job) -> dict[str, object]:
    """Write and compare one format; what goes wrong is told, and the others go on."""
    path = job.stem.with_name(job.stem.name + (_OWN | WRITERS)[name][1])
    try:
        if name in _OWN:
            _OWN[name][0](job, path)
        else:
            WRITERS[name][0](job.request, path)
        table = _compare(name, path, job)
    except Exception as error:  # torch, onnx and openvino raise what they like
        return _failure(name, error)
    passed = all(row.passed for row in table)
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    logger.log(logging.INFO if passed else logging.ERROR, "%s: %s, %.1f MB\n%s", name, path,
               sum(file.stat().st_size for file in files) / 1e6, parity.text(table))
    if (fewest := min(row.detections for row in table)) < parity.MIN_DETECTIONS:
        logger.warning("%s: parity was checked on only %d detections an image (%d recommended); use --source", name,
                       fewest, parity.MIN_DETECTIONS)
    result = {"passed": passed, "file": path.name, "inputs": parity.as_records(table)}
    return result | _add_engine(path, job) if name == "tensorrt" else result


def _add_engine(path: Path, job: _Job) -> dict[str, object]:
    """What there is to say of an engine; that of the graph stands."""
    try:
        engine = tensorrt.write_engine(path, job.options.fp16, not _is_dynamic(job.options))
    except Exception as error:  # of TensorRT
        return _failure("tensorrt", error)
    if engine is None:
        return {}
    logger.info("tensorrt: %s, which is not compared", engine)
    return {"engine": engine.name}


def _failure(name: str, error: Exception) -> dict[str, object]:
    logger.error("%s: failed: %s", name, " ".join(str(error).split())[:500] or type(error).__name__)
    return {"passed": False, "error": str(error)}


def _compare(name: str, path: Path, job: _Job) -> list[Parity]:
    facts, own = job.request.facts, name in _OWN
    tolerance = parity.FULL if own or not job.options.fp16 else parity.HALF
    inputs = {key: images for key, images in job.inputs.items()
              if own or facts.height is None or images.shape[2:] == (facts.height, facts.width)}
    expected, head = {key: job.expected[key] for key in inputs}, job.loaded.model.head
    make_masks = MasksOf(head, facts) if head.has_masks else None
    if own or facts.thresholds is None:
        return parity.compare(expected, parity.run_fresh(path, inputs), tolerance, make_masks)
    with without_nms(path, plugin=name == "tensorrt") as rows:
        found = parity.run_fresh(rows, inputs)
    table = parity.compare(expected, found, tolerance, make_masks)
    if name == "tensorrt":  # nothing here can run its NMS
        return table
    return parity.compare_nms(table, found, parity.run_fresh(path, inputs), facts.thresholds,
                              make_masks if facts.masks else None)


def _earlier(report: Path) -> dict[str, object]:
    """Comparisons of files of other formats that still stand there."""
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        return {name: result for name, result in content.items() if (report.parent / result["file"]).is_file()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # none so far, or not ours
        return {}


# --- our own formats -------------------------------------------------------------------------------------------


def _write_weights(job: _Job, path: Path) -> None:
    loaded, fused = job.loaded, deployed(job.loaded.model)
    description = weights.describe(fused, loaded.names, loaded.image_size, loaded.data, loaded.merged)
    weights.save({**description, "model": fused.state_dict(), "epoch": loaded.epoch}, path)


def _write_original(job: _Job, path: Path) -> None:
    loaded = job.loaded
    description = weights.describe(loaded.model, loaded.names, loaded.image_size, loaded.data, loaded.merged)
    weights.save(weights.reference_content(description, export_state_dict(loaded.model), loaded.epoch), path)


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
    for name in ("conf_thres", "iou_thres", "max_det", "masks"):
        if options.head != "end2end" and getattr(options, name) != getattr(ExportOptions(), name):
            raise InputError(f"--{name.replace('_', '-')}: is for --head end2end; found --head {options.head}")
    if options.batch_size != 1 and _is_dynamic(options):
        raise InputError(f"--batch-size {options.batch_size}: is for graphs of one batch; leave it out, or --dynamic "
                         "and --dynamic-batch")
    if options.fp16 and set(options.format) <= set(_OWN):
        raise InputError(f"--fp16: not for --format {', '.join(options.format)}; accepted: {', '.join(WRITERS)}")
    if options.img_size and len(options.img_size) > len(("height", "width")):
        raise InputError(f"--img-size: found {len(options.img_size)} numbers; accepted: height and width, or one")


def _check_task(options: ExportOptions, head: Head) -> None:
    """Formats that cannot hold what a task adds to a detector's outputs."""
    name, columns = type(head).__name__, column_names(head)
    if options.masks != ExportOptions().masks and not head.has_masks:
        raise InputError(f"--masks {options.masks}: is for models of instance segmentation; {name} finds no masks")
    if "tensorrt" in options.format and columns:
        raise InputError(f"--format tensorrt: its NMS does not tell which rows it keeps: {', '.join(columns)} of "
                         f"{name} would be lost; accepted: onnx, openvino")
    if "original" in options.format and name not in EXPORTED:
        raise InputError(f"--format original: the reference implementation has no layout for "
                         f"{', '.join((*columns, *head.map_names))} of {name}; accepted: weights, {', '.join(WRITERS)}")


def _is_dynamic(options: ExportOptions) -> bool:
    return options.dynamic or options.dynamic_batch


def _size(options: ExportOptions, loaded: LoadedModel) -> tuple[int, int]:
    sizes, stride = options.img_size or (loaded.image_size,), loaded.model.stride
    height, width = (-(-size // stride) * stride for size in (sizes[0], sizes[-1]))
    if (height, width) != (sizes[0], sizes[-1]):
        logger.warning("--img-size %d %d: rounded up to multiples of %d: %d %d", sizes[0], sizes[-1], stride, height,
                       width)
    return height, width


def _folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {name!r}: cannot be made a folder: {error.strerror}") from None
    return folder


def make_request(options: ExportOptions, loaded: LoadedModel, size: tuple[int, int]) -> Request:
    """What the flags ask for, of a model and for the size (height, width) of its inputs."""
    (height, width), head = size, loaded.model.head
    thresholds = Thresholds(options.conf_thres, options.iou_thres, options.max_det)
    facts = ExportFacts(
        loaded.model.spec.name, loaded.names, max(height, width), loaded.model.stride, options.head,
        tuple(tuple((w, h) for w, h in level) for level in head.anchors.tolist()), head.strides,
        None if _is_dynamic(options) else options.batch_size, None if options.dynamic else height,
        None if options.dynamic else width, thresholds if options.head == "end2end" else None,
        options.with_preprocess, loaded.data, loaded.merged,
        INPUT if options.dynamic else FIXED_INPUT.format(height=height, width=width), package=__version__,
        block=type(head).__name__, channels=dict(head.channels.widths) if head.channels.extra else {},
        columns=column_names(head), maps=head.map_names, masks=_masks(options, head),
        task_package=package_of(type(head)), arguments=dict(loaded.model.spec.head.arguments))
    model = deployed(loaded.model)
    if options.fp16:
        to_half(model, torch.float16)
    return Request(model, facts)


def _masks(options: ExportOptions, head: Head) -> Literal["", "low", "full"]:
    """The size of the masks that the graph gives."""
    return "" if options.head != "end2end" or options.masks == "none" or not head.has_masks else options.masks


def _images(options: ExportOptions, loaded: LoadedModel) -> Sequence[np.ndarray]:
    """Some of ``--source``, else of the validation split that the weights name."""
    if options.source:
        source = open_source(options.source)
        if not isinstance(source, Files):
            source.close()
            raise InputError(f"--source {options.source!r}: a stream; accepted: an image, a folder, a glob")
        return [frame.image for frame, _ in zip(source, range(IMAGES), strict=False)]
    try:
        paths = open_split(open_data(loaded.data), "val").paths[:IMAGES]
    except InputError as error:
        raise InputError(f"--source: needed for the comparison with PyTorch (images), as {error}") from None
    return [load_image(path) for path in paths]
