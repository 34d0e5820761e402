"""``test --task speed | study | table10``: what weights cost, and what is lost or won by size and precision."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from yolov7.config import InputError, atomic_write
from yolov7.config.options import TestOptions
from yolov7.data.loader import BatchLoader, batch_shapes
from yolov7.engine.testing import Subject, open_subject
from yolov7.evaluation.evaluate import NETWORK, PROTOCOL
from yolov7.evaluation.plots import plot_study
from yolov7.inference.loading import usual_device
from yolov7.inference.network import Network
from yolov7.inference.nms import NMSOptions
from yolov7.runtime import folders
from yolov7.runtime.device import own_device
from yolov7.runtime.distributed import environment
from yolov7.runtime.precision import is_native
from yolov7.runtime.tables import Table

logger = logging.getLogger(__name__)

WARM_UP = {"cuda": 10}  # untimed runs of each shape of input; 2 on other devices
TABLE_10_IOUS = (0.65, 0.70)


@dataclass(frozen=True, repr=False)
class SpeedTable(Table):
    """What was measured, a row for each setting; times in milliseconds an image."""

    folder: Path


def speed(options: TestOptions) -> SpeedTable:
    """Times per stage of each weight file, image by image and in batches, from the file on the disk to the boxes.

    With detection's thresholds instead of the score's, unless flags say otherwise, and without loader processes, so
    that the stages add up. Writes ``speed.json``.
    """
    nms = NMSOptions(max_detections=options.max_det)
    if (options.conf_thres, options.iou_thres) != (PROTOCOL.confidence, PROTOCOL.iou):
        nms = dataclasses.replace(nms, confidence=options.conf_thres, iou=options.iou_thres)
    rows: list[dict[str, Any]] = []
    for path, subject in _subjects(options):
        for batch_size in sorted({1, options.batch_size}):
            loader = subject.loader(options.img_size, batch_size, workers=0)
            warm_up(subject.network, loader)
            times = subject.evaluate(loader, dataclasses.replace(nms, classes=subject.scored)).times
            logger.info("%s, batch %d, %d images\n%s\n", path, batch_size, len(subject.image_set), times.text())
            rows.append({"weights": str(path), "batch": batch_size, "milliseconds": times.summary()})
    folder = folders.new_folder(options.project, options.name, options.exist_ok)
    atomic_write(folder / "speed.json", json.dumps(rows, indent=1))
    logger.info("written to %s", folder / "speed.json")
    flat = [{"weights": row["weights"], "batch": row["batch"], **{stage: times["mean"] for stage, times in
                                                                  row["milliseconds"].items()}} for row in rows]
    return SpeedTable(tuple(flat), folder)


def study(options: TestOptions) -> SpeedTable:
    """AP and time of each weight file at several input sizes; writes ``study.csv`` and ``study.png``."""
    rows: list[dict[str, Any]] = []
    for path, subject in _subjects(options):
        if subject.network.shape:
            raise InputError(f"--task study needs inputs of several sizes; {path} takes one alone")
        for size in options.sizes:
            loader = subject.loader(size, options.batch_size, options.workers)
            warm_up(subject.network, loader)
            evaluation = subject.evaluate(loader, subject.nms(options))
            result, times = evaluation.boxes, evaluation.times.summary()
            rows.append({"weights": str(path), "size": size, "batch": options.batch_size, "AP": result.AP,
                         "AP50": result.AP50, "AP75": result.AP75, "network_ms": times[NETWORK]["mean"],
                         "nms_ms": times["nms"]["mean"]})
            logger.info("%s at %d px: AP %.3f, AP50 %.3f, network %.2f ms, nms %.2f ms an image", path, size,
                        result.AP, result.AP50, rows[-1]["network_ms"], rows[-1]["nms_ms"])
    folder = folders.new_folder(options.project, options.name, options.exist_ok)
    atomic_write(folder / "study.csv", Table(tuple(rows)).to_csv())
    atomic_write(folder / "study.png", plot_study(rows))
    logger.info("written to %s", folder)
    return SpeedTable(tuple(rows), folder)


def table10(options: TestOptions) -> SpeedTable:
    """The four settings of the paper's table 10: half and full precision, NMS at IoU 0.65 and 0.70.

    Half is fp16 on a GPU, as in the paper, else bf16. Writes ``table10.json``.
    """
    paths = folders.find_weights(options.weights)
    device = _device(options, paths)
    half: Literal["bf16", "fp16"] = "bf16" if device.type == "cpu" else "fp16"
    if device.type == "cpu" and not is_native("bf16", device):
        logger.warning("this processor computes in bf16 by emulation: slower than in fp32")
    rows = []
    settings: tuple[Literal["bf16", "fp16", "fp32"], ...] = (half, "fp32")
    for precision in settings:
        decoding = options.half_decode and precision == "fp16"
        changed = dataclasses.replace(options, precision=precision, half_decode=decoding)
        subject = open_subject(paths, changed, device, "val")
        for iou in TABLE_10_IOUS:
            nms = dataclasses.replace(subject.nms(options), iou=iou)
            loader = subject.loader(options.img_size, options.batch_size, options.workers)
            result = subject.evaluate(loader, nms).boxes
            rows.append({"precision": precision, "iou": iou, "AP": result.AP, "AP50": result.AP50, "AP75": result.AP75})
    logger.info("%s", "\n".join(["precision   IoU      AP    AP50    AP75", *(
        f"{row['precision']:9}{row['iou']:6.2f}{row['AP']:8.4f}{row['AP50']:8.4f}{row['AP75']:8.4f}" for row in rows)]))
    folder = folders.new_folder(options.project, options.name, options.exist_ok)
    atomic_write(folder / "table10.json", json.dumps(rows, indent=1))
    logger.info("written to %s", folder / "table10.json")
    return SpeedTable(tuple(rows), folder)


def warm_up(network: Network, loader: BatchLoader) -> None:
    """Run every shape of input some times: the first run of a shape chooses its kernels."""
    for shape in sorted(batch_shapes(loader)):
        batch, height, width = shape
        images = torch.zeros(batch, 3, height, width, device=network.device)
        for _ in range(WARM_UP.get(network.device.type, 2)):
            network(images, 0.5)


TASKS: dict[str, Callable[[TestOptions], SpeedTable]] = {"speed": speed, "study": study, "table10": table10}


def _subjects(options: TestOptions) -> list[tuple[Path, Subject]]:
    paths = folders.find_weights(options.weights)
    device = _device(options, paths)
    return [(path, open_subject([path], options, device, "val")) for path in paths]


def _device(options: TestOptions, paths: Sequence[Path]) -> torch.device:
    if environment().world_size > 1:
        raise InputError(f"--task {options.task} is for one process; found {environment().world_size} ($WORLD_SIZE)")
    return own_device(usual_device(paths, options.device))
