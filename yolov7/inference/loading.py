"""Files -> `Network`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from yolov7.config import InputError
from yolov7.config.options import NetworkOptions
from yolov7.inference.exported import OPENERS, open_exported
from yolov7.inference.network import Augmented, Ensemble, Network, TorchNetwork
from yolov7.model.missing import no_weights
from yolov7.model.weights import load_model
from yolov7.runtime.cuda_graphs import check_graphs
from yolov7.runtime.device import check_compiler
from yolov7.runtime.precision import choose_precision

logger = logging.getLogger(__name__)


def usual_device(paths: Sequence[Path], name: str) -> str:
    """``--device`` as it is given; without one the CPU for exported files, which run nowhere else."""
    return name or ("cpu" if any(path.suffix in OPENERS for path in paths) else "")


def load_network(paths: Sequence[Path], device: torch.device, options: NetworkOptions) -> Network:
    """The network of a weight file or of an exported file; several become an `Ensemble`.

    Raises `InputError` for files that cannot be run, alone or together, and for flags that do not go with them.
    """
    precision = choose_precision(options.precision, device, training=False)
    if options.half_decode and precision != "fp16":
        raise InputError("--half-decode: rounds as the reference implementation does in fp16, but the network runs in "
                         f"{precision}; accepted with --precision fp16")
    networks = [_open(path, device, precision, options) for path in paths]
    network = Ensemble(networks) if len(networks) > 1 else networks[0]
    return Augmented(network) if options.augment else network


def _open(path: Path, device: torch.device, precision: str, options: NetworkOptions) -> Network:
    if path.suffix not in OPENERS:
        if options.fast:
            _check_fast(device, options)
        loaded = load_model(path, options.cfg)
        if options.compile:
            check_compiler(device)
            logger.info("the network is compiled at the first images, and once more at the first of another size")
        return TorchNetwork(loaded.model, device, precision, loaded.info, options.half_decode, options.compile,
                            options.fast)
    for flag, given in (("--cfg", options.cfg), ("--half-decode", options.half_decode), ("--compile", options.compile),
                        ("--fast", options.fast)):
        if given:
            raise InputError(f"{flag} is for weights; {path} computes as it was exported")
    if device.type != "cpu":
        raise InputError(f"{path}: exported files run on the CPU; accepted: --device cpu")
    if not path.is_file():
        raise InputError(no_weights(path))
    network = open_exported(path, "fp32" if options.precision == "auto" else precision)
    if kept := network.facts.thresholds:
        logger.warning("%s: NMS is built into this file; --conf-thres and --max-det cannot loosen it: at most %d "
                       "detections above %g, of one class up to IoU %g", path, kept.most, kept.confidence, kept.iou)
    return network


def _check_fast(device: torch.device, options: NetworkOptions) -> None:
    if options.compile:
        raise InputError("--fast: --compile makes kernels of its own; accepted: one of them")
    check_graphs(device, "--fast")
