"""Run an exported file in a process of its own: ``python -m yolov7.export.fresh FILE INPUTS.npz OUTPUTS.npz [CFG]``.

Every array of ``INPUTS`` is a batch, float32 ``[B, 3, H, W]`` in 0..1; ``OUTPUTS`` has, for picture ``i`` of array
``name``, boxes ``name/i/boxes`` and scores ``name/i/scores`` of all rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from yolov7.inference.loading import NetworkOptions, load_network
from yolov7.inference.network import Network
from yolov7.model.anchors import Predictions

EVERY_ROW = -1.0  # confidence that every row exceeds


def all_rows(network: Network, images: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Boxes and scores (class times objectness) of each picture of a batch."""
    found = network(torch.from_numpy(images), EVERY_ROW)
    return [rows_of(picture) for picture in found]


def rows_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Of one picture; a score is class times objectness, with one class the objectness."""
    boxes, objectness, classes = predictions
    scores = objectness[:, None] * classes if classes.shape[-1] > 1 else objectness[:, None]
    return {"boxes": boxes.numpy(), "scores": scores.numpy()}


def main() -> None:
    """See above."""
    file, inputs, outputs, *cfg = sys.argv[1:]
    network = load_network([Path(file)], torch.device("cpu"), NetworkOptions(cfg[0] if cfg else None))
    found: dict[str, np.ndarray] = {}
    with np.load(inputs) as batches:
        for name in batches.files:
            for index, rows in enumerate(all_rows(network, batches[name])):
                found |= {f"{name}/{index}/{key}": value for key, value in rows.items()}
    np.savez(outputs, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
