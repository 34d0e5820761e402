"""The record of a run: ``results.csv``, a plot of the curves, what observers are told; and how fast it goes.

Nothing here may break a run: every sink stands alone, and its first failure is reported once as a warning.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from yolov7.config import atomic_write
from yolov7.engine.observers import Observers
from yolov7.engine.sheets import write_image
from yolov7.evaluation.coco import fitness

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
import time

import torch

from yolov7.pages.style import COLOURS, GREY, entitle, new_figure, quiet_axes, to_png
from yolov7.runtime.memory import used_memory
from yolov7.runtime.progress import duration_text
from yolov7.structures import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``results.csv``: epoch, terms of the loss, metrics, and what follows."""

    epoch: int  # 1 is the first
    losses: dict[str, float]  # the terms of the loss, means over the epoch
    metrics: dict[str, float]  # of the evaluation
    lr: float
    seconds: float  # of the whole epoch, evaluation included
    skipped: int = 0  # steps that were left out, as loss or gradient was not finite
    val_losses: dict[str, float] = field(default_factory=dict)  # the same terms on the validation split, where measured


OPERATING_POINT = ("precision", "recall", "F1", "confidence")
METRICS = ("AP", "AP50", "AP75", *OPERATING_POINT)
VALIDATION = "val_"  # what the columns of the loss on the validation split begin with
LAST_COLUMNS = ("lr", "seconds", "skipped")
TERMS = {"box": "box", "objectness": "obj", "classification": "cls"}  # of a detector, with their short names


class RunLog:
    """Writes what happens into the run's folder, ``results.csv`` and, at the end, ``results.png``, and tells observers.

    With ``resume_epoch``, the last epoch that the run goes on from, what was recorded after it is dropped, and its own
    record ``last`` is added where the run was killed before; without, the record starts anew. No method raises. Best
    used in a ``with`` statement.
    """

    def __init__(self, folder: str | Path, resume_epoch: int | None = None,
                 terms: Mapping[str, str] = MappingProxyType(TERMS), last: EpochRecord | None = None,
                 observers: Observers | None = None) -> None:
        self.folder, self.terms = Path(folder), terms
        self.observers = observers or Observers({})
        self.best: int | None = None  # the epoch that the plot marks
        self._failed: set[str] = set()
        self._records: list[EpochRecord] = []
        with self._isolated("results.csv"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume_epoch is not None and self.csv_path.is_file():
                self._records = [r for r in read_results(self.csv_path, tuple(self.terms)) if r.epoch <= resume_epoch]
            self._write_csv()
        if last and last.epoch == resume_epoch and last.epoch not in {record.epoch for record in self._records}:
            self.add_epoch(last)

    @property
    def csv_path(self) -> Path:
        """Where the numbers stand."""
        return self.folder / "results.csv"

    @property
    def plot_path(self) -> Path:
        """Where the curves will stand."""
        return self.folder / "results.png"

    def add_epoch(self, record: EpochRecord) -> None:
        """Record one epoch; an earlier record of the same epoch gives way."""
        with self._isolated("results.csv"):
            self._records = [r for r in self._records if r.epoch < record.epoch] + [record]
            self._write_csv()
        values = {f"train/{self.terms.get(name, name)}_loss": value for name, value in record.losses.items()}
        values |= {f"val/{self.terms.get(name, name)}_loss": value for name, value in record.val_losses.items()}
        values |= {f"metrics/{name}": value for name, value in record.metrics.items()}
        values |= {"x/lr": record.lr, "x/skipped_steps": record.skipped}
        self.observers.tell("epoch_done", record, values)

    def add_image(self, name: str | None, make: Callable[[], np.ndarray], tag: str | None, epoch: int) -> None:
        """Draw an image (uint8 ``[H, W, 3]`` RGB) into the file ``name``, and for the observers under ``tag``."""
        image: np.ndarray | None = None
        with self._isolated(name or "images"):
            image = make()
            if name:
                write_image(self.folder / name, image)
        if tag and image is not None:
            self.observers.tell("image_drawn", tag, image, epoch)

    def close(self) -> None:
        """Draw the curves and let the observers finish; more calls do nothing but draw."""
        self.observers.close()
        with self._isolated("results.png"):
            if self._records:
                plot_results(self.csv_path, self.plot_path, tuple(self.terms), self.best)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _write_csv(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        metrics = list(dict.fromkeys(name for record in self._records for name in record.metrics)) or list(METRICS)
        writer.writerow(["epoch", *self.terms, *(VALIDATION + name for name in self.terms), *metrics, *LAST_COLUMNS])
        writer.writerows([str(r.epoch), *(_cell(r.losses.get(name)) for name in self.terms),
                          *(_cell(r.val_losses.get(name)) for name in self.terms),
                          *(_cell(r.metrics.get(name)) for name in metrics),
                          *(_cell(getattr(r, name)) for name in LAST_COLUMNS)] for r in self._records)
        atomic_write(self.csv_path, text.getvalue())

    @contextmanager
    def _isolated(self, sink: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if sink not in self._failed:
                reason = f"{type(error).__name__}: {error}"
                logger.warning("%s: cannot be written (%s); the run goes on", self.folder / sink, reason)
            self._failed.add(sink)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def read_results(path: str | Path, terms: Sequence[str] = tuple(TERMS)) -> list[EpochRecord]:
    """The epochs of a ``results.csv``, in the order of the file; lines that cannot be read are left out and told.

    ``terms`` are the columns of the loss; those of the loss on the validation split, which earlier versions did not
    write, begin with ``val_``; the others between the first and the last three are metrics.
    """
    records = []
    with open(path, newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream), start=2):
            try:
                records.append(_record(row, terms))
            except (KeyError, TypeError, ValueError):
                logger.warning("%s, line %d: is not a record of an epoch, left out", path, line)
    return records


def _record(row: dict[str, str], terms: Sequence[str]) -> EpochRecord:
    of_validation = {name: VALIDATION + name for name in terms}
    metrics = [name for name in row if name not in ("epoch", *terms, *of_validation.values(), *LAST_COLUMNS)]
    return EpochRecord(int(row["epoch"]), {name: float(row[name]) for name in terms},
                       {name: float(row[name]) for name in metrics if row[name] != ""}, float(row["lr"]),
                       float(row["seconds"]), int(row["skipped"]),
                       {name: float(row[column]) for name, column in of_validation.items() if row.get(column)})


def complete_record(folder: Path, terms: Mapping[str, str], last: EpochRecord | None, best: int | None) -> None:
    """Make up for what a kill behind the last checkpoint of a run left undone: the last row, and the curves."""
    path = folder / "results.csv"
    try:
        recorded = {record.epoch for record in read_results(path, tuple(terms))} if path.is_file() else set()
        if last and last.epoch not in recorded:
            with RunLog(folder, last.epoch, terms, last) as log:
                log.best = best
        elif recorded:
            plot_results(path, folder / "results.png", tuple(terms), best)
    except Exception as error:
        logger.warning("%s: the record cannot be completed (%s: %s)", folder, type(error).__name__, error)


# --- curves ----------------------------------------------------------------------------------------------------

BLUE, ORANGE, *_ = COLOURS
FEW_CURVES = 6  # of detection: three, a line at 0 and a mark, which leave room for their legend
PLACES = {"left": 0.046, "right": 0.992, "bottom": 0.075, "top": 0.9, "wspace": 0.16, "hspace": 0.37}  # 7 digits


def plot_results(csv_path: str | Path, png_path: str | Path, terms: Sequence[str] = tuple(TERMS),
                 best: int | None = None) -> None:
    """Draw losses, metrics, learning rate and time of every epoch in ``results.csv`` as a PNG.

    The epoch ``best`` is marked; by default the first one of the highest fitness.
    """
    records = read_results(csv_path, terms)
    figure, panels = new_figure(15.5, 7.2, columns=3, rows=2, places=PLACES)
    (losses, metrics, point), (total, rate, seconds) = panels[:3], panels[3:]
    figure.suptitle(Path(csv_path).absolute().parent.name, fontsize=13, fontweight="bold", parse_math=False)
    _draw_losses(losses, total, records, terms)
    names = list(dict.fromkeys(name for r in records for name in r.metrics)) or list(METRICS)
    points = {name: [(r.epoch, r.metrics[name]) for r in records if name in r.metrics] for name in names}
    ranked = {name: points.pop(name) for name in names if name not in OPERATING_POINT}
    _curves(metrics, ranked, (ORANGE, BLUE, *COLOURS[2:]))
    entitle(metrics, "Average precision on the validation split" if set(ranked) <= {"AP", "AP50", "AP75"} else
            "Metrics on the validation split")
    marked = _mark_best(metrics, records, best)
    for axes in (losses, point, total) if marked is not None else ():
        axes.axvline(marked or 0, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    _curves(point, points, COLOURS)
    entitle(point, "Where F1 is best on the validation split (IoU 0.50)")
    _curves(rate, {"lr": [(r.epoch, r.lr) for r in records]}, (GREY,))
    rate.set_title("Learning rate", loc="left")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 4))
    _curves(seconds, {"seconds": [(r.epoch, r.seconds) for r in records]}, (GREY,))
    seconds.set_title(f"Seconds per epoch, {duration_text(sum(r.seconds for r in records))} in all", loc="left")
    atomic_write(png_path, to_png(figure))


def _draw_losses(losses: Axes, total: Axes, records: Sequence[EpochRecord], terms: Sequence[str]) -> None:
    """Each term, and their sum, on both splits."""
    _curves(losses, {name: [(r.epoch, r.losses[name]) for r in records] for name in terms}, COLOURS)
    measured = [r for r in records if r.val_losses]
    if measured:
        of_validation = {f"_{name}": [(r.epoch, r.val_losses[name]) for r in measured if name in r.val_losses]
                         for name in terms}  # names like this have no place in a legend
        _curves(losses, of_validation, COLOURS, style="--")
    losses.set_title("Terms of the loss" + ", dashed: validation" * bool(measured), loc="left")
    sums = {"training": [(r.epoch, sum(r.losses.values())) for r in records],
            "validation": [(r.epoch, sum(r.val_losses.values())) for r in measured]}
    _curves(total, {name: points for name, points in sums.items() if points or name == "training"}, COLOURS)
    total.set_title("Loss, sum of the terms", loc="left")


def _curves(axes: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], colours: Sequence[str],
            style: str = "-") -> None:
    from matplotlib.ticker import MaxNLocator

    for (name, points), colour in zip(curves.items(), itertools.cycle(colours)):
        marker = "o" if len(points) < 40 else ""
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, label=name,
                  linewidth=1.8, linestyle=style, marker=marker, markersize=3.5)
    axes.axhline(0, linewidth=0)  # the margin above follows from the height, not from the spread
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=GREY)
    quiet_axes(axes)
    if len(curves) > 1:
        axes.legend(frameon=False)


def _mark_best(axes: Axes, records: Sequence[EpochRecord], best: int | None) -> int | None:
    """The epoch that was marked."""
    evaluated = {r.epoch: r.metrics for r in records if "AP" in r.metrics}
    if not evaluated:
        return None
    if best not in evaluated:
        best = max(evaluated, key=lambda epoch: fitness(evaluated[epoch]["AP"], evaluated[epoch].get("AP50", 0)))
    name = next((name for name in reversed(evaluated[best]) if name.endswith("_AP")), "AP")  # what the task adds
    value = evaluated[best][name]
    axes.plot([best], [value], "o", color=ORANGE, markersize=8, markerfacecolor="none", markeredgewidth=1.8,
              label=f"best epoch {best}: {name} {value:.3f}")
    if len(axes.get_lines()) <= FEW_CURVES:
        axes.legend(frameon=False)
    else:  # there is no free place among those of a task: it is made above them
        axes.set_ylim(0, 1.55 * axes.get_ylim()[1])
        axes.legend(frameon=False, ncols=2, loc="upper left", fontsize=8.5, columnspacing=1.0)
    return best


class Pace:
    """Wraps the batches of an epoch and measures what lies between them; nothing here waits for the device."""

    def __init__(self, batches: Iterable[Batch], processes: int = 1) -> None:
        self.batches, self.processes = batches, processes
        self.images = 0
        self.waited = 0.0  # seconds
        self._started = time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        self._started = asked = time.perf_counter()
        for batch in self.batches:
            self.waited += time.perf_counter() - asked
            yield batch
            self.images += len(batch.images) * self.processes
            asked = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first batch was asked for."""
        return time.perf_counter() - self._started

    def numbers(self, device: torch.device) -> dict[str, float]:
        """Images a second of all processes, share of waiting, and this one's memory."""
        seconds = max(self.seconds, 1e-9)
        return {"images_per_second": self.images / seconds, "data_share": self.waited / seconds,
                "memory_gib": used_memory(device) / 2**30}


def pace_text(found: Mapping[str, float]) -> dict[str, str]:
    """`Pace.numbers` for a progress bar."""
    return {"img/s": f"{found['images_per_second']:.1f}", "data": f"{100 * found['data_share']:.0f}%",
                "mem": f"{found['memory_gib']:.1f}G"}


def step_values(losses: Mapping[str, float], lr: float, gradient_norm: torch.Tensor | None,
                speed: Mapping[str, float]) -> dict[str, float]:
    """What observers are told of a step, by names: terms of the loss by their short names, and `Pace.numbers`."""
    values = {f"{name}_loss": value for name, value in losses.items()} | {"lr": lr, **speed}
    if gradient_norm is not None:
        values["gradient_norm"] = float(gradient_norm)
    return {f"step/{name}": value for name, value in values.items()}
