"""Every command: its options, what runs it, and what it is called in Python programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolov7.commands import data, detect, export, models, recipe, speed, test, train
from yolov7.config.options import (
    AnchorsOptions,
    CheckOptions,
    ConvertOptions,
    DetectOptions,
    ExportOptions,
    ModelsOptions,
    RecipeOptions,
    SpeedOptions,
    TestOptions,
)
from yolov7.engine.run_config import TrainOptions

Command = tuple[type[Any], Callable[[Any], object]]  # whose first line says what it does
COMMANDS: dict[str, Command] = {
    "train": (TrainOptions, train.train),
    "test": (TestOptions, test.test),
    "speed": (SpeedOptions, speed.measure),
    "detect": (DetectOptions, detect.detect),
    "export": (ExportOptions, export.export),
    "models": (ModelsOptions, models.models),
    "recipe": (RecipeOptions, recipe.show),
    "data check": (CheckOptions, data.check),
    "data convert": (ConvertOptions, data.convert),
    "data anchors": (AnchorsOptions, data.anchors)}
FUNCTIONS = {"data check": "check_data", "data convert": "convert_data", "data anchors": "fit_anchors"}


def function_name(command: str) -> str:
    """What a command is called in Python programs."""
    return FUNCTIONS.get(command, command)
