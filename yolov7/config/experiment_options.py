"""Options of the commands that run, or look at, many trainings: a flag is a field (see `yolov7.config.options`)."""

from __future__ import annotations

from dataclasses import dataclass

from yolov7.config.options import MAX_COUNT, OutputFolder
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
class CompareOptions(OutputFolder):
    """Flags of ``compare``."""

    runs: tuple[str, ...] = option((), "folders of training runs, or folders in which runs lie", group="model and data")
    project: str = option("runs/compare", "results are folders below this one", group="run and output")
    verbose: bool = option(False, "tracebacks and debug messages", group="run and output")
