"""NMS inside an ONNX graph: by the standard's own operator, or by TensorRT's plugin.

The graphs stand beside this file as ONNX text, with blanks in braces; all names in them are part of the written files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov7.inference.exported import ExportFacts

PREFIX = "network/"  # of all names of the network, the tensors between it and NMS among them
ROWS = (f"{PREFIX}boxes", f"{PREFIX}scores")  # those that NMS is given

STANDARD = (Path(__file__).parent / "nms.onnxtxt").read_text(encoding="utf-8")

TENSORRT = (Path(__file__).parent / "nms_tensorrt.onnxtxt").read_text(encoding="utf-8")

# of every task with columns: where a detection's row stands among those kept, else the row of zeros behind them
KEPT_ROWS = """
    kept_count = Shape <end = 1> (kept_scores)
    own_index = Where (is_found, index, kept_count)
"""

COLUMN = """
    {name}_kept = GatherND (all_{name}, place)
    {name}_shape = Shape <start = 2> (all_{name})
    {name}_zeros_shape = Concat <axis = 0> (axis_1, {name}_shape)
    {name}_zeros = ConstantOfShape ({name}_zeros_shape)
    {name}_padded = Concat <axis = 0> ({name}_kept, {name}_zeros)
    {name} = Gather <axis = 0> ({name}_padded, own_index)
"""

MAP = """
    {name} = Identity (all_{name})
"""


def append(graph: Any, text: str, facts: ExportFacts) -> Any:
    """A graph of all rows -> one with NMS (`STANDARD`, `TENSORRT`), which gives boxes, scores, classes, count, columns
    of the detections that are kept, and maps."""
    import onnx

    thresholds, outputs = facts.thresholds, [output.name for output in graph.graph.output]
    assert thresholds is not None, "an end-to-end graph has thresholds"
    inputs, added, nodes = _task_parts(graph, facts.columns, thresholds.most)
    tail = onnx.parser.parse_model(text.format(
        ir=graph.ir_version, opset=graph.opset_import[0].version, classes=len(facts.names), most=thresholds.most,
        class_list=", ".join(map(str, range(len(facts.names)))), iou=repr(float(thresholds.iou)),
        confidence=repr(float(thresholds.confidence)), inputs=inputs, outputs=added, nodes=nodes))
    head = onnx.compose.add_prefix(graph, PREFIX, rename_inputs=False)
    merged = onnx.compose.merge_models(head, tail, [(f"{PREFIX}{name}", f"all_{name}") for name in outputs])
    versions = {entry.domain: entry.version for entry in merged.opset_import}  # the standard's stands there twice
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions.items())
    return merged


def _task_parts(graph: Any, columns: Sequence[str], limit: int) -> tuple[str, str, str]:
    """Inputs, outputs and nodes that a task adds to the text of a graph; nothing for a detector."""
    inputs, outputs, nodes = "", "", KEPT_ROWS if columns else ""
    for output in graph.graph.output[len(ROWS):]:
        name = output.name
        sizes = [str(dim.dim_value or f"{name}_{axis}") for axis, dim in enumerate(output.type.tensor_type.shape.dim)]
        before, after = (["batch", "rows"], ["batch", str(limit)]) if name in columns else (["batch"], ["batch"])
        own = sizes[len(before):]
        inputs += f", float[{', '.join([*before, *own])}] all_{name}"
        outputs += f", float[{', '.join([*after, *own])}] {name}"
        nodes += (COLUMN if name in columns else MAP).format(name=name)
    return inputs, outputs, nodes
