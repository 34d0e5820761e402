"""``yolov7 train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.engine.run_config import TrainOptions

if TYPE_CHECKING:
    from yolov7.engine.forecast import Forecast
    from yolov7.engine.history import TrainingRun


def train(options: TrainOptions) -> TrainingRun | Forecast:
    """Train a network on a data set, evaluate it every epoch, keep the best weights."""
    from yolov7.engine import run

    return run.train(options)
