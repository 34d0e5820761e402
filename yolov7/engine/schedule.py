"""Learning rate, momentum and accumulation at every iteration: pure functions (spec of training, section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

from yolov7.engine.optim import BIAS
from yolov7.options import OptimizerConfig

LEAST_WARMUP = 1000  # iterations, in runs of at least twice that


@dataclass(frozen=True)
class StepSettings:
    """What holds at one iteration."""

    lr: float  # of norms and weights
    bias_lr: float
    momentum: float
    accumulate: int  # batches in an optimizer step


@dataclass(frozen=True)
class Schedule:
    """The course of a run of ``epochs`` epochs with ``batches`` iterations each."""

    config: OptimizerConfig
    epochs: int
    batches: int
    batch_size: int
    nominal_batch: int = 64
    linear: bool = False

    @property
    def warmup(self) -> int:
        """Iterations of the warm-up: its epochs, and at least 1,000 in runs of 2,000 or more.

        The original warms up for 1,000 iterations always; a small data set never leaves it.
        """
        iterations = round(self.config.warmup_epochs * self.batches)
        long = self.epochs * self.batches >= 2 * LEAST_WARMUP
        return max(iterations, LEAST_WARMUP) if long and iterations else iterations

    def factor(self, epoch: int) -> float:
        """Share of ``lr0`` in an epoch: cosine or linear from 1 towards ``lrf``."""
        final = self.config.lrf
        if self.linear:
            return final + (1 - final) * (1 - epoch / max(self.epochs - 1, 1))
        return 1 + (final - 1) * (1 - math.cos(math.pi * epoch / self.epochs)) / 2

    def at(self, iteration: int) -> StepSettings:
        """Settings of a global iteration (0 is the first)."""
        config = self.config
        lr = config.lr0 * self.factor(iteration // self.batches)
        full = self.nominal_batch / self.batch_size
        if not self.warmup or iteration > self.warmup:
            return StepSettings(lr, lr, config.momentum, max(round(full), 1))
        t = iteration / self.warmup
        return StepSettings(
            lr=t * lr,
            bias_lr=config.warmup_bias_lr + t * (lr - config.warmup_bias_lr),
            momentum=config.warmup_momentum + t * (config.momentum - config.warmup_momentum),
            accumulate=max(round(1 + t * (full - 1)), 1),
        )


def apply(settings: StepSettings, optimizer: Optimizer) -> None:
    """Write the settings into the optimizer's groups."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = settings.bias_lr if index == BIAS else settings.lr
        if "momentum" in group:  # AdamW keeps its betas
            group["momentum"] = settings.momentum
