"""One step of the training: forward, loss, backward of some batches, then optimizer and average.

docs/reference.md, Training iteration. Nothing here waits for the device. A step whose loss or gradient is not finite
leaves everything as it was before, which the device decides by itself.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from yolov7.data.loader import Field
from yolov7.engine.graphed_pass import FlatGradients, GraphedPass
from yolov7.engine.multi_scale import Size, draw_size, resize_images, resize_targets, scaled_size
from yolov7.engine.run_config import RunConfig
from yolov7.engine.state import RunState
from yolov7.loss.criterion import Criterion, Losses, total_loss
from yolov7.model.convolutions import HeldWeights
from yolov7.model.detector import network_input
from yolov7.model.norms import compile_norms
from yolov7.runtime.compiling import keep_compiled, tell_of_compiling
from yolov7.runtime.distributed import Processes
from yolov7.runtime.precision import FORMATS, autocast
from yolov7.structures import Batch, HeadOutput

logger = logging.getLogger(__name__)


class TrainingStep:
    """``backward`` for every batch of a step, then ``update``."""

    def __init__(self, state: RunState, config: RunConfig, criterion: Criterion, device: torch.device,
                 processes: Processes, fields: Sequence[Field] = ()) -> None:
        self.state, self.config, self.criterion = state, config, criterion
        self.device, self.processes, self.fields = device, processes, fields
        self.network, self.loss = _distributed(state.model, config, device, processes), criterion.loss
        if config.compile:
            logger.info("compiled parts are kept for the next run in %s", keep_compiled())
            tell_of_compiling()
            compile_norms(state.model)
        self._autocast = autocast(config.precision, device)
        self._statistics = Statistics(state.model)
        half = config.precision != "fp32" and (config.fused_norm or config.cuda_graphs)
        self._held = HeldWeights(state.model, FORMATS[config.precision]) if half else None
        self._parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self.gradient_norm: Tensor | None = None  # of the latest step, before it was clipped; on the device
        self._graphed: GraphedPass | None = None
        if config.cuda_graphs:
            processes.broadcast([*state.model.parameters(), *state.model.buffers()])  # as DistributedDataParallel does
            self._gradients = FlatGradients(self._parameters)
            self._graphed = GraphedPass(state.model, criterion, self._autocast, self._learn, device, processes)

    def backward(self, batch: Batch, key: tuple[int, int, int], images: int, last: bool) -> Tensor:
        """Add the gradients of a batch; returns this process's share of the loss terms, detached: ``[T]``.

        ``key`` is (seed, epoch, batch), on which all that is random depends; ``images`` counts those of all
        processes. The processes add up their gradients with the ``last`` batch of a step.
        """
        if self._statistics.keep() and self._held is not None:
            self._held.refresh()
        _seed(key, self.processes.rank)
        old: Size = (batch.images.shape[2], batch.images.shape[3])
        new = self._size(old, key)
        targets, own_key = resize_targets(batch.targets, old, new, self.fields), (*key, self.processes.rank)
        if self._graphed is not None:
            return self._graphed(batch.images, new, targets, own_key, images)
        inputs = resize_images(network_input(batch.images, self.device), new)
        together = nullcontext() if last or self.processes.world_size == 1 else self.network.no_sync()  # type: ignore[operator]
        with together:
            with self._autocast:
                output: HeadOutput = self.network(inputs)
            losses = self.loss(output, self.criterion.prepare(output, targets, own_key))
            return self._learn(losses, images)

    def _size(self, size: Size, key: tuple[int, int, int]) -> Size:
        if not self.config.multi_scale:
            return size
        stride = self.state.model.stride
        return scaled_size(size, draw_size(self.config.train_size, stride, key), stride)

    def _learn(self, losses: Losses, images: int) -> Tensor:
        """Add the gradients of the terms; returns their values."""
        # a sum over the batch, as the recipe's learning rate expects; gradients are averaged over the processes
        total = total_loss(losses) * (images * self.processes.world_size)
        self.state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._bad.logical_or_(~total.detach().isfinite())
        return torch.stack(tuple(losses.values())).detach()

    def update(self, stop: bool = False) -> Tensor:
        """Apply the gradients and move the average.

        Returns float ``[3]`` on the device, the same for all processes: 1 if the step was left out, 1 if any of them
        is to ``stop``, 1 if a loss was not finite.
        """
        optimizer, scaler, limit = self.state.optimizer, self.state.scaler, self.config.recipe.optimizer.clip_grad
        if self._graphed is not None:
            self._gradients.average(self.processes)
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self.gradient_norm = norm.detach()
        loss, gradient = self._bad.float(), (~norm.isfinite()).float()
        flags = torch.stack((torch.maximum(loss, gradient), torch.full_like(loss, float(stop)), loss))
        flags = self.processes.all_reduce_max(flags)
        if limit:
            clip_grads_with_norm_(self._parameters, limit, norm)
        optimizer.found_inf = flags[0]  # type: ignore[attr-defined]  # the fused kernels then leave all as it is
        optimizer.step()
        if scaler.is_enabled():
            scaler.update()
        if self._graphed is not None:
            self._gradients.clear()
        else:
            optimizer.zero_grad(set_to_none=True)
        self._statistics.restore_if(flags[0])
        self.state.ema.update(flags[0])
        self._bad.zero_()
        return flags


class Statistics:
    """The running statistics of a model's norms, which every forward moves: those before a step, to go back to."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = floating_buffers(model)
        self._sizes = [buffer.numel() for buffer in self._buffers]
        self._kept: Tensor | None = None

    def keep(self) -> bool:
        """Copy them, unless those of this step are kept already; whether this begins a step."""
        begins = self._kept is None
        if begins:
            self._kept = self._now()
        return begins

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
    if processes.world_size == 1 or config.cuda_graphs:  # whose gradients are added up in `update`
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
