"""``yolov7 models``: tables of what models cost, a picture of a graph, and scaled models as YAML."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from yolov7.config import InputError, shipped_files, write_atomically
from yolov7.model.detector import Detector
from yolov7.model.scaling import Scale
from yolov7.model.spec import ModelSpec, read_spec, scaled_spec
from yolov7.model.summary import ModelCost, NodeCost, model_cost, models_table, node_costs, nodes_table
from yolov7.options import ModelsOptions

logger = logging.getLogger(__name__)

ORDER = ("paper", "baseline", "ablation")  # of the folders in cfg
PICTURES = (".png", ".pdf", ".svg")
COLOURS = {"ELAN": "#bcd9f2", "EELA": "#9cc4ea", "CSPA": "#bcd9f2", "CSPB": "#bcd9f2", "CSPC": "#bcd9f2",
           "Dark": "#bcd9f2", "SPPC": "#d8c6ee", "SPP": "#d8c6ee", "RepC": "#f6d5a8", "Anch": "#f3b7b7"}


def show(options: ModelsOptions) -> None:
    """Log the tables that the flags ask for, and write the files."""
    if options.cfg and options.scale:
        raise InputError("--cfg and --scale: accepted: one of them")
    if not options.scale and any((options.depth, options.width, options.hidden_width)):
        raise InputError("--depth, --width and --hidden-width go with --scale: name the model that is scaled")
    if options.picture and Path(options.picture).suffix.lower() not in PICTURES:
        raise InputError(f"--picture {options.picture!r}; accepted: {', '.join(PICTURES)}")
    if options.cfg is None and options.scale is None:
        if options.picture or options.output:
            raise InputError("--picture and --output: name one model with --cfg or --scale")
        logger.info("%s", models_table(_all_costs(options.num_classes)))
        return
    spec = read_spec(options.cfg) if options.cfg else _scaled(options)
    _show_one(spec, options)


def _all_costs(num_classes: int) -> list[ModelCost]:
    paths = sorted(shipped_files("cfg").values(), key=lambda path: ORDER.index(path.parent.name))
    progress = tqdm(paths, desc="models", unit="model", leave=False, disable=None)
    return [model_cost(read_spec(str(path)), num_classes) for path in progress]


def _scaled(options: ModelsOptions) -> ModelSpec:
    scale = Scale(options.depth or 1.0, options.width, options.hidden_width or 1.0)
    spec, roundings = scaled_spec(read_spec(options.scale or ""), scale)
    factors = scale.factors()
    logger.info("%s with %s", spec.name, ", ".join(f"{key} x {factor:g}" for key, factor in factors.items()))
    alike: dict[str, list[str]] = {}
    for rounding in roundings:
        text = f"{rounding.key} {rounding.exact:g} is rounded to {rounding.rounded}"
        alike.setdefault(text, []).append(rounding.node.rpartition(".")[2])
    for text, nodes in alike.items():
        logger.info("%s: %s", text, ", ".join(nodes))
    return spec


def _show_one(spec: ModelSpec, options: ModelsOptions) -> None:
    with torch.device("meta"):  # for its strides
        stride = Detector(spec, options.num_classes).stride
    size = options.img_size or spec.image_size
    if size % stride:
        raise InputError(f"--img-size {size}: accepted: a multiple of {stride}")
    costs = node_costs(spec, size, size, options.deploy, options.num_classes)
    logger.info("%s, %s form, %d x %d", spec.name, "deployed" if options.deploy else "training", size, size)
    logger.info("%s", nodes_table(costs))
    if options.output:
        write_atomically(options.output, definition_text(spec.definition))
        logger.info("written to %s", options.output)
    if options.picture:
        draw_graph(spec, costs, options.picture)
        logger.info("graph: %s", options.picture)


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
    """The graph as a picture: from left to right as it is computed, a row for each stride."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = _places(costs)
    columns, rows = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    figure, axes = pyplot.subplots(figsize=(1.05 * columns + 0.6, 1.15 * rows + 0.6))
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
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def _draw_edge(axes: object, start: tuple[float, float], end: tuple[float, float]) -> None:
    far = end[0] - start[0] > 1.5 and start[1] == end[1]  # around what stands between
    style = {"arrowstyle": "-|>", "color": "#888888", "lw": 0.8, "shrinkA": 14, "shrinkB": 16,
             "connectionstyle": f"arc3,rad={-0.25 if far else 0.0}"}
    axes.annotate("", end, start, arrowprops=style)  # type: ignore[attr-defined]


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
