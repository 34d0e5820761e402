"""The rows inside an end-to-end file: what its NMS is given, as a file that runs by itself."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolov7.exporting.nms_graph import PREFIX, ROWS
from yolov7.exporting.tensorrt import remove_node
from yolov7.inference.exported import KEY


@contextlib.contextmanager
def without_nms(path: Path, plugin: bool) -> Iterator[Path]:
    """An end-to-end file up to its NMS, as a file that gives boxes, scores, columns of all rows, and maps.

    Raises `RuntimeError` for a file whose NMS should be TensorRT's ``plugin`` and is not.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / f"rows{path.suffix}"
        if path.suffix == ".xml":
            _cut_openvino(path, rows)
        else:
            _cut_onnx(path, rows, plugin)
        yield rows


def _cut_onnx(path: Path, rows: Path, plugin: bool) -> None:
    import onnx

    graph = onnx.load(path)
    if plugin:
        remove_node(graph, path)
    (text,) = [entry.value for entry in graph.metadata_props if entry.key == KEY]
    del graph.graph.output[:]
    for name in _outputs(text):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.helper.set_model_props(graph, {KEY: _decoded(text)})
    onnx.save(graph, rows)


def _cut_openvino(path: Path, rows: Path) -> None:
    import openvino

    graph = openvino.Core().read_model(str(path))
    text = graph.get_rt_info([KEY]).astype(str)
    names = _outputs(text)
    outputs: dict[str, Any] = {name: port for node in graph.get_ops() for port in node.outputs()
                               for name in port.get_names() if name in names}
    cut = openvino.Model([outputs[name] for name in names], graph.get_parameters(), "rows")
    cut.set_rt_info(_decoded(text), [KEY])
    openvino.save_model(cut, str(rows), compress_to_fp16=False)


def _outputs(text: str) -> list[str]:
    """Names of the tensors that a decoded file gives, in its order; maps leave the whole file as they are."""
    facts = json.loads(text)
    return [*ROWS, *(f"{PREFIX}{name}" for name in facts.get("columns", ())), *facts.get("maps", ())]


def _decoded(text: str) -> str:
    """The facts of the file, but for what comes with NMS."""
    return json.dumps({**json.loads(text), "head": "decoded", "masks": ""})
