"""What moves the weights: parameter groups and optimizer, schedule, moving average, frozen layers.

docs/reference.md: Parameter groups, Learning rate and warm-up, Exponential moving average, Frozen layers.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from yolov7.config import InputError, unknown
from yolov7.config.recipe import OptimizerConfig
from yolov7.model.detector import Detector
from yolov7.model.reparam import is_fused

NORM, DECAY, BIAS = 0, 1, 2  # indices of the groups: the schedule warms biases up differently


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Every trainable parameter in exactly one group: (norms and implicit knowledge, decayed weights, biases).

    The rule is structural: vectors and per-channel factors are not decayed, whatever module they sit in.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]] = ([], [], [])
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        per_channel = parameter.numel() == max(parameter.shape, default=1)  # [C], or [1, C, 1, 1] of implicit knowledge
        group = BIAS if name.endswith("bias") else NORM if per_channel else DECAY
        groups[group].append(parameter)
    return groups


def make_optimizer(model: Detector, config: OptimizerConfig, batch_size: int, nominal_batch: int) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW, as the recipe says.

    Both run as one fused kernel that can be told on the device to do nothing (see `step`).
    SGD's weight decay holds for a nominal batch, as the gradients are sums over a batch; AdamW divides by their size.
    Raises ``ValueError`` for a re-parameterized model.
    """
    if is_fused(model):
        raise ValueError(f"{model.spec.name} is re-parameterized and cannot be trained")
    accumulate = max(round(nominal_batch / batch_size), 1)
    share = batch_size * accumulate / nominal_batch if config.kind == "sgd" else 1.0
    decay = config.weight_decay * share
    norms, weights, biases = parameter_groups(model)
    groups = [
        {"params": norms, "weight_decay": 0.0},
        {"params": weights, "weight_decay": decay},
        {"params": biases, "weight_decay": 0.0}]
    if config.kind == "adamw":
        return AdamW(groups, lr=config.lr0, betas=(config.momentum, 0.999), fused=True)
    optimizer = SGD(groups, lr=config.lr0, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    if config.momentum:  # else the first step would make the buffers, even where the device leaves that step out
        for parameter in itertools.chain(norms, weights, biases):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


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
        """Iterations of the warm-up: its epochs, and unless the recipe differs at least 1,000 in runs of 2,000 or more.

        The reference implementation warms up for 1,000 iterations always; a small data set never leaves it.
        """
        iterations, least = round(self.config.warmup_epochs * self.batches), self.config.min_warmup
        long = self.epochs * self.batches >= 2 * least
        return max(iterations, least) if long and iterations else iterations

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
            accumulate=max(round(1 + t * (full - 1)), 1))


def apply(settings: StepSettings, optimizer: Optimizer) -> None:
    """Write the settings into the optimizer's groups."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = settings.bias_lr if index == BIAS else settings.lr
        if "momentum" in group:  # AdamW keeps its betas
            group["momentum"] = settings.momentum


EMA_DECAY = 0.9999
EMA_RAMP = 2000  # updates: a young average follows the weights closely


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
        # 1 - EMA_DECAY * (1 - exp(-updates / EMA_RAMP)), without its cancellation
        self._weight.copy_((1 - EMA_DECAY) + EMA_DECAY * torch.exp(-self.updates / EMA_RAMP))
        self._follow.found_inf = left_out  # type: ignore[attr-defined]  # what gradient scalers set, too
        self._follow.step()


def _floating(model: nn.Module) -> list[Tensor]:
    """Tensors of the state dict that are averaged: not the integer counters of batch norm."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def nodes_to_freeze(model: Detector, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the nodes: those given, or the first N. Raises `InputError` for what the model does not have."""
    names = tuple(model.nodes)
    if len(layers) == 1 and layers[0].isdigit():
        count = int(layers[0])
        if count > len(names):
            raise InputError(f"--freeze {count}: {model.spec.name} has {len(names)} nodes; accepted: 0 to {len(names)}")
        return names[:count]
    for name in layers:
        if name not in names:
            raise InputError(f"--freeze: {unknown('node', name, names)}")
    return layers


def freeze(model: Detector, nodes: tuple[str, ...]) -> None:
    """No gradients for these nodes, so that the optimizer leaves them out."""
    for name in nodes:
        model.nodes[name].requires_grad_(False)


def hold_statistics(model: Detector, nodes: tuple[str, ...]) -> None:
    """Keep the batch norm statistics of these nodes too, after each ``model.train()``.

    Those of the reference implementation go on moving.
    """
    for name in nodes:
        model.nodes[name].eval()
