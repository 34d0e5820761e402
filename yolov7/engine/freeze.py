"""Nodes of a model that stay as they are: ``--freeze``."""

from __future__ import annotations

from yolov7.config import InputError, unknown
from yolov7.model.detector import Detector


def nodes_to_freeze(model: Detector, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the nodes: those given, or the first N. Raises `InputError` for what the model does not have."""
    names = tuple(model.nodes)
    if len(wanted) == 1 and wanted[0].isdigit():
        count = int(wanted[0])
        if count > len(names):
            raise InputError(f"--freeze {count}: {model.spec.name} has {len(names)} nodes; accepted: 0 to {len(names)}")
        return names[:count]
    for name in wanted:
        if name not in names:
            raise InputError(f"--freeze: {unknown('node', name, names)}")
    return wanted


def freeze(model: Detector, nodes: tuple[str, ...]) -> None:
    """No gradients for these nodes, so that the optimizer leaves them out."""
    for name in nodes:
        model.nodes[name].requires_grad_(False)


def hold_statistics(model: Detector, nodes: tuple[str, ...]) -> None:
    """Keep the batch norm statistics of these nodes too (the original's go on moving); after each ``model.train()``."""
    for name in nodes:
        model.nodes[name].eval()
