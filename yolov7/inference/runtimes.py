"""Opening exported files: ONNX by ONNX Runtime, TorchScript by torch, OpenVINO by its own runtime."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov7.config import InputError
from yolov7.inference.exported import KEY, ExportedNetwork, read_facts

EXTRA = "pip install 'yolov7-framework[export]'"
OPENVINO_FORMATS = {"fp32": "f32", "bf16": "bf16"}


def open_onnx(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """A file of ONNX Runtime, on as many threads as torch uses."""
    _as_exported(path, precision)
    onnxruntime = _package("onnxruntime", path)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds without a common base
        raise _unreadable(path, "ONNX Runtime", error) from None
    name = session.get_inputs()[0].name
    facts = read_facts(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    return ExportedNetwork(facts, lambda images: session.run(None, {name: images}))


def open_torchscript(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """A traced graph."""
    _as_exported(path, precision)
    extra = {KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that this format grows old
            graph = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, "TorchScript", error) from None
    text: Any = extra[KEY]
    facts = read_facts(text.decode() if isinstance(text, bytes) else text, path)

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        tensor = torch.from_numpy(images)
        if tensor.is_floating_point():  # bytes [B, H, W, 3] are in this order already
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return [output.numpy() for output in graph(tensor)]

    return ExportedNetwork(facts, run)


def open_openvino(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """An ``.xml`` file with its ``.bin`` beside it; the runtime can compute it in bfloat16, all layers of it."""
    if precision not in OPENVINO_FORMATS:
        raise InputError(f"--precision {precision!r}: OpenVINO computes {path} in one of {', '.join(OPENVINO_FORMATS)} "
                         "(or export it with --fp16)")
    openvino = _package("openvino", path)
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        facts = read_facts(text, path)
        compiled = core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": OPENVINO_FORMATS[precision], "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads()})
    except RuntimeError as error:
        raise _unreadable(path, "OpenVINO", error) from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled.create_infer_request().infer([images])  # a request of its own: threads may share the network
        return [np.array(found[index]) for index in range(len(compiled.outputs))]

    return ExportedNetwork(facts, run)


OPENERS: dict[str, Callable[[Path, str], ExportedNetwork]] = {  # by suffix
    ".onnx": open_onnx, ".torchscript": open_torchscript, ".xml": open_openvino}


def _as_exported(path: Path, precision: str) -> None:
    if precision != "fp32":
        raise InputError(f"--precision {precision} is for weights and OpenVINO; {path} computes as it was exported")


def _package(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{path}: needs the package {name!r}: {EXTRA}") from None


def _unreadable(path: Path, runtime: str, error: Exception) -> InputError:
    reason = next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), type(error).__name__)
    return InputError(f"{path}: {runtime} cannot read it: {reason.strip()[:200]}")
