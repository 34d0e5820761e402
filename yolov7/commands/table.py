"""Every command: its options, what runs it, and what it is called in Python programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolov7.commands import ablation, average, compare, data, detect, export, models, recipe, speed, test, train, tune
from yolov7.config.experiment_options import AblationOptions, AverageOptions, CompareOptions
from yolov7.config.options import (
    AnchorsOptions,
    CheckOptions,
    ConvertOptions,
    DetectOptions,
    ExportOptions,
    ModelsOptions,
    RecipeOptions,
    ShardOptions,
    SpeedOptions,
    TestOptions,
)
from yolov7.engine.run_config import TrainOptions
from yolov7.experiments.tune_options import TuneOptions

Command = tuple[type[Any], Callable[[Any], object]]  # the first paragraph says what it does
COMMANDS: dict[str, Command] = {
    "train": (TrainOptions, train.train),
    "test": (TestOptions, test.test),
    "speed": (SpeedOptions, speed.measure),
    "detect": (DetectOptions, detect.detect),
    "export": (ExportOptions, export.export),
    "models": (ModelsOptions, models.models),
    "recipe": (RecipeOptions, recipe.recipe),
    "tune": (TuneOptions, tune.tune),
    "compare": (CompareOptions, compare.compare),
    "ablation": (AblationOptions, ablation.ablation),
    "average": (AverageOptions, average.average),
    "data check": (CheckOptions, data.check),
    "data convert": (ConvertOptions, data.convert),
    "data shard": (ShardOptions, data.shard),
    "data anchors": (AnchorsOptions, data.anchors)}
EXAMPLES: dict[str, tuple[str, ...]] = {  # flags, which run as they stand after those above them
    "train": ("--cfg yolov7-tiny --data shapes --epochs 2 --keep 2", "--resume --epochs 3"),
    "test": ("", "--weights runs/train/exp/weights/best.pt --task speed"),
    "speed": ("--weights runs/train/exp/weights/best.pt",),
    "detect": ("--source datasets/shapes/images/val --save-json",
               "--source 'datasets/shapes/images/val/*1.jpg' --conf-thres 0.1"),
    "export": ("--format onnx --dynamic",),
    "models": ("", "--cfg yolov7-tiny"),
    "recipe": ("--hyp tiny --find mosaic", "--hyp p5 --diff p6"),
    "tune": ("--cfg yolov7-tiny --data shapes --trials 20 --epochs 10",),
    "compare": ("runs/train",),
    "ablation": ("table6 --scale small --dry-run",),
    "average": ("runs/train/exp",),
    "data check": ("--data shapes",),
    "data convert": ("--data shapes --to yolo --output datasets/mine",
                     "--data datasets/mine --to coco --output datasets/again"),
    "data shard": ("--data shapes --output datasets/shards", "--data datasets/shards --check"),
    "data anchors": ("--data shapes --cfg yolov7-tiny",)}
FIRST = ("train", "test", "detect --source datasets/shapes/images/val")  # for whoever is new


def summary(command: str) -> str:
    """What a command does, in a sentence."""
    return str(COMMANDS[command][1].__doc__).partition("\n\n")[0]
