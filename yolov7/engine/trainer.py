"""The run: epochs of steps, evaluation of the averaged weights, checkpoints (spec of training)."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from yolov7.config import InputError
from yolov7.data.dataset import TrainingDataset
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import BatchLoader, EpochSampler, evaluation_loader, rectangular_batches, training_loader
from yolov7.engine import checkpoint
from yolov7.engine.ema import ModelEMA
from yolov7.engine.freeze import freeze, hold_statistics
from yolov7.engine.image_weights import class_scores, image_weights
from yolov7.engine.log import EpochRecord, RunLog
from yolov7.engine.multi_scale import draw_size, resize_batch
from yolov7.engine.optim import make_optimizer
from yolov7.engine.pace import Pace
from yolov7.engine.pictures import draw_batch, draw_predictions
from yolov7.engine.precision import autocast, gradient_scaler
from yolov7.engine.schedule import Schedule, apply
from yolov7.engine.setup import RunConfig
from yolov7.evaluation.evaluate import Evaluation, evaluate, network_input
from yolov7.loss.criterion import Criterion, scale_gains
from yolov7.model.detector import Detector
from yolov7.model.reparam import reparameterize
from yolov7.structures import Batch

logger = logging.getLogger(__name__)

POSTFIX_EVERY = 10  # iterations between readings of the loss


class TrainingError(RuntimeError):
    """The run itself failed (exit code 1)."""


@dataclass(frozen=True)
class TrainingResult:
    """The best epoch of a run."""

    epoch: int
    AP: float  # noqa: N815  # the field's name for it
    AP50: float
    best: Path  # weight file


class Trainer:
    """One training run in ``folder``: model, data and state; `fit` is the story."""

    def __init__(self, config: RunConfig, model: Detector, splits: tuple[ImageSet, ImageSet], folder: Path,
                 device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        freeze(model, config.freeze)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = ModelEMA(self.model)
        self.train_set, self.val_set = splits
        self.loader, self.sampler = self._training_loader()
        self.val_loader = evaluation_loader(self.val_set, config.test_size, 2 * config.batch_size, model.stride,
                                            config.workers, cache=config.cache)
        self.optimizer = make_optimizer(model, config.recipe.optimizer, config.batch_size, config.nominal_batch)
        self.scaler = gradient_scaler(config.precision, device)
        self.schedule = Schedule(config.recipe.optimizer, config.epochs, len(self.loader), config.batch_size,
                                 config.nominal_batch, config.linear_lr)
        head = model.head
        gains = scale_gains(config.recipe.loss, len(head.strides), model.num_classes, config.train_size)
        self.criterion = Criterion(gains, head.anchors, head.strides, model.num_classes)
        self.scores = np.zeros(model.num_classes)  # AP of each class in the last evaluation
        self.start_epoch = 0
        self.best: TrainingResult | None = None

    def _training_loader(self) -> tuple[BatchLoader, EpochSampler]:
        config, train_set = self.config, self.train_set
        batches, shapes = [], None
        if config.rect:
            order, shapes = rectangular_batches(train_set.sizes, config.train_size, config.batch_size,
                                                self.model.stride, pad=0)
            batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
        dataset = TrainingDataset(train_set, config.train_size, config.recipe.augment, config.seed, shapes,
                                  config.cache, config.epochs - config.close_mosaic)
        sampler = EpochSampler(len(dataset), config.seed, batches)
        return training_loader(dataset, sampler, config.batch_size, config.workers), sampler

    @property
    def weights_folder(self) -> Path:
        """Where ``last.pt`` and ``best.pt`` go."""
        return self.folder / "weights"

    def resume(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint of this run."""
        checkpoint.restore(content, self.model, self.ema, self.optimizer)
        self.scores = np.array(content.get("scores", self.scores))
        if content.get("scaler"):
            self.scaler.load_state_dict(content["scaler"])
        self.start_epoch = content["epoch"] + 1
        if content["best"] is not None:
            epoch, ap, ap50 = content["best"]
            self.best = TrainingResult(epoch, ap, ap50, self.weights_folder / "best.pt")

    def fit(self) -> TrainingResult:
        """Train to the last epoch; returns the best one."""
        if self.start_epoch >= self.config.epochs:
            raise InputError(f"--resume: the run has finished its {self.config.epochs} epochs; more: --epochs N")
        self.weights_folder.mkdir(parents=True, exist_ok=True)
        self._announce()
        with RunLog(self.folder, self.start_epoch or None) as log:
            for epoch in range(self.start_epoch, self.config.epochs):
                started = time.perf_counter()
                losses = self._train_epoch(epoch)
                evaluation = self._evaluate()
                self.scores = class_scores(evaluation.result)
                self._keep(epoch, evaluation)
                seconds = time.perf_counter() - started
                self._record(log, epoch, losses, evaluation, seconds)
                if self._is_over(epoch):
                    break
        assert self.best is not None
        return self.best

    def _evaluate(self) -> Evaluation:
        with autocast(self.config.precision, self.device):
            return evaluate(reparameterize(self.ema.model), self.val_loader, self.val_set, self.device)

    def _is_over(self, epoch: int) -> bool:
        """Whether so many epochs brought nothing better that the run's patience is at its end."""
        assert self.best is not None
        patience = self.config.patience
        if not patience or epoch - self.best.epoch < patience:
            return False
        logger.info("no better epoch since %d: stopped after epoch %d (--patience %d)", self.best.epoch + 1, epoch + 1,
                    patience)
        return True

    # --- one epoch ---------------------------------------------------------------------------------------------------

    def _train_epoch(self, epoch: int) -> list[float]:
        """Every batch once; returns the mean box, objectness and class terms."""
        self.model.train()
        hold_statistics(self.model, self.config.freeze)
        weights = image_weights(self.train_set, self.scores) if self.config.image_weights else None
        self.sampler.set_epoch(epoch, weights)
        batches = self.schedule.batches
        total = torch.zeros(3, device=self.device)
        pending = 0
        title = f"epoch {epoch + 1}/{self.config.epochs}"
        pace = Pace(self.loader)
        progress = tqdm(pace, desc=title, total=batches, unit="batch", leave=False, disable=None)
        for index, batch in enumerate(progress):
            if index == 0 and epoch == 0:
                draw_batch(batch, self.train_set.names, self.folder / "train_batch.jpg")
            settings = self.schedule.at(epoch * batches + index)
            apply(settings, self.optimizer)
            total += self._accumulate_gradients(batch, (self.config.seed, epoch, index))
            pending += 1
            if pending >= settings.accumulate or index == batches - 1:  # the end of an epoch drops nothing
                self._optimizer_step()
                pending = 0
            if index % POSTFIX_EVERY == 0:
                means = (total / (index + 1)).tolist()  # waits for the device: once in many steps
                self._check_finite(means, epoch)
                shown = {name: f"{mean:.4f}" for name, mean in zip(("box", "obj", "cls"), means, strict=True)}
                progress.set_postfix({**shown, "lr": f"{settings.lr:.2g}", **pace.text(self.device)})
        means = (total / batches).tolist()
        self._check_finite(means, epoch)
        return means

    def _accumulate_gradients(self, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        """Forward, loss, backward; returns the detached terms ``[3]``."""
        images, targets = network_input(batch.images, self.device), batch.targets
        if self.config.multi_scale:
            size = draw_size(self.config.train_size, self.model.stride, key)
            images, targets = resize_batch(images, targets, size, self.model.stride)
        with autocast(self.config.precision, self.device):
            output = self.model(images)
        terms = self.criterion(output, targets)
        loss = terms.total * len(images)  # a sum over the batch, as the recipe's learning rate expects
        self.scaler.scale(loss).backward()
        return torch.stack((terms.box, terms.objectness, terms.classification)).detach()

    def _optimizer_step(self) -> None:
        if self.config.recipe.optimizer.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.recipe.optimizer.clip_grad)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() >= scale:  # a smaller one: the step was left out (fp16 waits for the device here)
            self.ema.update()

    def _check_finite(self, means: list[float], epoch: int) -> None:
        if not all(math.isfinite(value) for value in means):
            raise TrainingError(
                f"the loss is not finite in epoch {epoch + 1} (box {means[0]}, objectness {means[1]}, class {means[2]})"
                "; a smaller learning rate may help: --set optimizer.lr0=0.001"
            )

    # --- the end of an epoch -----------------------------------------------------------------------------------------

    def _keep(self, epoch: int, evaluation: Evaluation) -> None:
        """Write ``last.pt``, and ``best.pt`` with its pictures if this epoch is the best so far."""
        result = evaluation.result
        better = self.best is None or _fitness(result.AP, result.AP50) > _fitness(self.best.AP, self.best.AP50)
        progress = {"epoch": epoch, "names": self.train_set.names}
        if better:
            self.best = TrainingResult(epoch, result.AP, result.AP50, self.weights_folder / "best.pt")
            checkpoint.save_best(self.best.best, self.ema, self.config, progress)
            draw_predictions(evaluation.samples, self.val_set, self.folder / "val_predictions.jpg")
        assert self.best is not None
        progress["best"] = [self.best.epoch, self.best.AP, self.best.AP50]
        progress["scaler"] = self.scaler.state_dict()
        progress["scores"] = self.scores.tolist()
        last = self.weights_folder / "last.pt"
        checkpoint.save_last(last, self.model, self.ema, self.optimizer, self.config, progress)

    def _record(self, log: RunLog, epoch: int, losses: list[float], evaluation: Evaluation, seconds: float) -> None:
        result, lr = evaluation.result, self.optimizer.param_groups[0]["lr"]
        box, objectness, classification = losses
        log.add_epoch(EpochRecord(epoch + 1, box, objectness, classification, result.AP, result.AP50, result.AP75, lr,
                                  seconds))
        logger.info("epoch %3d/%d  box %.4f  obj %.4f  cls %.4f  AP %.3f  AP50 %.3f  %.1f s", epoch + 1,
                    self.config.epochs, box, objectness, classification, result.AP, result.AP50, seconds)

    def _announce(self) -> None:
        schedule = self.schedule
        logger.info("%s: %d pictures to train on, %d to evaluate on, %d iterations an epoch", self.config.cfg,
                    len(self.train_set), len(self.val_set), schedule.batches)
        logger.info("warm-up: %d of %d iterations", schedule.warmup, schedule.epochs * schedule.batches)
        logger.info("results go to %s", self.folder)


def _fitness(ap: float, ap50: float) -> float:
    """What makes an epoch the best: mostly AP (spec of training, section 13)."""
    return 0.9 * ap + 0.1 * ap50
