"""``yolov7 train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.engine.run_config import TrainOptions

if TYPE_CHECKING:
    from yolov7.engine.forecast import Forecast
    from yolov7.engine.history import TrainingRun
    from yolov7.experiments.folds import FoldRuns


def train(options: TrainOptions) -> TrainingRun | Forecast | FoldRuns:
    """Train a network on a data set, evaluate it every epoch, keep the best weights."""
    if options.folds and not options.fold and options.resume is None:
        from yolov7.experiments.folds import train_folds

        return train_folds(options)
    from yolov7.engine import run

    return run.train(options)
