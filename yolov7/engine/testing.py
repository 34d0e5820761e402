"""Evaluate weights on a split, by one process or several, and write everything that there is to say of them."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from yolov7.config import InputError, atomic_write
from yolov7.config.options import TestOptions
from yolov7.data.catalog import DataSource, open_data, open_split
from yolov7.data.image_set import ImageSet, choose_classes, class_names, displaced, report_faults, report_left_out
from yolov7.data.loader import BatchLoader, evaluation_loader, fixed_shape_loader
from yolov7.data.transport import worker_failures
from yolov7.data.windows import check_room, fetch_first
from yolov7.engine.evaluation_report import with_report, write_evaluation_report
from yolov7.engine.measured_with import checksums, measured_with
from yolov7.engine.sheets import SHOWN_SCORE, prediction_sheet, write_image
from yolov7.evaluation.by_image import evaluate_images
from yolov7.evaluation.evaluate import PROTOCOL, Evaluation, Evaluator, evaluate
from yolov7.inference.loading import load_network, usual_device
from yolov7.inference.network import Network, check_size
from yolov7.inference.nms import After, NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.inference.tiles import TiledPredictor, Tiling
from yolov7.model.weights import ModelInfo
from yolov7.runtime import folders
from yolov7.runtime.device import own_device
from yolov7.runtime.distributed import Processes, connected, environment
from yolov7.tasks.base import Task, find_task

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)


def test(options: TestOptions) -> TestRun:
    """Evaluate weights on a split by the paper's protocol; prints the numbers, writes tables and images.

    Processes that ``torchrun`` starts share the batches; the numbers are those of one process with batches of that
    size.
    """
    paths = folders.find_weights(options.weights)
    device = own_device(usual_device(paths, options.device), environment().local_rank)
    with connected(device) as processes:
        with processes.main_first():
            subject = open_subject(paths, options, device, options.task)
        folder, weights = Path(), checksums(paths) if processes.is_main else []  # now: a training may replace them
        if processes.is_main:
            folder = folders.new_folder(options.project, options.name, options.exist_ok)
            report_faults(subject.image_set, folder)
        loader = subject.loader(options.img_size, options.batch_size, options.workers, processes)
        nms = subject.nms(options)
        if options.tile:
            tiling = Tiling(options.tile, options.overlap)
            evaluation = subject.evaluate_in_tiles(tiling, options.img_size, nms, processes, options.report)
        else:
            evaluation = subject.evaluate(loader, nms, processes, complete=True, report=options.report)
        if len(evaluation.left_out) == len(subject.image_set):
            raise InputError(f"none of the {len(subject.image_set)} images can be read; the first: "
                             f"{evaluation.left_out[0]}")
        if processes.is_main:
            if evaluation.left_out:
                report_left_out(subject.image_set, evaluation.left_out, folder)
            _report(evaluation, subject, folder, options.metric)
            settings = measured_with(subject, evaluation, options, nms, weights, processes.world_size)
            _write(evaluation, subject, folder, settings)
            if options.report:
                logger.info("page: %s", write_evaluation_report(evaluation, subject.image_set, folder, settings))
    return TestRun(evaluation, folder, subject.image_set.names)


@dataclass(frozen=True, repr=False)
class TestRun:
    """An evaluation and the folder that it was written to; printed, it is the 12 numbers and the table by class."""

    __test__ = False  # not a pytest class

    evaluation: Evaluation
    folder: Path
    names: tuple[str, ...]  # the classes that were scored

    @property
    def metrics(self) -> dict[str, float]:
        """Named numbers of all evaluators."""
        return self.evaluation.metrics()

    @property
    def classes(self) -> dict[str, dict[str, Any]]:
        """Numbers by class: images, objects, AP, AP50, AP75, AR100, precision, recall, F1; None where there is none."""
        return dict(self.evaluation.table()["classes"])

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a table, the mean over all classes first."""
        return self.evaluation.to_pandas()

    def __repr__(self) -> str:
        return "\n\n".join(text for result in self.evaluation.results.values() if (text := result.text(self.names)))


@dataclass(frozen=True)
class Subject:
    """A network and the data that it is evaluated on."""

    network: Network
    image_set: ImageSet
    scored: tuple[int, ...] | None  # class of the network for each class of the data; None: the same in order
    data: str = ""  # the data set's name or path
    masks: str | None = None  # how they come to pixels, as --masks says
    mask_scores: str | None = None  # as --mask-scores says

    @cached_property
    def task(self) -> Task:
        """What follows the network's NMS, and how it is evaluated and drawn."""
        return find_task(self.network.info.head)

    def evaluate(self, loader: BatchLoader, nms: NMSOptions, processes: Processes = Processes(),  # noqa: B008  # frozen
                 complete: bool = False, report: bool = False) -> Evaluation:
        """Run the network over batches; ``complete`` for all that there is to say beside the official scores,
        ``report`` for what a page shows, too.
        """
        with worker_failures():
            return evaluate(self.network, loader, self.image_set, nms, self._evaluators(complete, report), processes,
                            self._after())

    def evaluate_in_tiles(self, tiling: Tiling, image_size: int | None, nms: NMSOptions, processes: Processes,
                          report: bool) -> Evaluation:
        """Everything that there is to say, of detections in tiles."""
        predictor = TiledPredictor(Predictor(self.network, nms, image_size, self._after()), tiling)
        return evaluate_images(predictor, self.image_set, self._evaluators(True, report), nms.classes, processes)

    def _evaluators(self, complete: bool, report: bool) -> list[Evaluator]:
        evaluators = self.task.training().evaluators(self.image_set, complete)
        return with_report(evaluators, self.image_set) if report else evaluators

    def _after(self) -> After:
        return self.task.after(self.masks, self.mask_scores, self.task.training().finish)

    def loader(self, image_size: int | None, batch_size: int, workers: int | None,
               processes: Processes = Processes()) -> BatchLoader:  # noqa: B008  # frozen
        """Rectangular batches of the size that a flag names; of the one shape that an exported file takes."""
        network, part = self.network, (processes.rank, processes.world_size)
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
    network = load_network(paths, device, options)
    find_task(network.info.head).after(options.masks, options.mask_scores)  # before anything is opened
    data = options.data or network.info.data
    if not data:
        raise InputError(f"{paths[0]} does not say what it was trained on; name the data set with --data")
    subject = Subject(network, *open_for(network.info, open_data(data), options, split), data, options.masks,
                      options.mask_scores)
    check_room(None, subject.image_set, 0)
    fetch_first(None, subject.image_set, 0, 0)
    return subject


def _report(evaluation: Evaluation, subject: Subject, folder: Path, metric: str) -> None:
    image_set = subject.image_set
    for name, result in evaluation.results.items():
        is_own = name.partition("_")[0] == "v7"  # of boxes, or of what the task adds
        if (text := result.text(image_set.names)) and (not is_own or metric == "v7"):
            heading = "the reference implementation's own metric:\n" if is_own else ""
            logger.info("%s%s\n", heading, text)
        result.write(folder, image_set.names, image_set)
    logger.info("%s\n", evaluation.times.text())


def _write(evaluation: Evaluation, subject: Subject, folder: Path, settings: dict[str, Any]) -> None:
    """The files that are no evaluator's own; ``settings`` stand beside the numbers."""
    atomic_write(folder / "results.json", json.dumps({**evaluation.table(), "settings": settings}, indent=1))
    title = ", ".join(Path(file["path"]).name for file in settings["weights"])
    title += f" on {settings['split']} of {settings['data']}: {evaluation.headline()}"
    sheet = prediction_sheet(evaluation.samples, subject.image_set, subject.task.draw, title,
                             max(SHOWN_SCORE, settings["nms"]["conf_thres"]))
    write_image(folder / "predictions.jpg", sheet)
    logger.info("%d images; written to %s", settings["images"], folder)


def open_for(loaded: ModelInfo, source: DataSource, options: TestOptions,
             split: str) -> tuple[ImageSet, tuple[int, ...] | None]:
    """A split with the classes to score, and for each of them the class of the weights (None: the same in order).

    Without ``--classes`` these are the classes that weights and data share by name; weights of ``--single-cls`` say
    so themselves. Raises `InputError` where they do not fit, with the flag that helps.
    """
    single = options.single_cls or bool(loaded.merged)
    classes = options.classes or ()
    if not classes:
        known = loaded.merged if single else loaded.names
        if set(known) < set(source.names):
            classes = known
            logger.info("scoring the %d of the %d classes of %s that the model was trained on: %s", len(classes),
                        len(source.names), source.name, ", ".join(classes))
    names = class_names(source.names, classes, single)
    scored = _counterparts(names, loaded, source, single)
    return choose_classes(open_split(source, split, labelled=split != "test"), classes, single), scored


def _counterparts(names: tuple[str, ...], loaded: ModelInfo, source: DataSource,
                  single: bool) -> tuple[int, ...] | None:
    known = loaded.names
    if names != known and set(names) <= set(known):
        logger.info("%d of the weights' %d classes are scored: %s", len(names), len(known), ", ".join(names))
        return tuple(known.index(name) for name in names)
    if len(names) == len(known):
        if displaced(names, known):
            raise InputError(f"--weights: has {_text(known)}, but {source.file or source.name} has {_text(names)}: "
                             "some names are the same, at other places; accepted: the same names, or other ones")
        if names != known:
            logger.warning("the weights' classes have other names and are taken by their places: %s", ", ".join(
                f"{theirs} -> {own}" for theirs, own in list(zip(known, names, strict=True))[:20] if theirs != own))
        return None
    if single:
        hint = "--single-cls is for weights that were trained with it"
    elif len(known) == 1:
        hint = "weights that were trained with --single-cls need it here too"
    elif len(known) < len(names):
        hint = f"trained on other data, unless --classes can name the {len(known)} here"
    else:
        hint = "trained on other data"
    raise InputError(f"--weights: has {_text(known)}, but {source.file or source.name} has {_text(names)}: {hint}")


def _text(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({shown})"
