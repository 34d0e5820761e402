"""Convolutions whose weights are cast to half precision together, once a step, rather than one by one in each forward.

Autocast casts a weight whenever it meets it: a kernel for each of a hundred convolutions, in every batch of a step.
The cast itself is the same, so that results are equal to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """A convolution that uses the cast weight which `HeldWeights` keeps for it, where there is one."""

    held: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Conv2d`; a compiled graph casts by itself, and what is not trained has weights of its own."""
        if self.held is None or not (self.training and torch.is_autocast_enabled(input.device.type)) or (
                torch.compiler.is_compiling()):
            return super().forward(input)
        weight: Tensor = _Held.apply(self.weight, self.held)  # type: ignore[no-untyped-call]
        output: Tensor = self._conv_forward(input, weight, self.bias)
        return output


class _Held(torch.autograd.Function):
    """The cast weight, whose gradient is that of the weight (the engine casts it back)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, held: Tensor) -> Tensor:
        return held.view_as(held)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


class HeldWeights:
    """The weights of all convolutions of a model, in half precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        convolutions = [module for module in model.modules() if isinstance(module, Conv2d)]
        self._weights = [module.weight.detach() for module in convolutions]
        self._held = [torch.empty_like(weight, dtype=dtype) for weight in self._weights]
        for module, held in zip(convolutions, self._held, strict=True):
            module.held = held
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast them anew, all in one call: before the first forward of a step."""
        torch._foreach_copy_(self._held, self._weights)
