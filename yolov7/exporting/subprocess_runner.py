"""Run an exported file in a process of its own.

``python -m yolov7.exporting.subprocess_runner FILE INPUTS.npz OUTPUTS.npz [CFG]``: every array of ``INPUTS`` is a
batch, float32 ``[B, 3, H, W]`` in 0..1; ``OUTPUTS`` has, for image ``i`` of array ``name``, the arrays ``name/i/KEY``
with the keys of `rows_of`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from yolov7.config.options import NetworkOptions
from yolov7.inference.exported import ExportedNetwork
from yolov7.inference.loading import load_network
from yolov7.model.heads.base import Predictions

EVERY_ROW = -1.0  # confidence that every row exceeds
COLUMN, MAP = "column/", "map/"  # what the keys of a task's outputs begin with
MASKS = "masks"  # the column of those that a graph makes


def rows_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Boxes, scores, columns and maps of one image. A score is class times objectness, of one class the objectness."""
    objectness, classes = predictions.objectness, predictions.classes
    scores = objectness[:, None] * classes if classes.shape[-1] > 1 else objectness[:, None]
    return {"boxes": predictions.boxes.numpy(), "scores": scores.numpy(),
            **{f"{COLUMN}{name}": column.numpy() for name, column in predictions.extra.items()},
            **{f"{MAP}{name}": value.numpy() for name, value in predictions.maps.items()}}


def main() -> None:
    """See above."""
    file, inputs, outputs, *cfg = sys.argv[1:]
    network = load_network([Path(file)], torch.device("cpu"), NetworkOptions(cfg[0] if cfg else None, "fp32"))
    if isinstance(network, ExportedNetwork):
        network.gives_masks = True
    found: dict[str, np.ndarray] = {}
    with np.load(inputs) as batches:
        for name in batches.files:
            for index, image in enumerate(network(torch.from_numpy(batches[name]), EVERY_ROW)):
                found |= {f"{name}/{index}/{key}": value for key, value in rows_of(image).items()}
    np.savez(outputs, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
