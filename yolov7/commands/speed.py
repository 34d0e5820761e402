"""``yolov7 speed``, which is also ``yolov7 test --task speed | study | table10``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.config import InputError
from yolov7.config.options import TestOptions

if TYPE_CHECKING:
    from yolov7.engine.speed import SpeedTable


def measure(options: TestOptions) -> SpeedTable:
    """What weights cost: time of each stage, AP over time at several sizes, half and full precision."""
    from yolov7.engine import speed

    for flag, what in (("--report", options.report and "a page"), ("--tile", options.tile and "a way")):
        if what:
            raise InputError(f"{flag}: is {what} of an evaluation, which --task {options.task} is not; accepted: "
                             "--task train, val or test beside it")
    return speed.TASKS[options.task](options)
