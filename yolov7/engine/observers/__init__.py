"""Who is told of a run: TensorBoard, Weights & Biases, MLflow, Trackio, and what others register."""

from yolov7.engine.observers.base import Observer, Observers, RunFacts, Table
from yolov7.engine.observers.known import KNOWN, observers_named

__all__ = ["KNOWN", "Observer", "Observers", "RunFacts", "Table", "observers_named"]
