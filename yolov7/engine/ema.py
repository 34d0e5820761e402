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
    """A float32 copy of a model that follows it; ``updates`` counts optimizer steps.

    The model stays where it is from then on: its tensors are changed in place, never replaced.
    """

    def __init__(self, model: Detector, updates: int = 0) -> None:
        self.model: Detector = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = updates
        self._averages = _floating(self.model)
        self._followed = _floating(model)  # listed once: walking the modules takes longer than the update

    @torch.no_grad()
    def update(self) -> None:
        """Move every floating-point parameter and buffer towards the model's, all tensors in one call."""
        self.updates += 1
        decay = DECAY * (1 - math.exp(-self.updates / RAMP))
        torch._foreach_lerp_(self._averages, self._followed, 1 - decay)


def _floating(model: nn.Module) -> list[torch.Tensor]:
    """Tensors of the state dict that are averaged: not the integer counters of batch norm."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
