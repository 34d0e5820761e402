"""A re-parameterized model as ONNX, and what ONNX Runtime makes of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.inference.onnx_network import FORMAT, KEY, OUTPUTS, VERSION
from yolov7.model.detector import Detector
from yolov7.model.weights import ModelInfo

OPSET = 18  # what the current exporter writes natively


class DecodedModel(nn.Module):
    """Network and decode: images ``[B, 3, H, W]`` in 0..1 -> boxes ``[B, M, 4]`` xyxy pixels, scores ``[B, M, C]``.

    A score is class times objectness; with one class it is the objectness.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        decoded = self.model.decode(self.model(images))
        objectness = decoded.objectness[..., None]
        return decoded.boxes, objectness if self.model.num_classes == 1 else decoded.classes * objectness


def require_onnx() -> None:
    """An `InputError` that names the extra where ONNX is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format onnx needs the package {error.name!r}: pip install 'yolov7-framework[export]'"
        ) from None


def write_onnx(model: Detector, images: Tensor, path: Path, info: ModelInfo) -> None:
    """Trace with ``torch.export`` for the shape of ``images`` and write one file, atomically.

    What a user of the network needs to know (``info``, stride) is in its metadata.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # version-converter notes that are no news to the user
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(DecodedModel(model).eval(), (images,), str(temporary), input_names=["images"],
                              output_names=list(OUTPUTS), opset_version=OPSET, dynamo=True, external_data=False,
                              verbose=False)
        _describe(temporary, model, info)
        os.replace(temporary, path)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
        temporary.unlink(missing_ok=True)


def _describe(path: Path, model: Detector, info: ModelInfo) -> None:
    import onnx

    graph = onnx.load(path)
    facts = {"format": FORMAT, "version": VERSION, "model": model.spec.name, "stride": model.stride,
             **dataclasses.asdict(info)}
    onnx.helper.set_model_props(graph, {KEY: json.dumps(facts)})
    onnx.save(graph, path)


def run_onnx(path: Path, images: Tensor) -> dict[str, np.ndarray]:
    """Outputs of ONNX Runtime on the CPU, by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {"images": images.numpy()})
    return dict(zip(OUTPUTS, outputs, strict=True))
