"""The passes of a training step as CUDA graphs: forward, loss and backward of a batch, recorded once for each shape.

Images go in as bytes; targets and candidates are padded to powers of two, so that there are few shapes. What is drawn
at random follows from tables that are made on the host, and from the generator's seed, which a replay reads. With
several processes there are two recordings for a batch, and the counts are added up between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.engine.multi_scale import Size, resize_images
from yolov7.loss.criterion import Criterion, Losses
from yolov7.loss.terms import Prepared
from yolov7.model.detector import Detector, network_input
from yolov7.runtime.cuda_graphs import GraphPool, Replay
from yolov7.runtime.distributed import Processes
from yolov7.structures import HeadOutput, Targets

logger = logging.getLogger(__name__)

MAX_SHAPES = 64  # of batches; each takes a second to record and some megabytes
MIB = 1 << 20

Learn = Callable[[Losses, int], Tensor]  # terms, images of all processes -> their values [T], once gradients are added


@dataclass(frozen=True)
class Slots:
    """What a recording reads and writes: tensors that stay."""

    pixels: Tensor  # uint8 [B, 3, H, W]
    prepared: Prepared
    counts: Tensor  # see `Criterion.match`
    terms: Tensor  # [T]


@dataclass(frozen=True)
class Recorded:
    """A shape of batches: the commands between which the processes add up their counts, and their tensors."""

    slots: Slots
    replays: tuple[Replay, ...]


class GraphedPass:
    """Adds the gradients of batches: plainly the first time that a size of images is seen, by a recording then."""

    def __init__(self, network: Detector, criterion: Criterion, autocast: AbstractContextManager[Any], learn: Learn,
                 device: torch.device, processes: Processes) -> None:
        self._network, self._criterion, self._autocast, self._learn = network, criterion, autocast, learn
        self._device, self._processes = device, processes
        self._pool = GraphPool(device)
        with torch.device("meta"):
            self._shadow = Detector(network.spec, network.num_classes)  # knows the shapes of outputs
        self._outputs: dict[tuple[int, Size], HeadOutput] = {}
        self._pixels: dict[torch.Size, Tensor] = {}
        self._recorded: dict[tuple[Any, ...], Recorded] = {}
        self._plain: str = ""  # why nothing is recorded any more

    def __call__(self, pixels: Tensor, size: Size, targets: Targets, key: Sequence[int], images: int) -> Tensor:
        """The terms of a batch ``[T]``: of uint8 images on the host, ``size`` that they get, and targets at that size.

        ``images`` counts those of all processes.
        """
        place = (len(pixels), size)
        new = place not in self._outputs
        if new:
            self._outputs[place] = self._shapes(*place)
        output = self._outputs[place]
        prepared = self._criterion.find(output, targets, key, few_shapes=True)
        shape = (pixels.shape, size, images, *(table.shape for table in tensors_of(prepared)))
        found = self._recorded.get(shape)
        if found is None:
            slots = self._slots(pixels, prepared, self._criterion.number_of_counts(output))
            if not new and self._may_record():
                found = self._record(slots, size, images)
            if found is None:
                return self._run(slots, size, images)
            self._recorded[shape] = found
            self._tell(pixels, size, targets)
        else:
            self._fill(found.slots, pixels, prepared)
        for index, replay in enumerate(found.replays):
            if index:
                self._processes.all_reduce_sum(found.slots.counts)
            replay()
        return found.slots.terms.clone()

    def _shapes(self, batch: int, size: Size) -> HeadOutput:
        with torch.no_grad():
            output: HeadOutput = self._shadow(torch.empty(batch, 3, *size, device="meta"))
            return output

    def _may_record(self) -> bool:
        if not self._plain and len(self._recorded) >= MAX_SHAPES:
            self._give_up(f"there are more than {MAX_SHAPES} shapes of batches (--rect and --multi-scale make many)")
        return not self._plain

    def _give_up(self, reason: str) -> None:
        self._plain = reason
        logger.warning("--cuda-graphs: %s; batches of other shapes than the %d recorded ones go without", reason,
                       len(self._recorded))

    # --- tensors that stay ------------------------------------------------------------------------------------------

    def _slots(self, pixels: Tensor, prepared: Prepared, counts: int) -> Slots:
        """Room for batches of this shape, with this one in it."""
        if pixels.shape not in self._pixels:
            self._pixels[pixels.shape] = torch.empty_like(pixels, device=self._device)
        slots = Slots(self._pixels[pixels.shape],
                      prepared.map(lambda table: torch.empty_like(table, device=self._device)),
                      torch.zeros(counts, dtype=torch.int64, device=self._device),
                      torch.zeros(len(self._criterion.terms), device=self._device))
        self._fill(slots, pixels, prepared)
        return slots

    def _fill(self, slots: Slots, pixels: Tensor, prepared: Prepared) -> None:
        slots.pixels.copy_(pixels, non_blocking=True)
        for slot, table in zip(tensors_of(slots.prepared), tensors_of(prepared), strict=True):
            # a copy from pinned memory needs no waiting
            slot.copy_(table.pin_memory() if self._device.type == "cuda" else table, non_blocking=True)

    # --- the passes -------------------------------------------------------------------------------------------------

    def _record(self, slots: Slots, size: Size, images: int) -> Recorded | None:
        """The passes of a shape; None where the device refuses, which is then left alone."""
        forward, backward = self._passes(slots, size, images)

        def whole() -> None:
            forward()
            backward()

        parts = (whole,) if self._criterion.across is None else (forward, backward)
        try:
            return Recorded(slots, tuple(self._pool.record(part) for part in parts))
        except RuntimeError as error:
            self._give_up(f"the step cannot be recorded ({str(error).splitlines()[0]})")
            return None

    def _run(self, slots: Slots, size: Size, images: int) -> Tensor:
        """The same without a recording."""
        forward, backward = self._passes(slots, size, images)
        with self._pool.aside():
            forward()
            self._processes.all_reduce_sum(slots.counts)
            backward()
        return slots.terms.clone()

    def _passes(self, slots: Slots, size: Size, images: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """Forward with what is counted over all processes, and what follows from these counts."""
        kept: list[Any] = []

        def forward() -> None:
            inputs = resize_images(network_input(slots.pixels, self._device), size)
            with self._autocast:
                output = self._network(inputs)
            assignments, counts = self._criterion.match(output, slots.prepared)
            slots.counts.copy_(counts)
            kept[:] = output, assignments

        def backward() -> None:
            output, assignments = kept
            losses = self._criterion.weigh(output, slots.prepared, assignments, slots.counts)
            kept.clear()
            slots.terms.copy_(self._learn(losses, images))

        return forward, backward

    def _tell(self, pixels: Tensor, size: Size, targets: Targets) -> None:
        level = logging.INFO if len(self._recorded) == 1 else logging.DEBUG
        logger.log(level, "recorded as a CUDA graph: %d images of %d x %d, up to %d objects each (graph %d; the pool "
                   "holds %d MiB)", len(pixels), size[1], size[0], targets.boxes.shape[1], len(self._recorded),
                   self._pool.bytes() // MIB)


class FlatGradients:
    """The gradients of all parameters, which stay where they are, as one tensor."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        starts, end = [], 0
        for parameter in parameters:
            starts.append(end)
            end += -(-parameter.numel() // 64) * 64  # kernels over many tensors like them aligned
        self.values = parameters[0].new_zeros(end, dtype=torch.float32)
        for start, parameter in zip(starts, parameters, strict=True):
            parameter.grad = self.values.as_strided(parameter.shape, parameter.stride(), start)

    def clear(self) -> None:
        """Back to zero."""
        self.values.zero_()

    def average(self, processes: Processes) -> None:
        """The mean over all processes."""
        if processes.world_size > 1:
            processes.all_reduce_sum(self.values)
            self.values /= processes.world_size


def tensors_of(prepared: Prepared) -> list[Tensor]:
    """All tensors, always in the same order."""
    found: list[Tensor] = []

    def note(table: Tensor) -> Tensor:
        found.append(table)
        return table

    prepared.map(note)
    return found
