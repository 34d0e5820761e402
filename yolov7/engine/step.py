"""One step of the training: forward, loss, backward of some batches, then optimizer and average.

docs/reference.md, Training iteration. Nothing here waits for the device. A step whose loss or gradient is not finite
leaves everything as it was before, which the device decides by itself.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from yolov7.data.loader import Field
from yolov7.engine.run_config import RunConfig
from yolov7.engine.state import RunState
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.model.detector import network_input
from yolov7.runtime.distributed import Processes
from yolov7.runtime.precision import autocast
from yolov7.structures import Batch, HeadOutput, Targets


class TrainingStep:
    """``backward`` for every batch of a step, then ``update``."""

    def __init__(self, state: RunState, config: RunConfig, criterion: Criterion, device: torch.device,
                 processes: Processes, fields: Sequence[Field] = ()) -> None:
        self.state, self.config, self.criterion = state, config, criterion
        self.device, self.processes, self.fields = device, processes, fields
        self.network, self.loss = _distributed(state.model, config, device, processes), criterion.loss
        self.compiled: Callable[[Tensor], HeadOutput] = self.network
        self.compiled_loss = self.loss
        if config.compile:
            self.compiled = torch.compile(self.network, dynamic=False)
            self.compiled_loss = torch.compile(self.loss, dynamic=True)  # lists of candidates have many lengths
        self._autocast = autocast(config.precision, device)
        self._statistics = Statistics(state.model)
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._bad = torch.zeros((), dtype=torch.bool, device=device)

    def backward(self, batch: Batch, key: tuple[int, int, int], images: int, last: bool) -> Tensor:
        """Add the gradients of a batch; returns this process's share of the loss terms, detached: ``[T]``.

        ``key`` is (seed, epoch, batch), on which all that is random depends; ``images`` counts those of all
        processes. The processes add up their gradients with the ``last`` batch of a step.
        """
        self._statistics.keep()
        _seed(key, self.processes.rank)
        inputs, targets = network_input(batch.images, self.device), batch.targets
        if self.config.multi_scale:
            size = draw_size(self.config.train_size, self.state.model.stride, key)
            inputs, targets = resize_batch(inputs, targets, size, self.state.model.stride, self.fields)
        usual = images == self.config.batch_size  # compiled for one shape; the last batch of an epoch may be smaller
        network, loss = (self.compiled, self.compiled_loss) if usual else (self.network, self.loss)
        together = nullcontext() if last or self.processes.world_size == 1 else self.network.no_sync()  # type: ignore[operator]
        with together:
            with self._autocast:
                output = network(inputs)
            losses = loss(output, self.criterion.prepare(output, targets, (*key, self.processes.rank)))
            # a sum over the batch, as the recipe's learning rate expects; gradients are averaged over the processes
            total = total_loss(losses) * (images * self.processes.world_size)
            self.state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._bad |= ~total.detach().isfinite()
        return torch.stack(tuple(losses.values())).detach()

    def update(self, stop: bool = False) -> Tensor:
        """Apply the gradients and move the average.

        Returns float ``[3]`` on the device, the same for all processes: 1 if the step was left out, 1 if any of them
        is to ``stop``, 1 if a loss was not finite.
        """
        optimizer, scaler, limit = self.state.optimizer, self.state.scaler, self.config.recipe.optimizer.clip_grad
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        loss, gradient = self._bad.float(), (~norm.isfinite()).float()
        flags = torch.stack((torch.maximum(loss, gradient), torch.full_like(loss, float(stop)), loss))
        flags = self.processes.all_reduce_max(flags)
        if limit:
            clip_grads_with_norm_(self._parameters, limit, norm)
        optimizer.found_inf = flags[0]  # type: ignore[attr-defined]  # the fused kernels then leave all as it is
        optimizer.step()
        if scaler.is_enabled():
            scaler.update()
        optimizer.zero_grad(set_to_none=True)
        self._statistics.restore_if(flags[0])
        self.state.ema.update(flags[0])
        self._bad = torch.zeros_like(self._bad)
        return flags


class Statistics:
    """The running statistics of a model's norms, which every forward moves: those before a step, to go back to."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = floating_buffers(model)
        self._sizes = [buffer.numel() for buffer in self._buffers]
        self._kept: Tensor | None = None

    def keep(self) -> None:
        """Copy them, unless those of this step are kept already."""
        if self._kept is None:
            self._kept = self._now()

    @torch.no_grad()
    def restore_if(self, skipped: Tensor) -> None:
        """Back to the kept ones where ``skipped`` (float ``[]`` on the device) is 1; ends the step."""
        if self._kept is None:
            return
        chosen = torch.where(skipped > 0, self._kept, self._now()).split(self._sizes)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(self._buffers, [c.view_as(b) for c, b in zip(chosen, self._buffers, strict=True)])
        self._kept = None

    def _now(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers])


def floating_buffers(model: nn.Module) -> list[Tensor]:
    """The running statistics, and what is constant: not the integer counters of batch norm."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _seed(key: tuple[int, int, int], rank: int) -> None:
    """What a batch draws (dropout, say) follows from its key: there is no state of a generator to save."""
    torch.manual_seed(int(np.random.SeedSequence((*key, rank), spawn_key=(3,)).generate_state(1)[0]))


def _distributed(model: nn.Module, config: RunConfig, device: torch.device, processes: Processes) -> nn.Module:
    """What the forward goes through: the model, or what adds up its gradients over all processes."""
    if processes.world_size == 1:
        return model
    if config.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # shares the tensors of the model's own norms
    # of a 1x1 convolution, whose one layout goes by two names
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # torch 2.15 has renamed the flag; the statistics that count are those of the first process
    signature = inspect.signature(DistributedDataParallel).parameters
    flag = "forward_sync_buffers" if "forward_sync_buffers" in signature else "broadcast_buffers"
    options: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, flag: False}
    return DistributedDataParallel(model, **options)


MIN_SCALE, MAX_SCALE = 0.5, 1.5  # times the training size (docs/reference.md, Multi-scale training)


def draw_size(image_size: int, stride: int, key: tuple[int, int, int]) -> int:
    """A multiple of ``stride`` from 0.5 to 1.5 times the size; a function of the key (seed, epoch, iteration) alone."""
    rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=(2,)))  # not the stream of a sample
    return int(rng.integers(int(MIN_SCALE * image_size), int(MAX_SCALE * image_size) + stride)) // stride * stride


def resize_batch(images: Tensor, targets: Targets, size: int, stride: int,
                 fields: Sequence[Field] = ()) -> tuple[Tensor, Targets]:
    """Images float ``[B, 3, H, W]`` with a long side of ``size``, sides multiples of ``stride``, and their targets."""
    height, width = images.shape[2:]
    factor = size / max(height, width)
    new_height, new_width = (math.ceil(side * factor / stride) * stride for side in (height, width))
    if (new_height, new_width) == (height, width):
        return images, targets
    resized = functional.interpolate(images, size=(new_height, new_width), mode="bilinear", align_corners=False)
    x, y = new_width / width, new_height / height
    extra, maps = dict(targets.extra), dict(targets.maps)
    for item in fields:
        if item.resize is not None:
            table = extra if item.per_object else maps
            table[item.name] = item.resize(table[item.name], (x, y))
    boxes = targets.boxes * targets.boxes.new_tensor((x, y, x, y))
    return resized, replace(targets, boxes=boxes, extra=extra, maps=maps)
