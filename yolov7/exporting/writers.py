"""One function a format: a deployed model and what was asked for -> a file, written under a temporary name."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from yolov7.config import InputError, atomic_write
from yolov7.exporting import nms_graph
from yolov7.exporting.graphs import Decoded, MasksOf, make_graph, output_names
from yolov7.inference.exported import KEY, ExportFacts, facts_text
from yolov7.model.detector import Detector

OPSET = 18  # what the current exporter writes natively
MAX_STEPS = 256  # strides along a side of a dynamic input
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "tensorrt": ("onnx", "onnxscript", "onnxruntime"),
            "openvino": ("onnx", "onnxscript", "openvino")}


@dataclass(frozen=True)
class Request:
    """What is to be written."""

    model: Detector  # deployed, in the precision of its weights
    facts: ExportFacts

    @cached_property
    def rows(self) -> Any:
        """The ONNX graph without NMS, made once for all formats that need it; not to be changed."""
        return _to_onnx(make_graph(self.model, self.facts), (example(self.facts),), ["images"],
                        output_names(self.facts), (_dynamic(self.facts),))

    @cached_property
    def masks(self) -> Any:
        """The ONNX graph that makes masks of the detections of an end-to-end graph; not to be changed."""
        facts, count = self.facts, len(self.facts.columns)
        assert facts.thresholds is not None, "an end-to-end graph has thresholds"
        with torch.inference_mode():
            boxes, _, *others = Decoded(self.model)(example(replace(facts, preprocess=False)))
        rows = [part.new_zeros((len(part), facts.thresholds.most, *part.shape[2:]))
                for part in (boxes, *others[:count])]  # one for each detection
        maps = others[count:]
        free = (*(_dynamic_batch(facts) for _ in rows[1:]), *(_dynamic_map(facts, part.ndim) for part in maps))
        return _to_onnx(MasksOf(self.model.head, facts), (*rows, *maps), ["boxes", *facts.columns, *facts.maps],
                        ["masks"], (_dynamic_batch(facts), free))


def _to_onnx(network: nn.Module, inputs: tuple[Tensor, ...], input_names: list[str], output_names: list[str],
             free: tuple[Any, ...]) -> Any:
    """A graph that was traced with these inputs, of which the axes ``free`` may have other lengths."""
    with _quiet():
        program = torch.onnx.export(
            network, inputs, None, input_names=input_names, output_names=output_names, opset_version=OPSET,
            dynamo=True, external_data=False, verbose=False, dynamic_shapes=free)
    assert program is not None
    graph = program.model_proto
    graph.ir_version = _min_ir_version(graph)
    _strip(graph)
    return graph


def require(name: str) -> None:
    """Raise an `InputError` that names the extra where a format's packages are not installed."""
    for package in PACKAGES.get(name, ()):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f"--format {name} needs the package {error.name!r}: "
                             "pip install 'yolov7-framework[export]'") from None


def write_onnx(request: Request, path: Path) -> None:
    """ONNX by ``torch.export``, one file, the same bytes whenever and wherever it is made."""
    atomic_write(path, _onnx_bytes(request, nms_graph.STANDARD))


def write_tensorrt(request: Request, path: Path) -> None:
    """ONNX for ``trtexec``, with TensorRT's own NMS as its last node."""
    atomic_write(path, _onnx_bytes(request, nms_graph.TENSORRT))


def write_openvino(request: Request, path: Path) -> None:
    """OpenVINO's ``.xml``, with the weights in a ``.bin`` beside it, from the ONNX graph."""
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openvino-") as folder:
        source = Path(folder) / "graph.onnx"
        source.write_bytes(_onnx_bytes(request, nms_graph.STANDARD))
        model = openvino.convert_model(str(source))
        model.set_rt_info(facts_text(request.facts), [KEY])
        made = Path(folder) / path.name
        openvino.save_model(model, str(made), compress_to_fp16=False)  # what is to be in float16 is so already
        os.replace(made.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(made, path)


def write_torchscript(request: Request, path: Path) -> None:
    """A traced graph, for any batch and size unless the facts say otherwise."""
    network = make_graph(request.model, request.facts)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes are traced, whatever the tracer fears
        graph = torch.jit.trace(network, (example(request.facts),), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(graph, buffer, _extra_files={KEY: facts_text(request.facts)})
    atomic_write(path, buffer.getvalue())


WRITERS: dict[str, tuple[Callable[[Request, Path], None], str]] = {  # with the end of the file's name
    "torchscript": (write_torchscript, ".torchscript"),
    "onnx": (write_onnx, ".onnx"),
    "openvino": (write_openvino, ".xml"),
    "tensorrt": (write_tensorrt, "-trt.onnx"),
}


def example(facts: ExportFacts) -> Tensor:
    """An input to trace with; where a side is free, some steps of the stride, unlike each other."""
    batch, height, width = facts.batch or 2, facts.height or 4 * facts.stride, facts.width or 6 * facts.stride
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
    return images if facts.preprocess else images.permute(0, 3, 1, 2).float() / 255


def _dynamic_batch(facts: ExportFacts) -> dict[int, Any]:
    return {} if facts.batch else {0: Dim("batch")}


def _dynamic(facts: ExportFacts) -> dict[int, Any]:
    """Which axes of the input are free."""
    height, width = (1, 2) if facts.preprocess else (2, 3)
    free = _dynamic_batch(facts)
    if not (facts.height or facts.width):
        free |= {height: facts.stride * Dim("rows", min=1, max=MAX_STEPS),
                 width: facts.stride * Dim("columns", min=1, max=MAX_STEPS)}
    return free


def _dynamic_map(facts: ExportFacts, axes: int) -> dict[int, Any]:
    """As `_dynamic`, of a map ``[B, c, h, w]`` or with fewer axes."""
    free = _dynamic_batch(facts)
    if not (facts.height or facts.width):
        free |= {axis: Dim(f"map_{axis}") for axis in range(2, axes)}
    return free


def _min_ir_version(graph: Any) -> int:
    """The lowest that its operators allow: a runtime refuses files of a later one, whatever is in them."""
    import onnx

    return onnx.helper.find_min_ir_version_for(graph.opset_import, ignore_unknown=True)


def _strip(graph: Any) -> None:
    """Remove what tells of the place where the graph was made: paths of files, names of classes."""
    parts = graph.graph
    for entry in (*parts.node, *parts.initializer, *parts.input, *parts.output, *parts.value_info, parts):
        del entry.metadata_props[:]
        entry.ClearField("doc_string")
    graph.ClearField("doc_string")


def _onnx_bytes(request: Request, tail: str) -> bytes:
    import onnx

    facts = request.facts
    graph = nms_graph.append(request.rows, tail, facts) if facts.thresholds else copy.deepcopy(request.rows)
    if facts.masks:
        graph = nms_graph.append_masks(graph, request.masks, facts)
    onnx.helper.set_model_props(graph, {KEY: facts_text(facts)})
    graph.graph.name = facts.model
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own work."""
    log = logging.getLogger("torch.onnx")
    with warnings.catch_warnings(), contextlib.ExitStack() as after:
        warnings.simplefilter("ignore")
        after.callback(log.setLevel, log.level)
        log.setLevel(logging.ERROR)
        yield
