"""Parameter groups and the optimizer (spec of training, section 4)."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from yolov7.model.detector import Detector
from yolov7.model.reparam import is_fused
from yolov7.options import OptimizerConfig

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
        {"params": biases, "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return AdamW(groups, lr=config.lr0, betas=(config.momentum, 0.999), fused=True)
    optimizer = SGD(groups, lr=config.lr0, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    if config.momentum:  # else the first step would make the buffers, even where the device leaves that step out
        for parameter in itertools.chain(norms, weights, biases):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
