"""``test`` from its flags: weights over a split, by one process or several, and everything that is written of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yolov7.config import InputError, write_atomically
from yolov7.data.catalog import open_data
from yolov7.data.image_set import ImageSet, report_faults
from yolov7.data.loader import BatchLoader, evaluation_loader, fixed_shape_loader
from yolov7.engine import checkpoint
from yolov7.engine.classes import open_for
from yolov7.engine.device import own_device
from yolov7.engine.distributed import Processes, connected, environment
from yolov7.engine.pictures import prediction_sheet, write_picture
from yolov7.evaluation.coco import write_predictions
from yolov7.evaluation.evaluate import PROTOCOL, Evaluation, evaluate
from yolov7.evaluation.plots import write_plots
from yolov7.evaluation.worst import worst_sheet
from yolov7.inference.loading import NetworkOptions, load_network, usual_device
from yolov7.inference.network import Network, check_size
from yolov7.inference.postprocess import NMSOptions
from yolov7.options import TestOptions

logger = logging.getLogger(__name__)


def test(options: TestOptions) -> Evaluation:
    """Evaluate weights on a split by the paper's protocol; prints the numbers, writes tables and pictures.

    Processes that ``torchrun`` starts share the batches; the numbers are those of one process with batches of that
    size.
    """
    paths = checkpoint.find_weights(options.weights)
    device = own_device(usual_device(paths, options.device), environment().local_rank)
    with connected(device) as processes:
        with processes.first_before_others():
            subject = open_subject(paths, options, device, options.task)
        folder = Path()
        if processes.first:
            folder = checkpoint.new_folder(options.project, options.name, options.exist_ok)
            report_faults(subject.image_set, folder)
        loader = subject.loader(options.img_size, options.batch_size, options.workers, processes)
        evaluation = evaluate(subject.network, loader, subject.image_set, subject.nms(options), processes, extras=True)
        if processes.first:
            _report(evaluation, subject.image_set, folder, options.metric)
    return evaluation


@dataclass(frozen=True)
class Subject:
    """A network and the data that it is evaluated on."""

    network: Network
    image_set: ImageSet
    scored: tuple[int, ...] | None  # class of the network for each class of the data; None: the same in order

    def loader(self, image_size: int | None, batch_size: int, workers: int,
               processes: Processes = Processes()) -> BatchLoader:  # noqa: B008  # frozen
        """Rectangular batches of the size that a flag names; of the one shape that an exported file takes."""
        network, part = self.network, (processes.rank, processes.count)
        if network.shape is None:
            return evaluation_loader(self.image_set, image_size or network.info.image_size, batch_size, network.stride,
                                     workers, part=part)
        check_size(network, image_size)
        return fixed_shape_loader(self.image_set, network.shape, batch_size, workers, part)

    def nms(self, options: TestOptions) -> NMSOptions:
        """The paper's protocol, but for what flags say."""
        return dataclasses.replace(PROTOCOL, confidence=options.conf_thres, iou=options.iou_thres,
                                   max_detections=options.max_det, classes=self.scored)


def open_subject(paths: Sequence[Path], options: TestOptions, device: torch.device, split: str) -> Subject:
    """Load the network of some files, and the data that the flags or the files name."""
    how = NetworkOptions.of_flags(options)
    network = load_network(paths, device, how)
    data = options.data or network.info.data
    if not data:
        raise InputError(f"{paths[0]} does not say what it was trained on; name the data set with --data")
    return Subject(network, *open_for(network.info, open_data(data), options, split))


def _report(evaluation: Evaluation, image_set: ImageSet, folder: Path, metric: str) -> None:
    assert evaluation.extras is not None
    extras, names = evaluation.extras, image_set.names
    own = extras.v7.result()
    logger.info("%s", evaluation.result.text())
    if metric == "v7":
        logger.info("\nthe original's own metric:\n%s", own.text(names))
    logger.info("\n%s", extras.confusion.text(names))
    logger.info("\n%s\n", evaluation.times.text())
    write_predictions(folder / "predictions.json", evaluation.predictions)
    numbers = dataclasses.asdict(evaluation.result) | {
        "v7": {"precision": own.precision, "recall": own.recall, "AP50": own.AP50, "AP": own.AP},
        "milliseconds": evaluation.times.summary()}
    write_atomically(folder / "results.json", json.dumps(numbers, indent=1))
    write_picture(folder / "predictions.jpg", prediction_sheet(evaluation.samples, image_set))
    write_plots(folder, names, own, extras.confusion)
    if worst := extras.worst.pictures:
        write_picture(folder / "worst.jpg", worst_sheet(worst, names))
    logger.info("%d pictures; written to %s", len(image_set), folder)
