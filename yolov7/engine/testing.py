"""``test`` from its flags: weights over a split, by one process or several, and everything that is written of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from yolov7.config import InputError, write_atomically
from yolov7.data.catalog import open_data
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.data.loader import evaluation_loader
from yolov7.engine import checkpoint
from yolov7.engine.classes import open_for
from yolov7.engine.device import select_device
from yolov7.engine.distributed import connected, environment
from yolov7.engine.pictures import prediction_sheet, write_picture
from yolov7.evaluation.coco import write_predictions
from yolov7.evaluation.evaluate import PROTOCOL, Evaluation, evaluate
from yolov7.evaluation.plots import write_plots
from yolov7.evaluation.worst import worst_sheet
from yolov7.model.reparam import deployed
from yolov7.model.weights import load_model
from yolov7.options import TestOptions

logger = logging.getLogger(__name__)


def test(options: TestOptions) -> Evaluation:
    """Evaluate weights on a split by the paper's protocol; prints the numbers, writes tables and pictures.

    Processes that ``torchrun`` starts share the batches; the numbers are those of one process with batches of that
    size.
    """
    device = select_device(options.device, environment().local_rank)
    path = checkpoint.find_best(options.weights)
    loaded = load_model(path, options.cfg)
    data = options.data or loaded.data
    if not data:
        raise InputError(f"{path} does not say what it was trained on; name the data set with --data")
    with connected(device) as processes:
        with processes.first_before_others():
            image_set, scored = open_for(loaded, open_data(data), options)
        folder = Path()
        if processes.first:
            folder = checkpoint.new_folder(options.project, options.name, options.exist_ok)
            report_faults(image_set, folder)
        model = deployed(loaded.model)
        loader = evaluation_loader(image_set, options.img_size or loaded.image_size, options.batch_size, model.stride,
                                   options.workers, part=(processes.rank, processes.count))
        nms = dataclasses.replace(PROTOCOL, confidence=options.conf_thres, iou=options.iou_thres,
                                  max_detections=options.max_det, classes=scored)
        evaluation = evaluate(model.to(device), loader, image_set, device, nms, processes, extras=True)
        if processes.first:
            _report(evaluation, image_set, folder, options.metric)
    return evaluation


def _report(evaluation: Evaluation, image_set: ImageSet, folder: Path, metric: str) -> None:
    assert evaluation.extras is not None
    extras, names = evaluation.extras, image_set.names
    own = extras.v7.result()
    logger.info("%s", evaluation.result.text())
    if metric == "v7":
        logger.info("\nthe original's own metric:\n%s", own.text(names))
    logger.info("\n%s", extras.confusion.text(names))
    times = ", ".join(f"{stage} {ms:.1f}" for stage, ms in evaluation.milliseconds.items())
    logger.info("milliseconds a picture: %s", times)
    write_predictions(folder / "predictions.json", evaluation.predictions)
    numbers = dataclasses.asdict(evaluation.result) | {
        "v7": {"precision": own.precision, "recall": own.recall, "AP50": own.AP50, "AP": own.AP}}
    write_atomically(folder / "results.json", json.dumps(numbers, indent=1))
    write_picture(folder / "predictions.jpg", prediction_sheet(evaluation.samples, image_set))
    write_plots(folder, names, own, extras.confusion)
    if worst := extras.worst.pictures:
        write_picture(folder / "worst.jpg", worst_sheet(worst, names))
    logger.info("%d pictures; written to %s", len(image_set), folder)
