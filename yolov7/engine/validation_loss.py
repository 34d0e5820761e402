"""The terms of the loss on the batches of an evaluation, from the forward pass that is made there anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov7.loss.criterion import Criterion
from yolov7.runtime.distributed import Processes
from yolov7.structures import Batch, HeadOutput


class ValidationLoss:
    """Means over the images of a split, in the units of the training loss; nothing here waits for the device.

    They are those of the deployed network, thus of the lead head: where the training loss has an auxiliary head's part
    (docs/reference.md, Auxiliary head), this one has not. Batches whose loss is not finite do not count, as in
    training.
    """

    def __init__(self, criterion: Criterion, names: Sequence[str], device: torch.device) -> None:
        self.criterion, self.names = criterion, tuple(names)
        self._sums = torch.zeros(len(self.names) + 1, device=device)  # of each term over images, and how many these are

    def add(self, output: HeadOutput, batch: Batch) -> None:
        """Take in a batch, by the logits of the network for it."""
        terms: Tensor = torch.stack(tuple(self.criterion(output, batch.targets).values()))
        counted = torch.cat((terms, torch.ones_like(terms[:1]))) * len(batch.images)
        self._sums += torch.where(terms.isfinite().all(), counted, 0.0)

    def result(self, processes: Processes) -> dict[str, float]:
        """The mean of each term over the images of all processes; nothing where none is finite."""
        *sums, images = processes.all_reduce_sum(self._sums.clone()).tolist()
        return {name: value / images for name, value in zip(self.names, sums, strict=True)} if images else {}
