"""``train`` from its flags: open, check and build everything, then write the first file."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
from contextlib import ExitStack
from pathlib import Path

import torch

from yolov7.config import InputError, from_mapping, write_atomically
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.classes import choose_classes, class_names
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.engine import checkpoint
from yolov7.engine.anchors import check_anchors, improve_anchors, settle_anchors
from yolov7.engine.device import own_device
from yolov7.engine.distributed import Processes, connected, environment
from yolov7.engine.elastic import after_restart, forget_run, note_run
from yolov7.engine.forecast import dry_run, explain_lack_of_memory
from yolov7.engine.freeze import nodes_to_freeze
from yolov7.engine.guard import TrainingError
from yolov7.engine.memory import is_out_of_memory
from yolov7.engine.setup import DEFAULT_MODEL, RunConfig, check_processes, check_resume, resolve, settings_text
from yolov7.engine.state import TrainingResult
from yolov7.engine.trainer import Trainer
from yolov7.model.compiling import check_compiler
from yolov7.model.detector import Detector
from yolov7.model.precision import choose_precision
from yolov7.model.spec import parse_spec, read_spec
from yolov7.model.weights import initialize_from, spec_of
from yolov7.options import TrainOptions

logger = logging.getLogger(__name__)


def train(options: TrainOptions) -> TrainingResult | None:
    """Train a model, or go on with an interrupted run; returns the best epoch (nothing after ``--dry-run``)."""
    check_resume(options)
    device = own_device(options.device, environment().local_rank)
    with connected(device) as processes, ExitStack() as held:
        if not options.dry_run:
            options = processes.tell(after_restart(options))
        trainer = (_new_run if options.resume is None else _resumed_run)(options, device, processes, held)
        if options.dry_run:
            if processes.first:
                dry_run(trainer)
            return None
        result = _fit(trainer)
        if processes.first:
            forget_run(options.project)
            _say_what_comes_next(trainer, result)
    return result


def _fit(trainer: Trainer) -> TrainingResult:
    try:
        return trainer.fit()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # here, the frames of the error with all that they hold are gone
    raise TrainingError(explain_lack_of_memory(trainer))


def _new_run(options: TrainOptions, device: torch.device, processes: Processes, held: ExitStack) -> Trainer:
    """A run from the start; its folder is ``held`` as long as that is open."""
    spec = read_spec(options.cfg or DEFAULT_MODEL) if options.cfg or not options.weights else spec_of(options.weights)
    with processes.first_before_others():
        source = open_data(options.data)
    torch.manual_seed(options.seed)
    model = Detector(spec, len(class_names(source.names, options.classes or (), options.single_cls)))
    config = resolve(options, spec, source, model.stride)
    config = dataclasses.replace(config, precision=choose_precision(config.precision, device),
                                 freeze=nodes_to_freeze(model, config.freeze))
    check_processes(config, processes, device)
    if config.weights:
        report = initialize_from(model, config.weights)
        logger.log(logging.WARNING if report.fresh else logging.INFO, "%s: %s", config.weights, report.text())
        settle_anchors(model, named=bool(options.cfg))
    splits = _open_splits(source, config, processes)
    if options.autoanchor:
        improve_anchors(model, splits[0], config)
        processes.spread([model.head.anchors])
    folder = Path()
    if processes.first and not options.dry_run:
        folder = checkpoint.new_folder(options.project, options.name, options.exist_ok)
        held.enter_context(checkpoint.claimed(folder))
        note_run(options.project, folder)
        write_atomically(folder / "config.yaml", settings_text(config))
    logger.info("%s", settings_text(config).rstrip())
    return _make_trainer(config, model, splits, processes.tell(folder), device, processes, not options.dry_run)


def _resumed_run(options: TrainOptions, device: torch.device, processes: Processes, held: ExitStack) -> Trainer:
    """The run of a checkpoint: its own settings, of which only the number of epochs, device and workers may change."""
    path = processes.tell(checkpoint.find_last(options.resume or "", options.project) if processes.first else Path())
    folder = path.parent.parent if path.parent.name else path.absolute().parent.parent
    with processes.first_before_others():  # a run that ends just now may still write it
        if processes.first and not options.dry_run:
            held.enter_context(checkpoint.claimed(folder))
        content = checkpoint.read_last(path)
    config = from_mapping(RunConfig, content["config"], str(path))
    config = dataclasses.replace(config, epochs=options.epochs or config.epochs, workers=options.workers,
                                 device=options.device or config.device)
    if not options.device:
        device = own_device(config.device, processes.local_rank)
    check_processes(config, processes, device)
    with processes.first_before_others():
        source = open_data(config.data)
    names = class_names(source.names, config.classes, config.single_cls)
    if list(names) != list(content["names"]):
        raise InputError(f"{path}: was trained on classes {content['names']}, {config.data} has {list(names)}")
    model = Detector(parse_spec(content["definition"], str(path)), len(names))
    splits = _open_splits(source, config, processes)
    trainer = _make_trainer(config, model, splits, folder, device, processes, not options.dry_run)
    trainer.resume(content)
    place = content["place"]
    logger.info("%s: going on in epoch %d%s", path, place["epoch"] + 1,
                f" after {place['batch']} batches" if place["batch"] else "")
    return trainer


def _open_splits(source: DataSource, config: RunConfig, processes: Processes) -> tuple[ImageSet, ImageSet]:
    with processes.first_before_others():  # the first one indexes what is new
        train_set, val_set = open_split(source, "train", training=True), open_split(source, "val")
    return (choose_classes(train_set, config.classes, config.single_cls),
            choose_classes(val_set, config.classes, config.single_cls))


def _make_trainer(config: RunConfig, model: Detector, splits: tuple[ImageSet, ImageSet], folder: Path,
                  device: torch.device, processes: Processes, report: bool) -> Trainer:
    if report and processes.first:
        for split in splits:
            report_faults(split, folder)
    check_anchors(model, splits[0], config)
    if config.compile:
        check_compiler(device)
    return Trainer(config, model, splits, folder, device, processes)


def _say_what_comes_next(trainer: Trainer, result: TrainingResult) -> None:
    folder = trainer.folder
    best, picture = shlex.quote(str(result.best)), shlex.quote(os.path.relpath(trainer.val_set.paths[0]))
    logger.info(
        "best epoch %d: AP %.3f, AP50 %.3f (%s)\n"
        "curves: %s, predictions: %s, TensorBoard: tensorboard --logdir %s\n"
        "next:\n"
        "  python test.py --weights %s\n"
        "  python detect.py --weights %s --source %s\n"
        "  python export.py --weights %s --format onnx",
        result.epoch + 1, result.AP, result.AP50, best, folder / "results.png", folder / "val_predictions.jpg", folder,
        best, best, picture, best,
    )
