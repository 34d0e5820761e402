"""``train`` from its flags: open, check and build everything, then write the first file."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov7.config import InputError, atomic_write, reason_of
from yolov7.config.program import command
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.check import explained
from yolov7.data.image_cache import ImageReader
from yolov7.data.image_set import ImageSet, choose_classes, class_names, report_faults
from yolov7.data.subsets import fold_of, share_of
from yolov7.data.transport import worker_failures
from yolov7.data.windows import check_room, windows_of
from yolov7.engine.anchors import check_anchors, improve_anchors, settle_anchors
from yolov7.engine.class_weights import balanced_weights
from yolov7.engine.console import head_text, numbers_text, task_scores_text
from yolov7.engine.decisions import Decision
from yolov7.engine.finetuning import Start
from yolov7.engine.fitting import fitting_batch
from yolov7.engine.forecast import Forecast, dry_run, explain_lack_of_memory
from yolov7.engine.history import TrainingRun
from yolov7.engine.log import read_results
from yolov7.engine.nonfinite import TrainingError
from yolov7.engine.observers import observers_named
from yolov7.engine.optim import nodes_to_freeze
from yolov7.engine.restart import after_restart, forget_run, note_run, own_agent
from yolov7.engine.run_config import (
    AUTO,
    DEFAULT_MODEL,
    RunConfig,
    TrainOptions,
    check_processes,
    check_resume,
    resolve,
    settings_text,
    stored_config,
    workers_of,
)
from yolov7.engine.state import TrainingResult, find_last, read_last
from yolov7.engine.trainer import Trainer
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.norms import check_fusion, fuse_norms
from yolov7.model.spec import parse_spec, read_spec
from yolov7.runtime import folders
from yolov7.runtime.cuda_graphs import check_graphs
from yolov7.runtime.determinism import deterministic, is_not_deterministic
from yolov7.runtime.device import check_compiler, own_device
from yolov7.runtime.distributed import Processes, await_news, connected, environment, is_lost_connection
from yolov7.runtime.memory import is_out_of_memory, release_freed_memory
from yolov7.runtime.precision import choose_precision
from yolov7.tasks.base import find_task

logger = logging.getLogger(__name__)

SHOWN_CLASSES = 20


def train(options: TrainOptions) -> TrainingRun | Forecast:
    """Train a model, or go on with an interrupted run; with ``--dry-run`` only say what it would take."""
    check_resume(options)
    device = own_device(options.device, environment().local_rank)
    with connected(device) as processes, ExitStack() as held:
        if not options.dry_run:
            agents = processes.gather_object(own_agent())
            options = processes.broadcast_object(after_restart(options, agents) if processes.is_main else options)
        trainer = (build_trainer if options.resume is None else resume_trainer)(options, device, processes, held)
        held.callback(trainer.close)
        held.enter_context(deterministic(trainer.config.deterministic))
        if options.dry_run:
            forecast: Any = processes.broadcast_object(dry_run(trainer) if processes.is_main else "")
            if isinstance(forecast, str):
                raise TrainingError(forecast)
            return forecast  # type: ignore[no-any-return]
        result = _fit(trainer)
        if processes.is_main:
            forget_run(options.project)
            trainer.checkpoints.settle()
            _say_what_comes_next(trainer, result)
            trainer.checkpoints.check_best()
        outcome: Any = processes.broadcast_object(_outcome(trainer, result) if processes.is_main else None)
    return outcome  # type: ignore[no-any-return]


def _outcome(trainer: Trainer, result: TrainingResult) -> TrainingRun:
    """What the first process knows of the run."""
    folder = trainer.folder
    path = folder / "results.csv"
    history = tuple(read_results(path, tuple(trainer.terms))) if path.is_file() else ()
    best = next((record.metrics for record in history if record.epoch == result.epoch + 1), {})
    return TrainingRun(folder, result.best, trainer.checkpoints.last, result.epoch + 1, best, history)


def _fit(trainer: Trainer) -> TrainingResult:
    try:
        with worker_failures():
            return trainer.fit()
    except (RuntimeError, MemoryError) as error:
        if is_not_deterministic(error):
            raise TrainingError(f"--deterministic: {reason_of(error).partition('. ')[0]}; without it the run goes on: "
                                "its numbers then differ a little from run to run") from None
        lost = is_lost_connection(error) and reason_of(error)
        if not lost and not is_out_of_memory(error):
            raise
    # here, the frames of the error with all that they hold are gone
    if not lost:
        raise TrainingError(explain_lack_of_memory(trainer))
    if not trainer.stop.received:  # who is told to stop is waited for
        await_news(trainer.processes)
    raise TrainingError(f"another process of the run has ended ({lost}); `torchrun --max-restarts N` goes on by "
                        f"itself, {command('train', resume=trainer.folder)} in any case")


def build_trainer(options: TrainOptions, device: torch.device | None = None,
                  processes: Processes = Processes(), held: ExitStack | None = None) -> Trainer:  # noqa: B008  # frozen
    """A run from the start: everything is opened, checked and built, then the folder is made.

    ``device`` is by default the one that the options name. The folder is for this process alone as long as ``held`` is
    open (default: as long as the process lives).
    """
    device = device or own_device(options.device, processes.local_rank)
    if options.batch_size == AUTO:
        trial = dataclasses.replace(options, batch_size=None, autoanchor=False)  # type: ignore[arg-type]  # not decided
        with deterministic(options.deterministic):
            options = dataclasses.replace(options, batch_size=fitting_batch(_build(trial, device, processes)[0]))
        release_freed_memory()  # the trial has gone
    trainer, decisions = _build(options, device, processes, held or ExitStack())
    logger.info("%s\n", head_text(trainer, decisions))
    return trainer


def _build(options: TrainOptions, device: torch.device, processes: Processes,
           held: ExitStack | None = None) -> tuple[Trainer, tuple[Decision, ...]]:
    """A run and what was decided; without ``held`` nothing is written or said of it."""
    content = weights.read(options.weights) if options.weights else None
    model, splits, config, decisions = _settle(options, content, processes)
    config = dataclasses.replace(config, precision=choose_precision(config.precision, device),
                                 freeze=nodes_to_freeze(model, config.freeze))
    _check_place(config, processes, device)
    _check_tar_files(config, splits)
    if config.weights:
        report = weights.initialize_from(model, config.weights, content)
        logger.log(logging.WARNING if report.fresh else logging.INFO, "%s: %s", config.weights, report.text())
        settle_anchors(model, named=bool(options.cfg))
    if options.autoanchor:
        improve_anchors(model, splits[0], config)
        processes.broadcast([model.head.anchors])
    folder, agents = Path(), processes.gather_object(own_agent())
    if processes.is_main and held is not None and not options.dry_run:
        folder = folders.new_folder(options.project, options.name, options.exist_ok)
        held.enter_context(folders.claimed(folder))
        note_run(options.project, folder, agents)
        atomic_write(folder / "config.yaml", settings_text(config))
    folder = processes.broadcast_object(folder)
    speaks = held is not None and not options.dry_run
    return _make_trainer(config, model, splits, folder, device, processes, speaks), decisions


def settled_config(options: TrainOptions) -> RunConfig:
    """What the flags, the data set, the model and the weights make of a run, which is not begun."""
    return _settle(options, weights.read(options.weights) if options.weights else None, Processes())[2]


def _settle(options: TrainOptions, content: Any, processes: Processes) -> tuple[
        Detector, tuple[ImageSet, ImageSet], RunConfig, tuple[Decision, ...]]:
    """The model, which has no weights yet, the data, and all settings."""
    spec = read_spec(options.cfg or DEFAULT_MODEL) if options.cfg or content is None else weights.spec_of(
        options.weights, content)
    training = find_task(spec.head.block).training()
    data = options.data or training.demo
    with processes.main_first(), explained(data):
        source = open_data(data)
    torch.manual_seed(options.seed)
    splits = _open_splits(source, dataclasses.replace(options, data=data), processes)
    if training.adapt and (arguments := training.adapt(spec.head.arguments, splits[0])):
        spec = spec.with_head_arguments(arguments)
    model = Detector(spec, len(class_names(source.names, options.classes, options.single_cls)))
    start = Start(len(splits[0]), content is not None, None if content is None else weights.stored_size(content))
    config, decisions = resolve(options, spec, source, model.stride, training.gains(), start)
    config = _with_class_weights(dataclasses.replace(config, data=data), splits[0])
    return model, splits, config, decisions


def _with_class_weights(config: RunConfig, train_set: ImageSet) -> RunConfig:
    """The weights that ``--class-weights auto`` stands for, in the recipe of the run."""
    if config.class_weights != "auto":
        return config
    loss = config.recipe.loss
    if loss.class_weights:
        raise InputError("--class-weights auto: the recipe has loss.class_weights of its own; accepted: one of them")
    found = balanced_weights(np.bincount(train_set.objects.labels, minlength=len(train_set.names)))
    logger.info("--class-weights auto: %s", ", ".join(f"{name} {weight:g}" for name, weight in
                                                      list(zip(train_set.names, found, strict=True))[:SHOWN_CLASSES]))
    loss = dataclasses.replace(loss, class_weights=found)
    return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, loss=loss))


def _check_place(config: RunConfig, processes: Processes, device: torch.device) -> None:
    """Raise `InputError` for what cannot be done here."""
    check_processes(config, processes, device)
    observers_named(config.log)  # what is missing is said before anything is written
    if config.fused_norm:
        check_fusion(device)
    if config.cuda_graphs:
        check_graphs(device)
    if config.augment_device == "cuda":
        from yolov7.data.device_augment import check_decoder

        check_decoder(device)


def _check_tar_files(config: RunConfig, splits: tuple[ImageSet, ImageSet]) -> None:
    """Raise `InputError` for windows of a data set without tar files, and where those of a server have no room."""
    if config.shard_window:
        windows_of(splits[0], config.shard_window, config.seed)
    check_room(*splits, config.shard_window or 0)


def resume_trainer(options: TrainOptions, device: torch.device, processes: Processes, held: ExitStack) -> Trainer:
    """The run of a checkpoint: its own settings, of which only the number of epochs, device and workers may change."""
    path = processes.broadcast_object(find_last(options.resume or "", options.project) if processes.is_main else Path())
    folder = path.parent.parent if path.parent.name else path.absolute().parent.parent
    with processes.main_first():  # a run that ends just now may still write it
        if processes.is_main and not options.dry_run:
            held.enter_context(folders.claimed(folder))
        content = read_last(path)
    config = stored_config(content["config"], str(path))
    config = dataclasses.replace(config, epochs=options.epochs or config.epochs, workers=workers_of(options),
                                 device=options.device or config.device, keep=options.keep or config.keep,
                                 log=config.log if options.log == RunConfig.log else options.log)
    if not options.device:
        device = own_device(config.device, processes.local_rank)
    _check_place(config, processes, device)
    with processes.main_first(), explained(config.data):
        source = open_data(config.data)
    names = class_names(source.names, config.classes, config.single_cls)
    if list(names) != list(content["names"]):
        raise InputError(f"{path}: was trained on classes {content['names']}, {config.data} has {list(names)}")
    model = Detector(parse_spec(content["definition"], str(path), content.get("package", "")), len(names))
    splits = _open_splits(source, config, processes)
    _check_tar_files(config, splits)
    trainer = _make_trainer(config, model, splits, folder, device, processes, not options.dry_run)
    trainer.resume(content)
    place = content["place"]
    logger.info("%s\n", head_text(trainer))
    logger.info("%s: going on in epoch %d%s", path, place["epoch"] + 1,
                f" after {place['batch']} batches" if place["batch"] else "")
    return trainer


def _open_splits(source: DataSource, config: RunConfig, processes: Processes) -> tuple[ImageSet, ImageSet]:
    with processes.main_first(), explained(config.data):  # the first one indexes what is new
        train_set = open_split(source, "train", training=True)
        is_fold = bool(config.folds and config.fold)
        val_set = open_split(source, "train" if is_fold else "val", labelled=True)
    train_set, val_set = (choose_classes(images, config.classes, config.single_cls) for images in (train_set, val_set))
    if is_fold:
        train_set, val_set = (fold_of(images, config.folds, config.fold, held_out)
                              for images, held_out in ((train_set, False), (val_set, True)))
    return share_of(train_set, config.fraction), val_set


def _make_trainer(config: RunConfig, model: Detector, splits: tuple[ImageSet, ImageSet], folder: Path,
                  device: torch.device, processes: Processes, report: bool) -> Trainer:
    if report and processes.is_main:
        for split in splits:
            report_faults(split, folder)
    check_anchors(model, splits[0], config)
    if config.compile:
        check_compiler(device)
    if config.fused_norm:
        fuse_norms(model)
    if config.cache == "disk" and processes.world_size > 1:
        with processes.main_first():  # the trainer of every process then finds the file
            for split, size, training in zip(splits, (config.train_size, config.test_size), (True, False), strict=True):
                ImageReader(split, size, training, config.cache)
    return Trainer(config, model, splits, folder, device, processes)


def _say_what_comes_next(trainer: Trainer, result: TrainingResult) -> None:
    """The best epoch class by class, and commands to go on with: with files that are there."""
    folder = trainer.folder
    numbers = trainer.best_numbers()
    logger.info("\nbest epoch %d: AP %.3f, AP50 %.3f%s (%s)%s", result.epoch + 1, result.AP, result.AP50,
                task_scores_text(numbers.metrics) if numbers else "", shlex.quote(str(result.best)),
                "" if len(trainer.val_set.objects) else "; not measured, the last one")
    if numbers and (text := numbers_text(numbers)):
        logger.info("%s\n", text)
    files = {"numbers": folder / "results.csv", "curves": folder / "results.png",
             "predictions": folder / "val_predictions.jpg"}
    logger.info("%s", "\n".join([*(f"{name + ':':<13}{path}" for name, path in files.items() if path.is_file()),
                                 f"TensorBoard: tensorboard --logdir {folder}"]))
    written = [path for path in (result.best, trainer.checkpoints.last) if path.is_file()]
    if written:
        image = os.path.relpath(trainer.val_set.paths[0])
        logger.info("next:\n  %s\n  %s\n  %s", command("test", weights=written[0]),
                    command("detect", weights=written[0], source=image),
                    command("export", weights=written[0], format="onnx"))
