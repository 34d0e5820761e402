"""``train`` and ``test`` from their flags: open, check and build everything, then write the first file."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
from pathlib import Path

import torch

from yolov7.config import InputError, from_mapping, write_atomically
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.classes import choose_classes, class_names
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.data.loader import evaluation_loader
from yolov7.engine import checkpoint
from yolov7.engine.anchors import check_anchors, improve_anchors, settle_anchors
from yolov7.engine.classes import open_for
from yolov7.engine.device import select_device
from yolov7.engine.freeze import nodes_to_freeze
from yolov7.engine.pictures import draw_predictions
from yolov7.engine.precision import choose_precision
from yolov7.engine.setup import DEFAULT_MODEL, RunConfig, resolve, settings_text
from yolov7.engine.trainer import Trainer, TrainingResult
from yolov7.evaluation.coco import write_predictions
from yolov7.evaluation.evaluate import PROTOCOL, Evaluation, evaluate
from yolov7.model.detector import Detector
from yolov7.model.reparam import deployed
from yolov7.model.spec import parse_spec, read_spec
from yolov7.model.weights import initialize_from, load_model, spec_of
from yolov7.options import TestOptions, TrainOptions

logger = logging.getLogger(__name__)


def train(options: TrainOptions) -> TrainingResult:
    """Train a model, or go on with an interrupted run; returns the best epoch."""
    trainer = _new_run(options) if options.resume is None else _resumed_run(options)
    result = trainer.fit()
    _say_what_comes_next(trainer, result)
    return result


def _new_run(options: TrainOptions) -> Trainer:
    device = select_device(options.device)
    spec = read_spec(options.cfg or DEFAULT_MODEL) if options.cfg or not options.weights else spec_of(options.weights)
    source = open_data(options.data)
    torch.manual_seed(options.seed)
    model = Detector(spec, len(class_names(source.names, options.classes or (), options.single_cls)))
    config = resolve(options, spec, source, model.stride)
    config = dataclasses.replace(config, precision=choose_precision(config.precision, device),
                                 freeze=nodes_to_freeze(model, config.freeze))
    if config.weights:
        report = initialize_from(model, config.weights)
        logger.log(logging.WARNING if report.fresh else logging.INFO, "%s: %s", config.weights, report.text())
        settle_anchors(model, named=bool(options.cfg))
    splits = _open_splits(source, config)
    if options.autoanchor:
        improve_anchors(model, splits[0], config)
    folder = checkpoint.new_folder(options.project, options.name, options.exist_ok)
    write_atomically(folder / "config.yaml", settings_text(config))
    logger.info("%s", settings_text(config).rstrip())
    return _make_trainer(config, model, splits, folder, device)


def _resumed_run(options: TrainOptions) -> Trainer:
    """The run of a checkpoint: its own settings, of which only the number of epochs, device and workers may change."""
    path = checkpoint.find_last(options.resume or "", options.project)
    content = checkpoint.read_last(path)
    config = from_mapping(RunConfig, content["config"], str(path))
    config = dataclasses.replace(config, epochs=options.epochs or config.epochs, workers=options.workers,
                                 device=options.device or config.device)
    source = open_data(config.data)
    names = class_names(source.names, config.classes, config.single_cls)
    if list(names) != list(content["names"]):
        raise InputError(f"{path}: was trained on classes {content['names']}, {config.data} has {list(names)}")
    folder = path.parent.parent
    checkpoint.remove_leftovers(folder)
    model = Detector(parse_spec(content["definition"], str(path)), len(names))
    trainer = _make_trainer(config, model, _open_splits(source, config), folder, select_device(config.device))
    trainer.resume(content)
    logger.info("%s: going on after epoch %d", path, content["epoch"] + 1)
    return trainer


def _open_splits(source: DataSource, config: RunConfig) -> tuple[ImageSet, ImageSet]:
    train_set, val_set = open_split(source, "train", training=True), open_split(source, "val")
    return (choose_classes(train_set, config.classes, config.single_cls),
            choose_classes(val_set, config.classes, config.single_cls))


def _make_trainer(config: RunConfig, model: Detector, splits: tuple[ImageSet, ImageSet], folder: Path,
                  device: torch.device) -> Trainer:
    for split in splits:
        report_faults(split, folder)
    check_anchors(model, splits[0], config)
    return Trainer(config, model, splits, folder, device)


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


def test(options: TestOptions) -> Evaluation:
    """Evaluate weights on a split by the paper's protocol; prints the numbers, writes ``predictions.json``."""
    device = select_device(options.device)
    path = checkpoint.find_best(options.weights)
    loaded = load_model(path, options.cfg)
    data = options.data or loaded.data
    if not data:
        raise InputError(f"{path} does not say what it was trained on; name the data set with --data")
    image_set, scored = open_for(loaded, open_data(data), options)
    model = deployed(loaded.model)
    size = options.img_size or loaded.image_size
    folder = checkpoint.new_folder(options.project, options.name, options.exist_ok)
    report_faults(image_set, folder)
    loader = evaluation_loader(image_set, size, options.batch_size, model.stride, options.workers)
    nms = dataclasses.replace(PROTOCOL, confidence=options.conf_thres, iou=options.iou_thres,
                              max_detections=options.max_det, classes=scored)
    evaluation = evaluate(model.to(device), loader, image_set, device, nms)
    _report(evaluation, image_set, folder)
    return evaluation


def _report(evaluation: Evaluation, image_set: ImageSet, folder: Path) -> None:
    times = ", ".join(f"{stage} {ms:.1f}" for stage, ms in evaluation.milliseconds.items())
    logger.info("%s", evaluation.result.text())
    logger.info("milliseconds a picture: %s", times)
    write_predictions(folder / "predictions.json", evaluation.predictions)
    write_atomically(folder / "results.json", json.dumps(dataclasses.asdict(evaluation.result), indent=1))
    draw_predictions(evaluation.samples, image_set, folder / "predictions.jpg")
    logger.info("%d pictures; written to %s", len(image_set), folder)
