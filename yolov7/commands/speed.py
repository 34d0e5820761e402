"""``yolov7 speed``, which is also ``yolov7 test --task speed | study | table10``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.config.options import TestOptions

if TYPE_CHECKING:
    from yolov7.engine.speed import SpeedTable


def measure(options: TestOptions) -> SpeedTable:
    """What weights cost: time of each stage, AP over time at several sizes, half and full precision."""
    from yolov7.engine import speed

    return speed.TASKS[options.task](options)
