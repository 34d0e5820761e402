"""Shapes, parameters and FLOPs of a model, node by node: as tables and as a drawing of its graph.

A multiply-add counts as two operations, and only convolutions (with their biases) are counted, as in the paper's
tables. Everything is computed on the meta device, without weights or arithmetic.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from yolov7.config import atomic_write
from yolov7.model.convolutions import Conv2d
from yolov7.model.detector import Detector
from yolov7.model.heads.base import find_head
from yolov7.model.merging import JoinedConv
from yolov7.model.reparam import reparameterize_in_place
from yolov7.model.spec import ModelSpec
from yolov7.runtime.tables import aligned

COLOURS = {"ELAN": "#bcd9f2", "EELA": "#9cc4ea", "CSPA": "#bcd9f2", "CSPB": "#bcd9f2", "CSPC": "#bcd9f2",
           "Dark": "#bcd9f2", "SPPC": "#d8c6ee", "SPP": "#d8c6ee", "RepC": "#f6d5a8",
           "Anch": "#f3b7b7", "Segm": "#f3b7b7", "Pose": "#f3b7b7", "Publ": "#f3b7b7"}
DEVIATION = 0.01  # relative to the paper's figure; larger ones are marked


@dataclass(frozen=True)
class NodeCost:
    """One node of a model at one input size."""

    name: str
    block: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]  # channels, height, width; of the head: one number a level
    parameters: int
    gflops: float


def _count_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
    per_output = module.weight[0].numel() + (module.bias is not None)
    module.total_ops += output.numel() * per_output  # type: ignore[operator, assignment]


def _count_joined(module: JoinedConv, inputs: Any, output: Tensor) -> None:
    module.total_ops += output.numel() * (inputs[0].shape[1] + 1)  # type: ignore[operator, assignment]


def _count_nothing(*_: Any) -> None:
    pass


def nominal_classes(spec: ModelSpec) -> int:
    """The number of classes that models with this head are published for."""
    return find_head(spec.head.block, spec.name).nominal_classes


def node_costs(spec: ModelSpec, height: int, width: int, fused: bool,
               num_classes: int | None = None) -> list[NodeCost]:
    """Costs of every node and of the head, in order, for the training form or the deployed one.

    thop adds attributes to the modules that it counts, so it gets a model of its own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thop compares versions in a way that Python deprecates
        import thop
    with torch.device("meta"):
        model = Detector(spec, num_classes or nominal_classes(spec))
        model = reparameterize_in_place(model) if fused else model.eval()
        images = torch.empty(1, 3, height, width)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, node in model.nodes.items():
        node.register_forward_hook(partial(_keep_shape, shapes, name))
    rules = {nn.Conv2d: _count_convolution, Conv2d: _count_convolution, JoinedConv: _count_joined,
             nn.BatchNorm2d: _count_nothing, nn.LeakyReLU: _count_nothing}
    _, _, counted = thop.profile(model, (images,), rules, verbose=False, ret_layer_info=True)
    operations = {name: entry[0] for name, entry in counted["nodes"][2].items()} | {"head": counted["head"][0]}
    costs = [NodeCost(node.name, node.block, node.inputs, shapes[node.name], _parameters(model.nodes[node.name]),
                      2e-9 * operations[node.name]) for node in model.spec.nodes]
    head = model.spec.head
    rows = sum(model.head.num_anchors * (height // stride) * (width // stride) for stride in model.head.strides)
    costs.append(NodeCost("head", head.block, (*head.inputs, *head.auxiliary, *head.maps),
                          (rows, model.head.channels.size), _parameters(model.head), 2e-9 * operations["head"]))
    return costs


def _keep_shape(shapes: dict[str, tuple[int, ...]], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    tensor = output[0] if isinstance(output, tuple) else output
    shapes[name] = tuple(tensor.shape[1:])


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class ModelCost:
    """Parameters and GFLOPs of a model at its nominal size, in training form and deployed."""

    spec: ModelSpec
    training_parameters: int
    training_gflops: float
    parameters: int
    gflops: float

    @property
    def gflops_as_in_paper(self) -> float:
        """GFLOPs of the deployed form at the size that the paper quotes; all networks are fully convolutional."""
        return self.gflops * ((self.spec.paper.size or self.spec.image_size) / self.spec.image_size) ** 2


def model_cost(spec: ModelSpec, num_classes: int | None = None) -> ModelCost:
    """The costs of the training form and of the deployed form."""
    totals: list[Any] = []
    for fused in (False, True):
        costs = node_costs(spec, spec.image_size, spec.image_size, fused, num_classes)
        totals += [sum(cost.parameters for cost in costs), sum(cost.gflops for cost in costs)]
    return ModelCost(spec, *totals)


def models_table(costs: Sequence[ModelCost]) -> str:
    """A table of models with the paper's figures; deviations of more than 1% are marked and explained."""
    header = ("model", "size", "recipe", "M params", "GFLOPs", "deployed: M", "GFLOPs", "paper: M", "GFLOPs", "AP")
    rows, notes = [], []
    for cost in costs:
        spec, paper = cost.spec, cost.spec.paper
        figures = (("parameters", cost.parameters / 1e6, paper.parameters),
                   ("GFLOPs", cost.gflops_as_in_paper, paper.gflops))
        deviating = [f"{name} {ours:.1f} against {theirs}" for name, ours, theirs in figures
                     if theirs is not None and abs(ours / theirs - 1) > DEVIATION]
        if deviating:
            notes.append(f"* {spec.name}: {', '.join(deviating)}: {paper.note or 'unexplained'}")
        size = f" @{paper.size}" if paper.size else ""
        rows.append((spec.name + ("*" if deviating else ""), str(spec.image_size), spec.recipe,
                     f"{cost.training_parameters / 1e6:.2f}", f"{cost.training_gflops:.1f}",
                     f"{cost.parameters / 1e6:.2f}", f"{cost.gflops:.1f}", _figure(paper.parameters),
                     _figure(paper.gflops, size), _figure(paper.AP)))
    return "\n".join((align_columns(header, rows), *notes))


def nodes_table(costs: Sequence[NodeCost]) -> str:
    """A table of one model, node by node."""
    header = ("node", "block", "from", "output", "parameters", "GFLOPs")
    rows = [(cost.name, cost.block, ", ".join(cost.inputs), " x ".join(map(str, cost.shape)), f"{cost.parameters:,}",
             f"{cost.gflops:.3f}") for cost in costs]
    total = ("total", "", "", "", f"{sum(cost.parameters for cost in costs):,}",
             f"{sum(cost.gflops for cost in costs):.3f}")
    return align_columns(header, [*rows, total])


def _figure(value: float | None, suffix: str = "") -> str:
    return "-" if value is None else f"{value}{suffix}"


def align_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table: columns as wide as their widest entry, numbers aligned to the right."""
    ruler = ["-" * max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = [place for place in range(len(header))
            if not all(row[place][:1].isdigit() or row[place] in ("", "-") for row in rows)]
    return "\n".join(aligned([header, ruler, *rows], left))


# --- drawing and YAML --------------------------------------------------------------------------------------------


def definition_text(definition: Mapping[str, Any]) -> str:
    """A model definition as YAML, one node a line."""
    def line(value: Any) -> str:
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()

    plain = {key: value for key, value in definition.items() if key not in ("nodes", "head")}
    nodes = "".join(f"  {name}: {line(node)}\n" for name, node in definition["nodes"].items())
    head = "".join(f"  {key}: {line({key: value})[1:-1].partition(': ')[2]}\n" for key, value in
                   definition["head"].items())
    return f"{yaml.safe_dump(plain, sort_keys=False)}nodes:\n{nodes}head:\n{head}"


def draw_graph(spec: ModelSpec, costs: Sequence[NodeCost], path: str) -> None:
    """Write the graph as a PNG, PDF or SVG file: from left to right as it is computed, one row for each stride."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _places(costs)
    columns, rows = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    figure = Figure(figsize=(1.05 * columns + 0.6, 1.15 * rows + 0.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for cost in costs:
        for source in cost.inputs:
            _draw_edge(axes, places[source.partition(".")[0]], places[cost.name])
    for cost in costs:
        x, y = places[cost.name]
        axes.text(x, y, f"{cost.name}\n{cost.block}\n{' x '.join(map(str, cost.shape))}", ha="center", va="center",
                  fontsize=6.5, bbox={"boxstyle": "round,pad=0.3", "fc": COLOURS.get(cost.block[:4], "#eeeeee"),
                                      "ec": "#444444", "lw": 0.7})
    axes.text(*places["image"], "image", ha="center", va="center", fontsize=7)
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), title=spec.name)
    axes.axis("off")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=110)
    atomic_write(path, buffer.getvalue())


def _draw_edge(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    far = end[0] - start[0] > 1.5 and start[1] == end[1]  # curves around the nodes between
    style = {"arrowstyle": "-|>", "color": "#888888", "lw": 0.8, "shrinkA": 14, "shrinkB": 16,
             "connectionstyle": f"arc3,rad={-0.25 if far else 0.0}"}
    axes.annotate("", end, start, arrowprops=style)


def _places(costs: Sequence[NodeCost]) -> dict[str, tuple[int, int]]:
    """Column and row of every node: columns by the longest path from the image, rows by height of the map."""
    heights = sorted({cost.shape[-2] for cost in costs if len(cost.shape) == 3}, reverse=True)
    places = {"image": (0, 0)}
    taken = set(places.values())
    for cost in costs:
        column = 1 + max(places[name.partition(".")[0]][0] for name in cost.inputs)
        row = heights.index(cost.shape[-2]) if len(cost.shape) == 3 else len(heights) // 2
        while (column, row) in taken:
            column += 1
        places[cost.name] = (column, row)
        taken.add((column, row))
    return places
