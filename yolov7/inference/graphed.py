"""A deployed network as CUDA graphs, one for each shape of input: forward and decoding with one command of the host.

Behind it one question is left that waits for the device: which rows are above the threshold.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from yolov7.model.detector import Detector
from yolov7.model.heads.base import Predictions
from yolov7.runtime.cuda_graphs import GraphPool, Replay
from yolov7.structures import HeadOutput

logger = logging.getLogger(__name__)

MAX_SHAPES = 16  # of inputs; those of a rectangular evaluation are not recorded all
MAX_CHANNELS = 256  # of a head that is decoded for all rows; of more only the rows above the threshold are

Result = HeadOutput | Predictions


class GraphedNetwork:
    """Predictions of batches: plainly the first time that a shape is seen, by a recording from the second time on.

    Recordings share their memory: one batch at a time, which the caller sees to.
    """

    def __init__(self, model: Detector, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._model, self._dtype = model, dtype
        self._dense = model.head.channels.size <= MAX_CHANNELS and dtype == torch.float32
        self._pool = GraphPool(device)
        self._seen: set[torch.Size] = set()
        self._refused = False
        self._recorded: dict[torch.Size, tuple[Tensor, Replay, Result]] = {}

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """RGB images float ``[B, 3, H, W]`` -> the rows of objectness above ``confidence``, of each image."""
        shape = images.shape
        if shape not in self._recorded:
            may = shape in self._seen and not self._refused and len(self._recorded) < MAX_SHAPES
            if not may or not self._record(images):
                self._seen.add(shape)
                with self._pool.aside():
                    result = self._compute(images)
                return self._above(result, confidence)
        slot, replay, result = self._recorded[shape]
        slot.copy_(images)
        replay()
        return self._above(result, confidence)

    def _record(self, images: Tensor) -> bool:
        slot = images.clone(memory_format=torch.channels_last)
        made: list[Result] = []
        try:
            replay = self._pool.record(lambda: made.append(self._compute(slot)))
        except RuntimeError as error:
            logger.warning("--fast: the network cannot be recorded as a CUDA graph (%s); it goes on without",
                           str(error).splitlines()[0])
            self._refused = True
            return False
        self._recorded[images.shape] = slot, replay, made[0]
        logger.debug("recorded as a CUDA graph: %s (graph %d; the pool holds %d MiB)",
                     " x ".join(map(str, images.shape)), len(self._recorded), self._pool.bytes() >> 20)
        return True

    def _compute(self, images: Tensor) -> Result:
        output: HeadOutput = self._model(images)
        return self._model.head.decoder(output) if self._dense else output

    def _above(self, result: Result, confidence: float) -> list[Predictions]:
        """The rows, in memory of their own: the next replay overwrites the result."""
        result = replace(result, maps={name: value.clone() for name, value in result.maps.items()})
        if isinstance(result, Predictions):
            return rows_above(result, confidence)
        return self._model.head.decoder.above(result, confidence, self._dtype)


def rows_above(predictions: Predictions, confidence: float) -> list[Predictions]:
    """The rows of objectness above ``confidence`` of each image, in their order."""
    image, row = (predictions.objectness > confidence).nonzero(as_tuple=True)
    counts = torch.bincount(image, minlength=len(predictions.boxes)).tolist()  # waits for the device
    extra = {name: column[image, row] for name, column in predictions.extra.items()}
    return Predictions(predictions.boxes[image, row], predictions.objectness[image, row],
                       predictions.classes[image, row], extra, predictions.maps).split(counts)
