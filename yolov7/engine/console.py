"""What a training says: what it is about to do, a line for each epoch, and what came out of the best one."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import torch

from yolov7.engine.decisions import Decision, decisions_text
from yolov7.engine.observers.base import Table
from yolov7.evaluation.coco import class_table
from yolov7.evaluation.evaluate import Evaluation, score_text
from yolov7.evaluation.operating_point import OperatingPoint, OperatingPointResult
from yolov7.runtime.device import available_cores
from yolov7.runtime.progress import duration_text, is_terminal

if TYPE_CHECKING:
    from yolov7.data.image_set import ImageSet
    from yolov7.engine.log import EpochRecord
    from yolov7.engine.trainer import Trainer

WIDTH = 80  # columns that everything fits into, where it can
LABEL = 10  # columns of what stands before a line of the head
HEADER_EVERY = 20  # epochs
MAX_NAME, MAX_NAMES = 24, 12  # of classes: characters of one in the table, and how many the head lists
MAX_ROWS = 100  # classes in the table at the end

# --- before ------------------------------------------------------------------------------------------------------


def head_text(trainer: Trainer, decisions: Sequence[Decision] = ()) -> str:
    """What a run is about to do, in about ten lines; all settings stand in ``config.yaml``."""
    config = trainer.config
    sizes = f"{config.train_size} px"
    if config.test_size != config.train_size:
        sizes += f", evaluation at {config.test_size} px"
    rows = [("model", _model_text(trainer)), ("data", _data_text(config.data, trainer.train_set, trainer.val_set)),
            ("classes", _names_text(trainer.val_set.names)), ("size", sizes + ", 0.5 to 1.5 times that in training"
                                                              * config.multi_scale),
            ("device", device_text(trainer.device, config.precision, trainer.processes.world_size)),
            ("steps", steps_text(trainer)), ("warm-up", warm_up_text(trainer)),
            ("results", f"{trainer.folder} (all settings: config.yaml)")]
    if trainer.folder.name == "":  # a dry run has none
        rows.pop()
    text = "\n".join(line for label, value in rows for line in textwrap.wrap(
        f"{label:<{LABEL}}{value}", WIDTH, subsequent_indent=" " * LABEL, break_long_words=False,
        break_on_hyphens=False))
    return f"{text}\n\ndecided:\n{textwrap.indent(decisions_text(decisions), '  ')}" if decisions else text


def _model_text(trainer: Trainer) -> str:
    spec, config = trainer.state.model.spec, trainer.config
    count = sum(parameter.numel() for parameter in trainer.state.model.parameters())
    size = spec.paper.size or spec.image_size
    cost = f", {spec.paper.gflops:g} GFLOPs at {size} px (paper)" if spec.paper.gflops else ""
    start = f"from {config.weights}" if config.weights else "from scratch"
    return f"{spec.name}, {count:,} parameters{cost}, {start}, recipe {config.hyp}"


def _data_text(name: str, train_set: ImageSet, val_set: ImageSet) -> str:
    return (f"{name}: {len(train_set):,} images with {len(train_set.objects):,} objects to train on, "
            f"{len(val_set):,} with {len(val_set.objects):,} to evaluate on")


def _names_text(names: Sequence[str]) -> str:
    rest = f", ... ({len(names) - MAX_NAMES} more)" if len(names) > MAX_NAMES else ""
    return f"{len(names)}: {', '.join(names[:MAX_NAMES])}{rest}"


def device_text(device: torch.device, precision: str, processes: int = 1) -> str:
    """For people: what computes, in which number format, how many of it."""
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} ({device})"
    else:
        name = f"CPU, {torch.get_num_threads()} of {available_cores()} cores" if device.type == "cpu" else str(device)
    return f"{name}, {precision}{f', {processes} processes' if processes > 1 else ''}"


def steps_text(trainer: Trainer) -> str:
    """Epochs, batches and optimizer steps."""
    config, batches = trainer.config, trainer.schedule.batches
    accumulate = max(round(config.nominal_batch / config.batch_size), 1)
    step = f"every {accumulate} batches" if accumulate < batches else "an epoch"
    if accumulate == 1:
        step = "a batch"
    return (f"{config.epochs:,} epochs of {batches:,} batches of {config.batch_size} images, one optimizer step {step} "
            f"(nominal batch {config.nominal_batch}), {config.recipe.optimizer.kind}")


def warm_up_text(trainer: Trainer) -> str:
    """How long the learning rate rises, beside how long the run is."""
    warm_up, total = trainer.schedule.warmup, trainer.schedule.epochs * trainer.schedule.batches
    if not warm_up:
        return "none"
    if warm_up >= total:
        return f"the whole run, {total:,} batches" + f" (the recipe's is longer: {warm_up:,})" * (warm_up > total)
    return f"the first {warm_up:,} of {total:,} batches"


# --- epoch by epoch ----------------------------------------------------------------------------------------------

OF_BOXES = {"precision": ("P", 3), "recall": ("R", 3), "F1": ("F1", 3), "confidence": ("conf", 2), "AP50": ("AP50", 3),
            "AP": ("AP", 3)}  # metrics of bounding boxes, as columns: title and decimals
LEGEND = ("val: the loss on the validation split, sum of its terms; P, R, F1: at the\n"
          "confidence (conf) where F1, averaged over classes, is best; *: best so far")


class EpochTable:
    """A table that grows by a row with each epoch; ``terms`` maps the terms of the loss to their short names."""

    def __init__(self, terms: Mapping[str, str], epochs: int) -> None:
        self.terms, self.epochs = terms, epochs
        self._rows = 0
        self._seconds = 0.0

    def add(self, record: EpochRecord, better: bool, over: bool = False) -> str:
        """The row of an epoch, with a header above it now and then, and the time that is left where there is room."""
        header = self._header(record) + "\n" if self._rows % HEADER_EVERY == 0 else ""
        legend = f"{LEGEND}\n" if self._rows == 0 else ""
        self._rows, self._seconds = self._rows + 1, self._seconds + record.seconds
        row = self._row(record, better)
        left = (self.epochs - record.epoch) * self._seconds / self._rows
        longer = f"{row}, ~{duration_text(left)} left"
        return legend + header + (row if over or len(longer) > _room() else longer)

    def _header(self, record: EpochRecord) -> str:
        losses = [f"{title:>{_width(title)}}" for title in (*self.terms.values(), "val")]
        metrics = [f"{title:>{_width(title, decimals)}}" for title, decimals, _ in _shown_metrics(record)]
        return " ".join([f"{'epoch':>{self._first}} ", *losses, *metrics, "   time"])

    def _row(self, record: EpochRecord, better: bool) -> str:
        total = sum(record.val_losses.values()) if record.val_losses else None
        losses = [_cell(value, _width(title), 4) for title, value in (
            *((short, record.losses.get(name)) for name, short in self.terms.items()), ("val", total))]
        metrics = [_cell(value, _width(title, decimals), decimals)
                   for title, decimals, value in _shown_metrics(record)]
        place = f"{record.epoch}/{self.epochs}"
        skipped = f", {record.skipped} steps skipped" if record.skipped else ""
        return " ".join([f"{place:>{self._first}}{'*' if better else ' '}", *losses, *metrics,
                         f"{duration_text(record.seconds):>7}{skipped}"])

    @property
    def _first(self) -> int:
        return max(2 * len(str(self.epochs)) + 1, len("epoch"))


def _shown_metrics(record: EpochRecord) -> list[tuple[str, int, float | None]]:
    """Title, decimals and value of each column: those of boxes, then a task's own."""
    of_boxes = [(title, decimals, record.metrics.get(name)) for name, (title, decimals) in OF_BOXES.items()]
    others = [(name, 3, value) for name, value in record.metrics.items() if name not in (*OF_BOXES, "AP75")]
    return [*of_boxes, *others]


def _width(title: str, decimals: int = 4) -> int:
    return max(len(title), decimals + 2)


def _cell(value: float | None, width: int, decimals: int) -> str:
    if value is None:
        return f"{'-':>{width}}"
    text = f"{value:.{decimals}f}"
    return f"{text if len(text) <= width else f'{value:.3g}':>{width}}"


def _room() -> float:
    """Columns of a line: a terminal's, elsewhere as many as are needed."""
    if not is_terminal(sys.stdout):
        return float("inf")
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH
    except OSError:
        return WIDTH


# --- behind ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassNumbers:
    """What an epoch found of one class; -1 where it has no objects."""

    name: str
    images: int  # with objects of the class
    objects: int
    precision: float  # at the confidence of the epoch and IoU 0.50
    recall: float  # likewise
    F1: float  # noqa: N815 - likewise
    AP50: float
    AP: float  # noqa: N815 - the metric's name


@dataclass(frozen=True)
class EpochNumbers:
    """What the best epoch of a run found; plain values of it travel in the checkpoint."""

    epoch: int  # 1 is the first
    images: int  # evaluated
    metrics: dict[str, float]
    classes: tuple[ClassNumbers, ...]


def epoch_numbers(epoch: int, evaluation: Evaluation) -> EpochNumbers:
    """The numbers of an epoch (1 is the first), class by class."""
    boxes, point = evaluation.boxes, evaluation.results.get(OperatingPoint.name)
    rows = []
    for index, row in enumerate(boxes.per_class):
        found = point.of_class(index) if isinstance(point, OperatingPointResult) else None
        rows.append(ClassNumbers(row.name, row.images, row.objects, *(found or (-1.0, -1.0, -1.0)), row.AP50, row.AP))
    return EpochNumbers(epoch, boxes.images, evaluation.metrics(), tuple(rows))


def class_numbers(numbers: EpochNumbers) -> Table:
    """The classes of an evaluation as a table for observers; without objects they have no scores."""
    columns = tuple(field.name for field in fields(ClassNumbers))
    rows = [tuple(None if value == -1 else value for value in astuple(row)) for row in numbers.classes]
    return Table(columns, rows)


def numbers_text(numbers: EpochNumbers) -> str:
    """A table by class; of very many classes those with the lowest AP."""
    present = [row for row in numbers.classes if row.objects]
    if not present:
        return ""
    metrics = numbers.metrics
    point = ("P, R and F1 of all at confidence {confidence:.3f}, where the mean F1 is best (IoU 0.50)"
             if metrics.get("F1") else "")
    total = ("all", numbers.images, sum(row.objects for row in present),
             *(metrics.get(name, -1.0) for name in ("precision", "recall", "F1", "AP50", "AP")))
    shown = present if len(present) <= MAX_ROWS else sorted(present, key=lambda row: row.AP)[:MAX_ROWS]
    rows = [(_shortened(row.name), row.images, row.objects, row.precision, row.recall, row.F1, row.AP50, row.AP)
            for row in shown]
    lines = class_table(("images", "objects", "P", "R", "F1", "AP50", "AP"), [total, *rows], ())
    lines += [point.format(**metrics)] if point else []
    if len(shown) < len(present):
        lines.append(f"the {len(shown)} classes of the lowest AP, of {len(present)}")
    absent = [_shortened(row.name) for row in numbers.classes if not row.objects]
    if absent:
        lines += textwrap.wrap(f"without objects, not counted: {_names_text(absent)}", WIDTH)
    return "\n".join(lines)


def task_scores_text(metrics: Mapping[str, float]) -> str:
    """AP and AP50 of masks or key points among the numbers of an epoch, behind those of boxes: '' without any."""
    names = [name.removesuffix("_AP") for name in metrics if name.endswith("_AP")]
    return "".join(f", {score_text(name, metrics[f'{name}_AP'], metrics.get(f'{name}_AP50', -1.0))}" for name in names)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
