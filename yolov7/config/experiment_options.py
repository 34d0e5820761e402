"""Options of the commands that run, or look at, many trainings: a flag is a field (see `yolov7.config.options`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolov7.config.options import MAX_COUNT, MAX_SEED, MAX_SIDE, OutputFolder, Precision
from yolov7.config.schema import option


@dataclass(frozen=True)
class PlaceOptions:
    """Where many trainings run."""

    devices: tuple[str, ...] = option((), "devices to use, one training on each: 0 1 2 3, or cpu; default: one "
                                      "training at a time, where train.py would run it", metavar="DEVICE",
                                      group="device and speed")
    devices_per_run: int = option(1, "devices that share a training (torchrun)", low=1, most=MAX_COUNT,
                                  group="device and speed")


@dataclass(frozen=True)
class AblationOptions(PlaceOptions):
    """Flags of ``ablation``."""

    table: Literal["table3", "table4", "table5", "table6", "table7", "table8", "table10"] | None = option(
        None, "table of the paper: table3 (scaling), table4 and table5 (RepConv), table6, table7 and table8 (auxiliary "
        "heads), table10 (precision and NMS)", group="what is measured")
    scale: Literal["paper", "small"] = option(
        "paper", "paper: the paper's models and settings; small: models of a quarter of the width and small images, "
        "which two cores train in hours", group="what is measured")
    rows: tuple[str, ...] = option((), "rows of the table, by their numbers from 1; default: all", metavar="N",
                                   group="what is measured")
    seeds: tuple[int, ...] = option((), "a training of each row with each of these seeds; default: 0, at small scale 0 "
                                    "1 2", low=0, most=MAX_SEED, group="what is measured")
    data: str = option("", "data set; default: coco, at small scale the built-in shapes", group="model and data")
    img_size: int | None = option(None, "side of the network input; default: the model's, at small scale that of the "
                                  "data set's settings, or 256", low=32, most=MAX_SIDE, group="model and data")
    set: tuple[str, ...] = option((), "recipe overrides for all rows", metavar="KEY=VALUE", group="model and data")
    epochs: int | None = option(None, "epochs; default: 300, at small scale 30",
                                low=1, most=MAX_COUNT, group="schedule and batch")
    batch_size: int | None = option(None, "images in a batch; default: that of train.py, at small scale that of the "
                                    "data set's settings, or 8", low=1, most=MAX_COUNT, group="schedule and batch")
    precision: Precision = option("auto", "number format of the networks in training", group="device and speed")
    workers: int | None = option(None, "loader processes of each training; default: its share of the cores", low=0,
                                 most=MAX_COUNT, group="device and speed")
    project: str = option("runs/ablation", "results are folders below this one; a second start goes on, and several "
                          "at a time share the work", group="run and output")
    dry_run: bool = option(False, "say which trainings there are and which of them are finished, and run none",
                           group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class CompareOptions(OutputFolder):
    """Flags of ``compare``."""

    runs: tuple[str, ...] = option((), "folders of training runs, or folders in which runs lie", group="model and data")
    project: str = option("runs/compare", "results are folders below this one", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")


@dataclass(frozen=True)
class AverageOptions:
    """Flags of ``average``."""

    runs: tuple[str, ...] = option((), "folder of a run that has kept its last epochs, or weight files",
                                   group="model and data")
    last: int | None = option(None, "only the last N of the epochs that are kept; default: all of them", low=2,
                              most=MAX_COUNT, group="model and data")
    output: str = option("", "file to write; default: average.pt beside the epochs", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")
