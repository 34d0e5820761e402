"""The record of a run: ``results.csv``, TensorBoard and a picture of the curves.

Nothing here may break a run: every sink stands alone, and its first failure is told once as a warning.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from yolov7.config import write_atomically
from yolov7.engine.pictures import write_picture

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``results.csv``; the fields are its columns."""

    epoch: int  # 1 is the first
    box: float  # the three loss terms, means over the epoch
    objectness: float
    classification: float
    AP: float | None  # None: not evaluated in this epoch
    AP50: float | None
    AP75: float | None
    lr: float
    seconds: float  # of the whole epoch, evaluation included
    skipped: int = 0  # steps that were left out, as loss or gradient was not finite


COLUMNS = tuple(field.name for field in fields(EpochRecord))
TAGS = {  # TensorBoard's names of the columns
    "box": "train/box_loss",
    "objectness": "train/obj_loss",
    "classification": "train/cls_loss",
    "AP": "metrics/AP",
    "AP50": "metrics/AP50",
    "AP75": "metrics/AP75",
    "lr": "x/lr",
    "skipped": "x/skipped_steps",
}


class RunLog:
    """Writes what happens into the run's folder: ``results.csv``, TensorBoard events and, at the end, ``results.png``.

    With ``resume_epoch``, the last epoch that the run goes on from, what was recorded after it is dropped; without,
    the record starts anew. No method raises. Best used in a ``with`` statement.
    """

    def __init__(self, folder: str | Path, resume_epoch: int | None = None) -> None:
        self.folder = Path(folder)
        self._failed: set[str] = set()
        self._records: list[EpochRecord] = []
        self._writer: SummaryWriter | None = None
        with self._isolated("results.csv"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume_epoch is not None and self.csv_path.exists():
                self._records = [r for r in read_results(self.csv_path) if r.epoch <= resume_epoch]
            self._write_csv()
        with self._isolated("TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter

            # hides the steps of an earlier or interrupted run in the same folder
            self._writer = SummaryWriter(str(self.folder), purge_step=0 if resume_epoch is None else resume_epoch + 1)

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
        values = {tag: getattr(record, name) for name, tag in TAGS.items()}
        with self._isolated("TensorBoard"):
            if self._writer is None:
                return
            for tag in [tag for tag, value in values.items() if value is not None]:
                self._writer.add_scalar(tag, values[tag], record.epoch)
            self._writer.flush()

    def add_picture(self, name: str | None, make: Callable[[], np.ndarray], tag: str | None, epoch: int) -> None:
        """Draw a picture (uint8 ``[H, W, 3]`` RGB) into the file ``name``, and into TensorBoard under ``tag``."""
        picture: np.ndarray | None = None
        with self._isolated(name or "pictures"):
            picture = make()
            if name:
                write_picture(self.folder / name, picture)
        with self._isolated("TensorBoard"):
            if self._writer is not None and tag and picture is not None:
                self._writer.add_image(tag, picture, epoch, dataformats="HWC")

    def close(self) -> None:
        """Draw the curves and close the event file; more calls do nothing."""
        with self._isolated("TensorBoard"):
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
        with self._isolated("results.png"):
            if self._records:
                plot_results(self.csv_path, self.plot_path)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write_csv(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in asdict(record).values()] for record in self._records)
        write_atomically(self.csv_path, text.getvalue())

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


def read_results(path: str | Path) -> list[EpochRecord]:
    """The epochs of a ``results.csv``, in the order of the file; lines that cannot be read are left out and told."""
    records = []
    with open(path, newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream), start=2):
            try:
                records.append(_record(row))
            except (KeyError, TypeError, ValueError):
                logger.warning("%s, line %d: is not a record of an epoch, left out", path, line)
    return records


def _record(row: dict[str, str]) -> EpochRecord:
    optional = ("AP", "AP50", "AP75")
    values = {name: None if name in optional and row[name] == "" else float(row[name]) for name in COLUMNS[1:]}
    values["skipped"] = int(row["skipped"])
    return EpochRecord(int(row["epoch"]), **values)  # type: ignore[arg-type]  # None only where optional


# --- curves ----------------------------------------------------------------------------------------------------

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # told apart by colour-blind eyes, too


def plot_results(csv_path: str | Path, png_path: str | Path) -> None:
    """Draw the loss terms, AP, learning rate and time of every epoch in ``results.csv`` as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    records = read_results(csv_path)
    figure = Figure(figsize=(11, 7.2), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    FigureCanvasAgg(figure)  # draws without a display and leaves the user's backend alone
    figure.suptitle(Path(csv_path).absolute().parent.name, fontsize=13, fontweight="bold", parse_math=False)
    losses, metrics, rate, seconds = figure.subplots(2, 2).flat
    _curves(losses, records, {"box": BLUE, "objectness": ORANGE, "classification": GREEN})
    losses.set_title("Loss, mean of the epoch", loc="left")
    _curves(metrics, records, {"AP": ORANGE, "AP50": BLUE, "AP75": GREEN})
    metrics.set_title("Average precision on the validation split", loc="left")
    _mark_best(metrics, records)
    _curves(rate, records, {"lr": GREY})
    rate.set_title("Learning rate", loc="left")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 4))
    _curves(seconds, records, {"seconds": GREY})
    seconds.set_title(f"Seconds per epoch, {duration_text(sum(r.seconds for r in records))} in all", loc="left")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(png_path, image.getvalue())


def _curves(axes: Axes, records: Sequence[EpochRecord], colours: dict[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, colour in colours.items():
        points = [(r.epoch, getattr(r, name)) for r in records if getattr(r, name) is not None]
        marker = "o" if len(points) < 40 else ""
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, label=name,
                  linewidth=1.8, marker=marker, markersize=3.5)
    axes.axhline(0, linewidth=0)  # the margin above follows from the height, not from the spread
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=GREY)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(colours) > 1:
        axes.legend(frameon=False)


def _mark_best(axes: Axes, records: Sequence[EpochRecord]) -> None:
    evaluated = [(r.AP, r.epoch) for r in records if r.AP is not None]
    if evaluated:
        value, epoch = max(evaluated, key=lambda pair: (pair[0], -pair[1]))
        axes.plot([epoch], [value], "o", color=ORANGE, markersize=8, markerfacecolor="none", markeredgewidth=1.8,
                  label=f"best AP {value:.3f}, epoch {epoch}")
        axes.legend(frameon=False)


def duration_text(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if not seconds < 3600:  # hours, or not a number
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
