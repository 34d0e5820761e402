"""What has to be true of every ONNX file, so that runtimes old and new load it and find what it declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from yolov7.data.images import cv2

IR_VERSIONS = {18: 8}  # the first release of ONNX with this opset, 1.13, had this one
OPENCV_5 = int(cv2.__version__.partition(".")[0]) >= 5


def check_file(path: Path, static: bool) -> None:
    """Versions and constants that old runtimes and OpenCV read; declared shapes without a free axis, if ``static``."""
    file = onnx.load(path)
    (opset,) = [entry.version for entry in file.opset_import if not entry.domain]
    assert file.ir_version == IR_VERSIONS[opset]
    for node in file.graph.node:
        attributes = {attribute.name for attribute in node.attribute}
        assert node.op_type not in ("Constant", "ConstantOfShape") or attributes == {"value"}, node
    free = {dim.dim_param for value in (*file.graph.input, *file.graph.output)
            for dim in value.type.tensor_type.shape.dim if not dim.dim_value}
    assert "" not in free and bool(free) != static, free
    onnx.checker.check_model(file, full_check="-trt" not in path.name)


def check_outputs(path: Path, pixels: float) -> None:
    """ONNX Runtime gives the shapes that are declared, and OpenCV the same numbers up to a difference."""
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    (entry,), declared = session.get_inputs(), session.get_outputs()
    images, names = noise_for(entry), [output.name for output in declared]
    expected = session.run(None, {entry.name: images})
    found = run_in_opencv(path.read_bytes(), {entry.name: images}, names) if OPENCV_5 else {}
    for output, value in zip(declared, expected, strict=True):
        assert len(output.shape) == value.ndim
        assert all(size == real for size, real in zip(output.shape, value.shape, strict=True) if isinstance(size, int))
        if found:
            assert found[output.name].shape == value.shape
            assert np.abs(found[output.name] - value).max() <= pixels, output.name


def noise_for(entry: Any) -> np.ndarray:
    """Of the declared shape, two images where their number is free, one side of 96 and one of 128 pixels."""
    batch, *rest = entry.shape
    sides = iter((96, 128))
    shape = (batch if isinstance(batch, int) else 2, *(size if isinstance(size, int) else next(sides) for size in rest))
    noise = np.random.default_rng(0).random(shape, np.float32)
    return noise if "float" in entry.type else (noise * 255).astype(np.uint8)


def run_in_opencv(file: bytes, inputs: dict[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """What OpenCV's new engine makes of a file."""
    network: Any = cv2.dnn.readNetFromONNX(np.frombuffer(file, np.uint8), cv2.dnn.ENGINE_NEW)
    for name, value in inputs.items():
        network.setInput(value, name)
    return dict(zip(names, network.forward(names), strict=True))
