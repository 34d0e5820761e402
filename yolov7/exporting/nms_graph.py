"""NMS inside an ONNX graph: by the standard's own operator, or by TensorRT's plugin.

The graphs stand beside this file as ONNX text, with blanks in braces; all names in them are part of the written files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov7.inference.exported import ExportFacts

PREFIX = "network/"  # of all names of the network, the tensors between it and NMS among them
OWN = "nms/"  # of the names inside NMS, where a task has outputs that could be called the same
OF_MASKS = "masks/"  # of those that make masks of what NMS keeps
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
    {name}_zeros = ConstantOfShape <value = float[1] {{0.0}}> ({name}_zeros_shape)
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
    batch = str(facts.batch or "batch")
    inputs, added, nodes = _task_parts(graph, facts, batch)
    tail = onnx.parser.parse_model(text.format(
        ir=graph.ir_version, opset=graph.opset_import[0].version, batch=batch, classes=len(facts.names),
        most=thresholds.most, class_list=", ".join(map(str, range(len(facts.names)))), iou=repr(float(thresholds.iou)),
        confidence=repr(float(thresholds.confidence)), inputs=inputs, outputs=added, nodes=nodes))
    head = onnx.compose.add_prefix(graph, PREFIX, rename_inputs=False)
    entrances = [entrance.name for entrance in tail.graph.input]
    if added:
        tail, entrances = _with_names(tail, outputs[len(ROWS):]), [f"{OWN}{name}" for name in entrances]
    merged = onnx.compose.merge_models(head, tail, [(f"{PREFIX}{name}", entrance)
                                                    for name, entrance in zip(outputs, entrances, strict=True)])
    versions = {entry.domain: entry.version for entry in merged.opset_import}  # the standard's stands there twice
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions.items())
    return merged


def append_masks(graph: Any, tail: Any, facts: ExportFacts) -> Any:
    """A graph with NMS -> one that also gives the masks of its detections, which ``tail`` makes of their boxes, columns
    and maps."""
    import onnx

    tail = onnx.compose.add_prefix(tail, OF_MASKS, rename_outputs=False)
    names, entrances = ["boxes", *facts.columns, *facts.maps], [entrance.name for entrance in tail.graph.input]
    kept = [output.name for output in graph.graph.output]
    return onnx.compose.merge_models(graph, tail, list(zip(names, entrances, strict=True)), outputs=[*kept, "masks"])


def _task_parts(graph: Any, facts: ExportFacts, batch: str) -> tuple[str, str, str]:
    """Inputs, outputs and nodes that a task adds to the text of a graph; nothing for a detector.

    They are called ``task0``, ``task1``, ... until `_with_names`.
    """
    assert facts.thresholds is not None
    inputs, outputs, nodes = "", "", KEPT_ROWS if facts.columns else ""
    for place, output in enumerate(graph.graph.output[len(ROWS):]):
        name, is_column = f"task{place}", output.name in facts.columns
        sizes = [str(dim.dim_value or f"{name}_{axis}") for axis, dim in enumerate(output.type.tensor_type.shape.dim)]
        before, after = ([batch, "rows"], [batch, str(facts.thresholds.most)]) if is_column else ([batch], [batch])
        own = sizes[len(before):]
        inputs += f", float[{', '.join([*before, *own])}] all_{name}"
        outputs += f", float[{', '.join([*after, *own])}] {name}"
        nodes += (COLUMN if is_column else MAP).format(name=name)
    return inputs, outputs, nodes


def _with_names(tail: Any, names: Sequence[str]) -> Any:
    """NMS whose outputs of a task bear their own names, and whose inner names begin with `OWN`."""
    import onnx

    tail = onnx.compose.add_prefix(tail, OWN, rename_outputs=False)
    own = {f"task{place}": name for place, name in enumerate(names)}
    for node in tail.graph.node:
        node.output[:] = [own.get(name, name) for name in node.output]
    for output in tail.graph.output:
        output.name = own.get(output.name, output.name)
    return tail
