"""``yolov7 speed``, which is also ``yolov7 test --task speed | study | table10``."""

from __future__ import annotations

from yolov7.config.options import TestOptions


def measure(options: TestOptions) -> int:
    """What weights cost: time of each stage, AP over time at several sizes, half and full precision."""
    from yolov7.engine import speed

    speed.TASKS[options.task](options)
    return 0
