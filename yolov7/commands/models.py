"""``yolov7 models``: tables of what models cost, a drawing of a graph, and scaled models as YAML."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from yolov7.config import InputError, atomic_write
from yolov7.config.options import ModelsOptions
from yolov7.runtime.tables import Table

if TYPE_CHECKING:
    from yolov7.model.spec import ModelSpec

logger = logging.getLogger(__name__)

ORDER = ("paper", "tasks", "baseline", "ablation")  # of the folders in cfg
IMAGES = (".png", ".pdf", ".svg")


def models(options: ModelsOptions) -> Table:
    """Show all models beside the paper's figures; one model node by node; or what scaling makes of one."""
    from yolov7.model.spec import read_spec

    if options.cfg and options.scale:
        raise InputError("--cfg and --scale: accepted: one of them")
    if not options.scale and any((options.depth, options.width, options.hidden_width)):
        raise InputError("--depth, --width and --hidden-width go with --scale: name the model that is scaled")
    if options.picture and Path(options.picture).suffix.lower() not in IMAGES:
        raise InputError(f"--picture {options.picture!r}; accepted: {', '.join(IMAGES)}")
    if options.cfg is None and options.scale is None:
        if options.picture or options.output:
            raise InputError("--picture and --output: name one model with --cfg or --scale")
        return _table_of_all(options.num_classes)
    spec = read_spec(options.cfg) if options.cfg else _scaled(options)
    return _show_one(spec, options)


def _table_of_all(num_classes: int | None) -> Table:
    from yolov7.config import shipped_files
    from yolov7.model.spec import read_spec
    from yolov7.model.summary import model_cost, models_table
    from yolov7.runtime.progress import Progress

    paths = sorted(shipped_files("cfg").values(), key=lambda path: ORDER.index(path.parent.name))
    progress = Progress(paths, "models", unit="models")
    costs = [model_cost(read_spec(str(path)), num_classes) for path in progress]
    logger.info("%s", models_table(costs))
    return Table(tuple(
        {"model": cost.spec.name, "size": cost.spec.image_size, "recipe": cost.spec.recipe,
         "training_parameters": cost.training_parameters, "training_gflops": cost.training_gflops,
         "parameters": cost.parameters, "gflops": cost.gflops, "paper_AP": cost.spec.paper.AP} for cost in costs))


def _scaled(options: ModelsOptions) -> ModelSpec:
    from yolov7.model.scaling import Scale
    from yolov7.model.spec import read_spec, scaled_spec

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


def _show_one(spec: ModelSpec, options: ModelsOptions) -> Table:
    import torch

    from yolov7.model.detector import Detector
    from yolov7.model.summary import definition_text, draw_graph, node_costs, nodes_table, nominal_classes

    num_classes = options.num_classes or nominal_classes(spec)
    with torch.device("meta"):  # for its strides
        stride = Detector(spec, num_classes).stride
    size = options.img_size or spec.image_size
    if size % stride:
        raise InputError(f"--img-size {size}: accepted: a multiple of {stride}")
    costs = node_costs(spec, size, size, options.deploy, num_classes)
    logger.info("%s, %s form, %d x %d", spec.name, "deployed" if options.deploy else "training", size, size)
    logger.info("%s", nodes_table(costs))
    if options.output:
        atomic_write(options.output, definition_text(spec.definition))
        logger.info("written to %s", options.output)
    if options.picture:
        draw_graph(spec, costs, options.picture)
        logger.info("graph: %s", options.picture)
    return Table(tuple(dataclasses.asdict(cost) for cost in costs))
