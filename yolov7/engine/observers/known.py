"""Observers by their names: ours, and those of other packages (entry point ``yolov7.observers``)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import entry_points

from yolov7.config import InputError, reason_of, unknown
from yolov7.engine.observers.base import Observer

NONE = "none"
KNOWN = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "Mlflow", "trackio": "Trackio"}  # package -> class
GROUP = "yolov7.observers"


def observers_named(names: Sequence[str]) -> dict[str, Observer]:
    """An observer for each name; none for ``none``. Raises `InputError` for an unknown one, or a missing package."""
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    found: dict[str, Observer] = {}
    for name in names:
        if name == NONE:
            continue
        if name not in KNOWN and name not in others:
            raise InputError(f"--log: {unknown('observer', name, (*KNOWN, *others, NONE))}")
        if name in KNOWN and importlib.util.find_spec(name) is None:
            raise InputError(f"--log {name}: needs the package {name}, which is not installed (pip install {name})")
        try:
            module = importlib.import_module(f"yolov7.engine.observers.{name}") if name in KNOWN else None
            found[name] = getattr(module, KNOWN[name])() if module else others[name].load()()
        except Exception as error:  # of another package
            raise InputError(f"--log {name}: cannot be loaded ({type(error).__name__}: {reason_of(error)})") from None
    if NONE in names and found:
        raise InputError(f"--log: {NONE} stands beside {', '.join(found)}; accepted: one or the other")
    return found
