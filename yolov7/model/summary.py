"""What a model costs, node by node: shapes, parameters and FLOPs, as tables.

A multiply-add counts as two operations, and only convolutions (with their biases) are counted: the convention of the
paper's tables. Everything is computed on the meta device: no weights, no arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.model.detector import Detector
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import ModelSpec

DEVIATION = 0.01  # from the paper's figure; more is marked


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


def _count_nothing(*_: Any) -> None:
    pass


def node_costs(spec: ModelSpec, height: int, width: int, fused: bool, num_classes: int = 80) -> list[NodeCost]:
    """Costs of every node and of the head, in order, for the training form or the deployed one.

    thop leaves traces in what it counts: the model that it gets is made for it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thop compares versions in a way that Python deprecates
        import thop
    with torch.device("meta"):
        model = Detector(spec, num_classes)
        model = reparameterize(model) if fused else model.eval()
        images = torch.empty(1, 3, height, width)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, node in model.nodes.items():
        node.register_forward_hook(partial(_keep_shape, shapes, name))
    rules = {nn.Conv2d: _count_convolution, nn.BatchNorm2d: _count_nothing, nn.LeakyReLU: _count_nothing}
    _, _, counted = thop.profile(model, (images,), rules, verbose=False, ret_layer_info=True)
    operations = {name: entry[0] for name, entry in counted["nodes"][2].items()} | {"head": counted["head"][0]}
    costs = [NodeCost(node.name, node.block, node.inputs, shapes[node.name], _parameters(model.nodes[node.name]),
                      2e-9 * operations[node.name]) for node in model.spec.nodes]
    head = model.spec.head
    rows = sum(model.head.num_anchors * (height // stride) * (width // stride) for stride in model.head.strides)
    costs.append(NodeCost("head", "AnchorHead", (*head.inputs, *head.auxiliary), (rows, 5 + num_classes),
                          _parameters(model.head), 2e-9 * operations["head"]))
    return costs


def _keep_shape(shapes: dict[str, tuple[int, ...]], name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    tensor = output[0] if isinstance(output, tuple) else output
    shapes[name] = tuple(tensor.shape[1:])


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class ModelCost:
    """A model at its nominal size: parameters and GFLOPs in training form and deployed."""

    spec: ModelSpec
    training_parameters: int
    training_gflops: float
    parameters: int
    gflops: float

    @property
    def gflops_as_in_paper(self) -> float:
        """Deployed, at the size that the paper quotes; all networks are fully convolutional."""
        return self.gflops * ((self.spec.paper.size or self.spec.image_size) / self.spec.image_size) ** 2


def model_cost(spec: ModelSpec, num_classes: int = 80) -> ModelCost:
    """The costs of both forms."""
    totals: list[Any] = []
    for fused in (False, True):
        costs = node_costs(spec, spec.image_size, spec.image_size, fused, num_classes)
        totals += [sum(cost.parameters for cost in costs), sum(cost.gflops for cost in costs)]
    return ModelCost(spec, *totals)


def models_table(costs: Sequence[ModelCost]) -> str:
    """All models beside the paper's figures; what deviates from them by more than 1% is marked and explained."""
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
    """One model, node by node."""
    header = ("node", "block", "from", "output", "parameters", "GFLOPs")
    rows = [(cost.name, cost.block, ", ".join(cost.inputs), " x ".join(map(str, cost.shape)), f"{cost.parameters:,}",
             f"{cost.gflops:.3f}") for cost in costs]
    total = ("total", "", "", "", f"{sum(cost.parameters for cost in costs):,}",
             f"{sum(cost.gflops for cost in costs):.3f}")
    return align_columns(header, [*rows, total])


def _figure(value: float | None, suffix: str = "") -> str:
    return "-" if value is None else f"{value}{suffix}"


def align_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry; numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    numeric = [all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(cell.rjust(width) if right else cell.ljust(width)
                               for cell, width, right in zip(line, widths, numeric, strict=True)).rstrip()
                     for line in lines)
