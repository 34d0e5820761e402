"""Exponential moving average of the weights (spec of training, section 7): what is evaluated, kept and deployed."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from yolov7.model.detector import Detector

DECAY = 0.9999
RAMP = 2000  # updates: a young average follows the weights closely


class ModelEMA:
    """A float32 copy of a model that follows it; ``updates`` counts optimizer steps."""

    def __init__(self, model: Detector, updates: int = 0) -> None:
        self.model: Detector = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = updates
        self._averages = _floating(self.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every floating-point parameter and buffer towards ``model``'s, all tensors in one call."""
        self.updates += 1
        decay = DECAY * (1 - math.exp(-self.updates / RAMP))
        torch._foreach_lerp_(self._averages, _floating(model), 1 - decay)


def _floating(model: nn.Module) -> list[torch.Tensor]:
    """Tensors of the state dict that are averaged: not the integer counters of batch norm."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
