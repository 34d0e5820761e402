"""TensorRT: its NMS in an ONNX graph, checked without it; an engine where TensorRT and a GPU are at hand."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from yolov7.config import atomic_write
from yolov7.exporting.nms_graph import ROWS

logger = logging.getLogger(__name__)

NODE = "EfficientNMS_TRT"
OUTPUTS = ("num_dets", "det_boxes", "det_scores", "det_classes")


def remove_node(graph: Any, path: Path) -> None:
    """Take TensorRT's node, which nothing else can run, off a graph; raises `RuntimeError` where it is not what
    TensorRT expects."""
    node = graph.graph.node[-1]
    if (node.op_type, tuple(node.input), tuple(node.output)) != (NODE, ROWS, OUTPUTS):
        raise RuntimeError(f"{path}: the last node is {list(node.input)} -> {node.op_type} -> {list(node.output)}; "
                           f"expected: {list(ROWS)} -> {NODE} -> {list(OUTPUTS)}")
    del graph.graph.node[-1]


def write_engine(source: Path, half: bool, static: bool) -> Path | None:
    """An engine for this machine's GPU beside the graph; None where there is no GPU, or TensorRT is not installed, and
    of a graph for any batch or size. Raises `RuntimeError` where none can be built."""
    if not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None:
        return None
    if not static:
        logger.warning("tensorrt: no engine is built, as it must be told its shapes: trtexec --onnx=%s --minShapes=... "
                       "--optShapes=... --maxShapes=...; or export without --dynamic and --dynamic-batch", source)
        return None
    path = source.with_suffix(".engine")
    atomic_write(path, _build_engine(source, half))
    return path


def _build_engine(source: Path, half: bool) -> bytes:
    import tensorrt

    log = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(log, "")
    builder = tensorrt.Builder(log)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(source.read_bytes()):
        raise RuntimeError(f"TensorRT cannot read {source}: {parser.get_error(0)}")
    config = builder.create_builder_config()
    if half:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT cannot build an engine of {source}")
    return bytes(engine)
