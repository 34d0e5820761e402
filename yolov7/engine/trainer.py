"""The run: epochs of steps, evaluation of the averaged weights, checkpoints (docs/reference.md, Training)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError, from_mapping, to_mapping
from yolov7.config.program import command
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet, report_left_out
from yolov7.data.loader import BatchLoader, EpochSampler, evaluation_loader, rectangular_batches, training_loader
from yolov7.data.windows import fetch_first, windows_of
from yolov7.engine.checkpoints import Checkpoints
from yolov7.engine.console import EpochNumbers, EpochTable, class_numbers, epoch_numbers
from yolov7.engine.image_weights import class_scores, image_weights
from yolov7.engine.interruption import Interrupted, StopSignal
from yolov7.engine.log import EpochRecord, Pace, RunLog, complete_record, pace_text, step_values
from yolov7.engine.nonfinite import StepGuard, TrainingError
from yolov7.engine.observers import Observers, RunFacts, observers_named
from yolov7.engine.optim import ModelEMA, Schedule, StepSettings, apply, freeze, hold_statistics, make_optimizer
from yolov7.engine.run_config import RunConfig
from yolov7.engine.sheets import batch_sheet, prediction_sheet
from yolov7.engine.state import RunState, TrainingResult
from yolov7.engine.step import TrainingStep, floating_buffers
from yolov7.engine.validation_loss import ValidationLoss
from yolov7.evaluation.evaluate import Evaluation, evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.loss.criterion import AUXILIARY_TOP_K, Criterion, scale_gains
from yolov7.model.detector import Detector
from yolov7.runtime.distributed import Processes
from yolov7.runtime.precision import gradient_scaler
from yolov7.runtime.progress import Progress
from yolov7.structures import Batch
from yolov7.tasks.base import find_task

logger = logging.getLogger(__name__)

POSTFIX_EVERY = 10  # batches between readings of the loss
SHOWN_BATCHES = 3  # epochs whose first batch is shown
SHOWN_PREDICTIONS = 10  # times a run that predictions go to TensorBoard


class Trainer:
    """One training run in ``folder``: model, data and state; `fit` is the story."""

    def __init__(self, config: RunConfig, model: Detector, splits: tuple[ImageSet, ImageSet], folder: Path,
                 device: torch.device, processes: Processes = Processes()) -> None:  # noqa: B008  # frozen
        self.config, self.folder, self.device, self.processes = config, folder, device, processes
        self.train_set, self.val_set = splits
        freeze(model, config.freeze)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.task = find_task(type(model.head).__name__)
        self.training = self.task.training()
        self.terms = {term.name: term.short or term.name for term in self.training.terms}
        self.state = RunState(
            model, ModelEMA(model), make_optimizer(model, config.recipe.optimizer, config.batch_size,
                                                   config.nominal_batch),
            gradient_scaler(config.precision, device), torch.zeros(len(self.terms) + 1, device=device),
            np.zeros(model.num_classes))
        self.loader, self.sampler = self._training_loader(model.stride)
        own = -(-config.batch_size // processes.world_size)
        self.val_loader = evaluation_loader(self.val_set, config.test_size, 2 * own, model.stride, config.workers,
                                            cache=config.cache, part=(processes.rank, processes.world_size),
                                            fields=self.training.fields)
        self.schedule = Schedule(config.recipe.optimizer, config.epochs, self.sampler.epoch_batches, config.batch_size,
                                 config.nominal_batch, config.linear_lr)
        self.step = TrainingStep(self.state, config, self.make_criterion(processes), device, processes,
                                 self.training.fields)
        self.guard = StepGuard(self.state, folder, self.train_set.names, processes.rank)
        self.checkpoints = Checkpoints(folder / "weights", config, splits[0].names, processes.is_main, self._tell)
        self.loader.while_waiting = self.val_loader.while_waiting = self._while_waiting
        self._inside_step = False  # gradients of some of its batches are there
        self._left_out: set[str] = set()  # images to evaluate on that could not be read
        self.stop = StopSignal()
        self.log: RunLog | None = None  # of the first process, while it runs
        self._table = EpochTable(self.terms, config.epochs)

    def close(self) -> None:
        """End the loader processes, and the thread that writes, once what it writes stands."""
        self.checkpoints.close()
        self.loader.close()
        self.val_loader.close()

    def make_criterion(self, processes: Processes) -> Criterion:
        """The loss of this run, with means over the batches of these processes."""
        config, model, head = self.config, self.state.model, self.state.model.head
        gains = scale_gains(config.recipe.loss, len(head.strides), model.num_classes, config.train_size)
        return Criterion(gains, head.anchors, head.strides, model.num_classes,
                         processes.all_reduce_sum if processes.world_size > 1 else None, terms=self.training.terms,
                         channels=head.channels, assigner=self.training.assigner)

    def _training_loader(self, stride: int) -> tuple[BatchLoader, EpochSampler]:
        config, train_set = self.config, self.train_set
        batches, shapes = [], None
        if config.rect:
            order, shapes = rectangular_batches(train_set.sizes, config.train_size, config.batch_size, stride, pad=0)
            batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
        windows = windows_of(train_set, config.shard_window, config.seed) if config.shard_window else None
        sampler = EpochSampler(len(train_set), config.batch_size, config.seed, batches,
                               (self.processes.rank, self.processes.world_size), windows)
        self.train_data = TrainingDataset(train_set, config.train_size, config.recipe.augment, config.seed, shapes,
                                          config.cache, config.epochs - config.close_mosaic, windows)
        device = self.device if config.augment_device == "cuda" else None
        return training_loader(self.train_data, sampler, config.workers, self.training.fields, device), sampler

    def resume(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint of this run."""
        self.state.restore(content, self.checkpoints.best.parent)
        self.best_numbers()  # a fault in them is told now, not at the end

    def fit(self) -> TrainingResult:
        """Train to the last epoch; returns the best one.

        A signal ends it with a checkpoint and `Interrupted`, a run that cannot go on with `TrainingError`.
        """
        state = self.state
        if not self.processes.broadcast_object(not self.processes.is_main or self.checkpoints.recover_best(state)):
            state.best = None
        self._check_unfinished()
        if self.processes.local_rank == 0:
            fetch_first(self.sampler.windows, self.val_set, state.epoch, state.batch * self.config.batch_size)
        self.processes.barrier()
        with self._running():
            while state.epoch < self.config.epochs:
                started = time.perf_counter()
                losses = self.train_epoch()
                evaluation, val_losses = self._evaluate()
                state.scores = class_scores(evaluation.boxes)
                over = self._end_epoch(evaluation, (losses, val_losses), started)
                if over:
                    break
            self.checkpoints.retry_best()
        assert state.best is not None
        return state.best

    def _check_unfinished(self) -> None:
        """Raise `InputError` where there is nothing to go on with, once the record of that run is complete."""
        state, config = self.state, self.config
        if state.epoch >= config.epochs:
            reason = f"the run has finished its {config.epochs} epochs; more: --epochs N"
        elif state.epoch and not state.batch and self._lost_patience(state.epoch - 1):
            reason = f"the run has stopped after epoch {state.epoch}, as none was better (--patience {config.patience})"
        else:
            return
        if self.processes.is_main:
            complete_record(self.folder, self.terms, self._last_record(), self._best_epoch())
        raise InputError(f"--resume: {reason}")

    def _last_record(self) -> EpochRecord | None:
        found = self.state.record
        return from_mapping(EpochRecord, found, f"{self.checkpoints.last}, record") if found else None

    def best_numbers(self) -> EpochNumbers | None:
        """What the best epoch found, where this version or a later one has seen it."""
        found = self.state.numbers
        numbers = from_mapping(EpochNumbers, found, f"{self.checkpoints.last}, numbers") if found else None
        return numbers if numbers and numbers.epoch == self._best_epoch() else None

    def _best_epoch(self) -> int | None:
        return self.state.best.epoch + 1 if self.state.best else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The record of the run, and what happens when a signal ends it."""
        with ExitStack() as stack:
            self.stop = stack.enter_context(StopSignal())
            if self.processes.is_main:
                self.checkpoints.last.parent.mkdir(parents=True, exist_ok=True)
                if not len(self.val_set.objects):
                    logger.warning("none of the %d images to evaluate on has an object: AP cannot be measured, and the "
                                   "last epoch counts as the best", len(self.val_set))
                self.log = stack.enter_context(self._open_log())
            stack.push(self._tell_the_end)
            try:
                yield
            except Interrupted as interrupted:
                self.checkpoints.retry_best()
                if not self._inside_step:
                    self.guard.settle()
                    self.checkpoints.save_last(self.state, required=True)
                raise Interrupted(f"interrupted in epoch {self.state.epoch + 1}; go on: "
                                  f"{command('train', resume=self.folder)}", interrupted.code) from None

    def _open_log(self) -> RunLog:
        """The record of this start of the run, with its observers."""
        state, batches = self.state, self.schedule.batches
        observers = Observers(observers_named(self.config.log))
        observers.begin(RunFacts(self.folder, to_mapping(self.config), self.terms, batches, state.epoch,
                                 state.epoch * batches + state.batch))
        log = RunLog(self.folder, state.epoch or None, self.terms, self._last_record(), observers)
        log.best = self._best_epoch()
        return log

    def _tell_the_end(self, kind: type[BaseException] | None, *_: object) -> None:
        self.checkpoints.settle()
        self._tell("run_ends", "finished" if kind is None else
                   "interrupted" if issubclass(kind, Interrupted) else "failed")

    def _tell(self, event: str, *facts: Any) -> None:
        if self.log:
            self.log.observers.tell(event, *facts)

    def _while_waiting(self) -> None:
        self.stop.give_up()

    # --- one epoch ---------------------------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float]:
        """Every batch that is not done yet; returns the mean of each term of the loss."""
        state, config, batches = self.state, self.config, self.schedule.batches
        state.model.train()
        hold_statistics(state.model, config.freeze)
        weights = image_weights(self.train_set, state.scores) if config.image_weights else None
        self.sampler.set_epoch(state.epoch, weights, state.batch)
        pace = Pace(self.loader, self.processes.world_size)
        with Progress(pace, f"epoch {state.epoch + 1}/{config.epochs}", batches, "batches", state.batch,
                      silent=not self.processes.is_main) as progress:
            self._train_batches(progress, pace)
        self._begin_next_epoch()
        self.guard.settle()
        losses, _ = self._mean_losses()
        if not state.losses[-1]:
            raise TrainingError(f"no batch of epoch {state.epoch + 1} had a finite loss; a smaller learning rate "
                                "(--set optimizer.lr0=0.001) or --precision fp32 may help")
        return losses

    def _begin_next_epoch(self) -> None:
        """Let the loader processes go on while this epoch is evaluated, unless what they make depends on that."""
        following = self.state.epoch + 1
        if following < self.config.epochs and not self.config.image_weights:
            self.sampler.set_epoch(following)
            self.loader.begin()

    def _train_batches(self, progress: Progress[Batch], pace: Pace) -> None:
        state, batches = self.state, self.schedule.batches
        group: list[Batch] = []  # the batches of the step, and their terms
        terms: list[Tensor] = []
        for batch in progress:
            self._show_batch(batch)
            settings = self.schedule.at(state.epoch * batches + state.batch)
            apply(settings, state.optimizer)
            last = len(group) + 1 >= settings.accumulate or state.batch == batches - 1  # an epoch's end drops nothing
            group.append(batch)
            latest = self._one_batch(batch, last)
            terms.append(latest)
            self._inside_step = not last
            if last:
                self.guard.note(self.step.update(stop=bool(self.stop.received)), group, terms)
                group, terms = [], []
            if state.batch % POSTFIX_EVERY == 1 or batches == 1:
                self._show_progress(progress, settings, pace, latest)
            if last:
                self._stop_if_told()

    def _one_batch(self, batch: Batch, last: bool) -> Tensor:
        state = self.state
        terms = self.step.backward(batch, (self.config.seed, state.epoch, state.batch),
                                   self.sampler.images(state.batch), last)
        counted = torch.cat((terms, torch.ones_like(terms[:1])))
        state.losses += torch.where(terms.isfinite().all(), counted, 0.0)
        state.batch += 1
        return terms

    def _stop_if_told(self) -> None:
        """End the epoch here where any process was told to stop: all of them see it at the same step."""
        if self.guard.stop:
            self.guard.settle()
            raise Interrupted("interrupted", self.stop.code)

    def _mean_losses(self, latest: Tensor | None = None) -> tuple[dict[str, float], list[float]]:
        """The terms of the loss, means over the batches so far, and those of the ``latest`` one; waits for the device.
        """
        given = [] if latest is None else [latest]
        values = self.processes.all_reduce_sum(torch.cat((self.state.losses, *given))).tolist()
        sums, (count, *own) = values[: len(self.terms)], values[len(self.terms) :]
        count = max(count / self.processes.world_size, 1)
        return {name: value / count for name, value in zip(self.terms, sums, strict=True)}, own

    def _show_progress(self, progress: Progress[Batch], settings: StepSettings, pace: Pace, latest: Tensor) -> None:
        # reading them waits for the device: once in many batches
        means, own = self._mean_losses(latest)
        losses = [f"{self.terms[name]} {mean:.3f}" for name, mean in means.items()]
        skipped = [f"{self.state.skipped} skipped"] if self.state.skipped else []
        speed = pace.numbers(self.device)
        spent = pace_text(speed)
        images = spent.pop("img/s")
        progress.note(*losses, *skipped, *([f"{images} img/s"] if pace.images else []), f"lr {settings.lr:.2g}",
                      *(f"{name} {value}" for name, value in spent.items()))
        if self.log:
            step = self.state.epoch * self.schedule.batches + self.state.batch
            losses_now = dict(zip(self.terms.values(), own, strict=True))
            self._tell("step_done", step, step_values(losses_now, settings.lr, self.step.gradient_norm, speed))

    def _show_batch(self, batch: Batch) -> None:
        if self.log and self.state.batch == 0 and self.state.epoch < SHOWN_BATCHES:
            name = f"train_batch{self.state.epoch + 1}.jpg"
            title = f"{self.folder.name}, epoch {self.state.epoch + 1}: the first batch of training"
            facts = self.train_set.keypoint_layout.arguments()
            self.log.add_image(name, lambda: batch_sheet(batch, self.train_set.names, self.task.draw, title, facts),
                               "train/batch", self.state.epoch + 1)

    # --- the end of an epoch -----------------------------------------------------------------------------------------

    def _evaluate(self) -> tuple[Evaluation, dict[str, float]]:
        """What the averaged weights find, and the terms of their loss on the same images."""
        state = self.state
        self.processes.broadcast(floating_buffers(state.ema.model))  # the others differ: each has seen its own images
        network = TorchNetwork(state.ema.model, self.device, self.config.precision)
        evaluators = self.training.evaluators(self.val_set, False)
        loss = self.make_validation_loss()
        evaluation = evaluate(network, self.stop.guard(self.val_loader), self.val_set, evaluators=evaluators,
                              processes=self.processes, after=self.task.after(usual=self.training.finish),
                              watch=loss.add)
        if not self._left_out.issuperset(evaluation.left_out):
            self._left_out.update(evaluation.left_out)
            if self.processes.is_main:
                report_left_out(self.val_set, evaluation.left_out, self.folder)
        return evaluation, loss.result(self.processes)

    def make_validation_loss(self) -> ValidationLoss:
        """The loss of an evaluation, which sees the logits of this process's batches."""
        criterion = self.make_criterion(Processes())
        if len(self.state.model.head.auxiliary_convs):  # as many positives as the lead head has in training
            top_k = criterion.config.top_k or AUXILIARY_TOP_K
            criterion.config = dataclasses.replace(criterion.config, top_k=top_k)
        return ValidationLoss(criterion, tuple(self.terms), self.device)

    def _end_epoch(self, evaluation: Evaluation, losses: tuple[dict[str, float], dict[str, float]],
                   started: float) -> bool:
        """Keep and record what came out; ``losses`` are those of both splits. Returns whether the run is over."""
        state, epoch = self.state, self.state.epoch
        numbers = epoch_numbers(epoch + 1, evaluation)
        better = self._keep_best(evaluation, numbers)
        self.checkpoints.keep_epoch(state)
        record = EpochRecord(epoch + 1, losses[0], evaluation.metrics(), state.optimizer.param_groups[0]["lr"],
                             time.perf_counter() - started, state.skipped, losses[1])
        state.record = to_mapping(record)  # a kill behind the checkpoint loses nothing
        state.begin_epoch(epoch + 1)
        over = self._is_over(epoch)
        self.checkpoints.save_last(state, required=over)
        if self.log:
            self.log.best = self._best_epoch()
            self.log.add_epoch(record)
            logger.info("%s", self._table.add(record, better, over))
            self._tell("evaluated", epoch + 1, {"classes": class_numbers(numbers)})
            self._show_predictions(evaluation, epoch, better)
        return over

    def _keep_best(self, evaluation: Evaluation, numbers: EpochNumbers) -> bool:
        """Write the weights of the best epoch so far; whether that is this one.

        Where there is nothing to measure on, no epoch is better than another: the last one counts.
        """
        state, boxes = self.state, evaluation.boxes
        result = TrainingResult(state.epoch, boxes.AP, boxes.AP50, self.checkpoints.best,
                                evaluation.fitness if evaluation.counts_more_than_boxes else None)
        best = state.best
        better = best is None or result.value > best.value or (not boxes.objects and result.value == best.value)
        if better:
            state.best = result
            state.numbers = to_mapping(numbers)
            self.checkpoints.save_best(state, state.epoch)
        else:
            self.checkpoints.retry_best()
        return better

    def _is_over(self, epoch: int) -> bool:
        """Whether this was the last epoch, or so many brought nothing better that the run's patience is at its end."""
        if reason := self.processes.broadcast_object(self.log.observers.stop if self.log else ""):
            logger.info("stopped after epoch %d, as asked by %s", epoch + 1, reason)
            return True
        if self._lost_patience(epoch):
            logger.info("no better epoch since %d: stopped after epoch %d (--patience %d)", self._best_epoch(),
                        epoch + 1, self.config.patience)
            return True
        return epoch + 1 >= self.config.epochs

    def _lost_patience(self, epoch: int) -> bool:
        best, patience = self.state.best, self.config.patience
        return bool(patience) and best is not None and epoch - best.epoch >= patience

    def _show_predictions(self, evaluation: Evaluation, epoch: int, better: bool) -> None:
        assert self.log is not None
        every = max(self.config.epochs // SHOWN_PREDICTIONS, 1)
        tag = "val/predictions" if (epoch + 1) % every == 0 else None
        if better or tag:
            name = "val_predictions.jpg" if better else None
            title = f"{self.folder.name}, epoch {epoch + 1}: {evaluation.headline()}"
            self.log.add_image(name, lambda: prediction_sheet(evaluation.samples, self.val_set, self.task.draw, title),
                               tag, epoch + 1)
