"""``--batch-size auto``: as many images as fit into the memory, of those numbers that keep the nominal batch."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from yolov7.config.messages import size_text
from yolov7.engine.forecast import MemoryNeed, measure_again, measure_memory
from yolov7.engine.multi_scale import MAX_SCALE
from yolov7.engine.nonfinite import TrainingError
from yolov7.engine.trainer import Trainer

logger = logging.getLogger(__name__)


def fitting_batch(trainer: Trainer) -> int:
    """The largest batch of all processes together of which a step fits, by steps that are measured.

    It divides the nominal batch, so that an optimizer step has as many images as before. Raises `TrainingError` where
    not one image fits on each device.
    """
    processes, config = trainer.processes, trainer.config
    need = measure_memory(trainer) or measure_again(trainer)
    each = _at_the_largest_size(need, config.multi_scale).largest_batch if need else 0
    each = -int(processes.all_reduce_max(torch.tensor([-float(each)])).item())  # the least of all devices
    fits = each * processes.world_size
    chosen = largest_divisor(config.nominal_batch, fits, processes.world_size)
    if not chosen:
        raise TrainingError(f"--batch-size auto: not even a batch of {processes.world_size} at {config.train_size} px "
                            f"fits on {trainer.device}; a smaller --img-size, or a smaller model would")
    assert need is not None
    logger.info("--batch-size auto: %d, the largest divisor of the nominal batch (%d) of which a step fits: it takes "
                "%s and %s an image, %s are free, of which a tenth is left", chosen, config.nominal_batch,
                *(size_text(int(size)) for size in (need.fixed, need.per_image, need.free)))
    return chosen


def _at_the_largest_size(need: MemoryNeed, multi_scale: bool) -> MemoryNeed:
    return replace(need, per_image=need.per_image * MAX_SCALE**2) if multi_scale else need


def largest_divisor(nominal: int, most: int, processes: int) -> int:
    """The largest divisor of a nominal batch that is at most so much, and at least one image a process; 0: none is."""
    return max((d for d in range(max(processes, 1), min(most, nominal) + 1) if nominal % d == 0), default=0)
