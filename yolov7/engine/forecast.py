"""What a run will take: ``--dry-run``, and the batch size that would have fitted."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from yolov7.data.loader import collate
from yolov7.engine.step import TrainingStep
from yolov7.engine.trainer import Trainer
from yolov7.evaluation.evaluate import evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.runtime.distributed import Processes
from yolov7.runtime.memory import free_memory, is_out_of_memory, needed_memory, release_freed_memory
from yolov7.runtime.progress import duration_text
from yolov7.structures import Batch

logger = logging.getLogger(__name__)

SPARE = 0.1  # of the free memory: fragments, and batches with more objects than those that were measured
STEPS = 3  # that are timed, behind one that is not
GIB = 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a training step as a line over the images in its batch, in bytes."""

    fixed: float
    per_image: float
    free: int

    def at(self, images: int) -> float:
        """Of a batch of so many images."""
        return self.fixed + self.per_image * images

    @property
    def largest_batch(self) -> int:
        """The most images that fit; 0 if not even one does."""
        left = self.free * (1 - SPARE) - self.fixed
        return max(int(left / max(self.per_image, 1)), 0)


@dataclass(frozen=True)
class Forecast:
    """What a run would take: seconds and bytes."""

    memory: MemoryNeed  # of a step on each device
    batch_size: int  # that was asked for
    local_batch: int  # of each process
    largest_batch: int  # that fits, of all processes together
    step: float
    data: float  # to make the data of a step, at the same time
    evaluation: float
    epoch: float
    epochs: int
    last_size: int  # of last.pt; best.pt has a third

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.epoch * self.epochs

    def text(self) -> str:
        """For people."""
        need = self.memory
        return (
            "dry run: one batch went through data, network, loss, backward, optimizer, average and evaluation\n"
            f"memory of a step: {need.at(self.local_batch) / GIB:.2f} GiB with --batch-size "
            f"{self.batch_size} ({need.fixed / GIB:.2f} GiB and {need.per_image / GIB:.3f} GiB an image), "
            f"{need.free / GIB:.1f} GiB free: up to --batch-size {self.largest_batch} fits\n"
            f"time: {self.step:.2f} s a step, {self.data:.2f} s to make its data (both at once), {self.evaluation:.0f} "
            f"s to evaluate; {duration_text(self.epoch)} an epoch, {duration_text(self.seconds)} for {self.epochs} "
            "epochs\n"
            f"disk: {self.last_size / 2**20:.0f} MiB for last.pt, {self.last_size / 3 / 2**20:.0f} MiB for best.pt\n"
            "nothing was written")


def measure_memory(trainer: Trainer, sizes: tuple[int, int] = (2, 6)) -> MemoryNeed | None:
    """Run steps with small batches, of this process alone; None where not even those fit."""
    step = _step_alone(trainer)
    found = []
    try:
        for size in sizes:
            work = partial(_one_step, step, _batch(trainer, size))
            work()  # what the first one makes stays
            found.append(needed_memory(work, trainer.device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    per_image = max(found[1] - found[0], 0) / (sizes[1] - sizes[0])
    return MemoryNeed(max(found[0] - sizes[0] * per_image, 0), per_image, free_memory(trainer.device))


def explain_lack_of_memory(trainer: Trainer) -> str:
    """One sentence: the batch size that would fit."""
    return _what_fits(trainer, measure_again(trainer))


def measure_again(trainer: Trainer) -> MemoryNeed | None:
    """`measure_memory` by the smallest batches, once the memory of a step that failed is free."""
    trainer.state.optimizer.zero_grad(set_to_none=True)
    release_freed_memory()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
    return measure_memory(trainer, (1, 3))


def _what_fits(trainer: Trainer, need: MemoryNeed | None) -> str:
    config, count = trainer.config, trainer.processes.world_size
    largest = need.largest_batch * count if need else 0
    start = f"out of memory on {trainer.device} with --batch-size {config.batch_size} at {config.train_size} px"
    if not largest or largest >= config.batch_size:
        return f"{start}; a smaller --img-size, or a smaller model would fit"
    return (f"{start}; --batch-size {largest} would fit (optimizer steps stay at {config.nominal_batch} images: "
            "gradients are accumulated)")


def dry_run(trainer: Trainer) -> Forecast | str:
    """One batch through everything; says what the run would take in memory, time and disk space. Writes nothing.

    Gives a sentence where a step does not fit into the memory, with the batch size that does.
    """
    config, device = trainer.config, trainer.device
    need = measure_memory(trainer)
    local = -(-config.batch_size // trainer.processes.world_size)
    if need is None or need.largest_batch < local:
        return _what_fits(trainer, need)
    data = _data_seconds(trainer)
    step = _step_alone(trainer)
    batch = _batch(trainer, local)
    work = _seconds(lambda: _one_step(step, batch), device)
    evaluation = _evaluation_seconds(trainer)
    batches = trainer.schedule.batches
    epoch = batches * max(work, data) + evaluation
    state = sum(p.numel() * p.element_size() for p in trainer.state.model.state_dict().values())
    forecast = Forecast(need, config.batch_size, local, need.largest_batch * trainer.processes.world_size, work, data,
                        evaluation, epoch, config.epochs, 3 * state)
    logger.info("%s", forecast.text())
    return forecast


def _step_alone(trainer: Trainer) -> TrainingStep:
    """A step that asks no other process."""
    return TrainingStep(trainer.state, trainer.config, trainer.make_criterion(Processes()), trainer.device, Processes(),
                        trainer.training.fields)


def _one_step(step: TrainingStep, batch: Batch) -> None:
    step.state.model.train()
    step.backward(batch, (0, 0, 0), len(batch.images), last=True)
    step.update()


def _batch(trainer: Trainer, images: int) -> Batch:
    dataset = trainer.train_data
    return collate([dataset[0, position, position % len(dataset)] for position in range(images)],
                   trainer.training.fields)


def _data_seconds(trainer: Trainer) -> float:
    """Of a batch, by all loader processes together."""
    trainer.sampler.set_epoch(0)
    start = 0.0
    counted = 0
    for index, _ in enumerate(itertools.islice(trainer.loader, STEPS + 2)):
        if index == 1:  # the first one waits for the processes to start
            start = time.perf_counter()
        counted = index
    return (time.perf_counter() - start) / max(counted - 1, 1) if counted > 1 else 0.0


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the first one left out."""
    work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    _wait(device)
    return (time.perf_counter() - start) / STEPS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a time needs the work to be done


def _evaluation_seconds(trainer: Trainer) -> float:
    """Of the whole split, from its first batch."""
    batches = list(itertools.islice(trainer.val_loader, 1))
    network = TorchNetwork(trainer.state.ema.model, trainer.device, trainer.config.precision)
    started = time.perf_counter()
    evaluate(network, batches, trainer.val_set)
    share = sum(len(batch.images) for batch in batches) / max(len(trainer.val_set), 1)
    return (time.perf_counter() - started) / max(share * trainer.processes.world_size, 1e-9)

