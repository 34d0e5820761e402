"""Exponential moving average of the weights (spec of training, section 7): what is evaluated, kept and deployed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import SGD

from yolov7.model.detector import Detector

DECAY = 0.9999
RAMP = 2000  # updates: a young average follows the weights closely


class ModelEMA:
    """A float32 copy of a model that follows it; ``updates`` counts optimizer steps, on the model's device.

    The model stays where it is from then on: its tensors are changed in place, never replaced.
    """

    def __init__(self, model: Detector, updates: int = 0) -> None:
        self.model: Detector = copy.deepcopy(model).eval().requires_grad_(False)
        averages, followed = _floating(self.model), _floating(model)
        self.updates = torch.full((), float(updates), device=averages[0].device)
        self._weight = torch.zeros_like(self.updates)
        # average + weight * (model - average) is a step of plain gradient descent, of which there is a kernel over all
        # tensors that can be told on the device to do nothing. These are aliases: the model itself gets no gradients.
        for average, value in zip(averages, followed, strict=True):
            average.grad = value
        self._follow = SGD(averages, lr=self._weight, weight_decay=1.0, maximize=True, fused=True)

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """Move every floating-point parameter and buffer towards the model's, all tensors in one call.

        ``skipped`` float ``[]`` on the device is 1 for a step that was left out: the average then stays as it is.
        """
        left_out = torch.zeros_like(self.updates) if skipped is None else skipped
        self.updates += 1 - left_out
        # 1 - DECAY * (1 - exp(-updates / RAMP)), without its cancellation
        self._weight.copy_((1 - DECAY) + DECAY * torch.exp(-self.updates / RAMP))
        self._follow.found_inf = left_out  # type: ignore[attr-defined]  # what gradient scalers set, too
        self._follow.step()


def _floating(model: nn.Module) -> list[Tensor]:
    """Tensors of the state dict that are averaged: not the integer counters of batch norm."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
