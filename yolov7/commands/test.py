"""``yolov7 test``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.commands.speed import measure
from yolov7.config.options import TestOptions

if TYPE_CHECKING:
    from yolov7.engine.speed import SpeedTable
    from yolov7.engine.testing import TestRun


def test(options: TestOptions) -> TestRun | SpeedTable:
    """Evaluate weights: the 12 COCO numbers, a table per class, predictions.json, curves, images; or time them."""
    from yolov7.engine import speed, testing

    if options.task in speed.TASKS:
        return measure(options)
    return testing.test(options)
