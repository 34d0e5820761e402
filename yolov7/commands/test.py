"""``yolov7 test``."""

from __future__ import annotations

from yolov7.commands.speed import measure
from yolov7.config.options import TestOptions


def test(options: TestOptions) -> int:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json, curves, images; or time them."""
    from yolov7.engine import speed, testing

    if options.task in speed.TASKS:
        return measure(options)
    testing.test(options)
    return 0
