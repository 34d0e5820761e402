"""``yolov7 train``."""

from __future__ import annotations

from yolov7.engine.run_config import TrainOptions


def train(options: TrainOptions) -> int:
    """Train a network on a data set, evaluate it every epoch, keep the best weights."""
    from yolov7.engine import run

    run.train(options)
    return 0
