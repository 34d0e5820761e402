"""TensorRT: its suppression in an ONNX graph, checked without it; an engine where TensorRT and a GPU are at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from yolov7.config import write_atomically
from yolov7.inference.exported import KEY

NODE = "EfficientNMS_TRT"
OUTPUTS = ("num_dets", "det_boxes", "det_scores", "det_classes")


@contextlib.contextmanager
def without_suppression(path: Path) -> Iterator[Path]:
    """The graph up to TensorRT's node, as a file that ONNX Runtime takes; raises `RuntimeError` where the node is not
    what TensorRT expects."""
    import onnx

    graph = onnx.load(path)
    node = graph.graph.node[-1]
    if (node.op_type, tuple(node.output)) != (NODE, OUTPUTS) or len(node.input) != len(("boxes", "scores")):
        raise RuntimeError(f"{path}: the last node is {node.op_type} -> {list(node.output)}; expected: {NODE} -> "
                           f"{list(OUTPUTS)}")
    boxes, scores = node.input
    del graph.graph.node[-1]
    del graph.graph.output[:]
    for name in (boxes, scores):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.onnx"
        text = _fact(graph).replace('"head": "end2end"', '"head": "decoded"')
        onnx.helper.set_model_props(graph, {KEY: text})
        onnx.save(graph, rows)
        yield rows


def _fact(graph: Any) -> str:
    return next(str(entry.value) for entry in graph.metadata_props if entry.key == KEY)


def write_engine(source: Path, half: bool) -> Path | None:
    """An engine for this machine's GPU beside the graph; None where there is no GPU, or TensorRT is not installed."""
    if not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None:
        return None
    path = source.with_suffix(".engine")
    write_atomically(path, _build_engine(source, half))
    return path


def _build_engine(source: Path, half: bool) -> bytes:
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(source.read_bytes()):
        raise RuntimeError(f"TensorRT cannot read {source}: {parser.get_error(0)}")
    config = builder.create_builder_config()
    if half:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT cannot build an engine of {source}")
    return bytes(engine)
