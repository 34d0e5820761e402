"""What an evaluation was measured with, to stand beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import yolov7
from yolov7.config import checksum
from yolov7.inference.exported import ExportedNetwork
from yolov7.inference.network import Augmented, Ensemble, Network, TorchNetwork
from yolov7.runtime.precision import FORMATS

if TYPE_CHECKING:
    from yolov7.config.options import TestOptions
    from yolov7.engine.testing import Subject
    from yolov7.evaluation.evaluate import Evaluation
    from yolov7.inference.nms import NMSOptions


def checksums(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """``path``, ``bytes`` and ``sha256`` of weight files; those of an OpenVINO graph stand in a file ``beside`` it."""
    found = []
    for path in paths:
        found.append(_checksum(path))
        beside = path.with_suffix(".bin")
        if path.suffix == ".xml" and beside.is_file():
            found[-1]["beside"] = _checksum(beside)
    return found


def _checksum(path: Path) -> dict[str, Any]:
    length, digest = checksum(path)
    return {"path": str(path), "bytes": length, "sha256": digest}


def measured_with(subject: Subject, evaluation: Evaluation, options: TestOptions, nms: NMSOptions,
                  weights: Sequence[dict[str, Any]], processes: int) -> dict[str, Any]:
    """The settings as plain values; ``weights`` are those of `checksums`, of the files of the network, in order."""
    network, image_set = subject.network, subject.image_set
    members = [{**file, "model": member.info.model, "precision": _precision(member)}
               for file, member in zip(weights, _members(network), strict=True)]
    models, precisions = (list(dict.fromkeys(member[key] for member in members)) for key in ("model", "precision"))
    return {
        "weights": members, "model": ", ".join(models), "precision": ", ".join(precisions),
        "data": subject.data, "split": image_set.split, "images": evaluation.boxes.images,
        "objects": evaluation.boxes.objects, "classes": list(image_set.names),
        "single_cls": options.single_cls or bool(network.info.merged),
        "img_size": max(network.shape) if network.shape else options.img_size or network.info.image_size,
        "network_shape": list(network.shape) if network.shape else None,  # None: rectangular batches
        "batch_size": options.batch_size, "processes": processes, "augment": options.augment,
        **({"tile": options.tile, "overlap": options.overlap} if options.tile else {}),
        "half_decode": options.half_decode, "compile": options.compile, "device": str(network.device),
        **_device_name(network.device),
        "nms": {"conf_thres": nms.confidence, "iou_thres": nms.iou, "max_det": nms.max_detections,
                "multi_label": nms.multi_label, "agnostic": nms.agnostic, "max_candidates": nms.max_candidates},
        "metric": options.metric, "version": yolov7.__version__, "torch": torch.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def _members(network: Network) -> Sequence[Network]:
    """The networks of the single files."""
    if isinstance(network, Augmented):
        return _members(network.network)
    return network.networks if isinstance(network, Ensemble) else (network,)


def _precision(network: Network) -> str:
    if isinstance(network, TorchNetwork):
        return next(name for name, dtype in FORMATS.items() if dtype == network.dtype)
    return network.opened[1] if isinstance(network, ExportedNetwork) and network.opened else ""


def _device_name(device: torch.device) -> dict[str, str]:
    return {"device_name": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
