"""What a training gives to the program that called it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov7.engine.log import LAST_COLUMNS, VALIDATION, EpochRecord
from yolov7.runtime.tables import columns_text, data_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class TrainingRun:
    """A run that has ended: where it lies, what its best epoch reached, and how it went."""

    folder: Path
    best: Path  # weights of the best epoch
    last: Path  # everything to go on from
    best_epoch: int  # 1 is the first
    metrics: dict[str, float]  # of the best epoch
    history: tuple[EpochRecord, ...]  # an epoch each

    def rows(self) -> list[dict[str, Any]]:
        """The history as plain values with the columns of ``results.csv``."""
        return [{"epoch": record.epoch, **record.losses,
                 **{f"{VALIDATION}{name}": value for name, value in record.val_losses.items()}, **record.metrics,
                 **{name: getattr(record, name) for name in LAST_COLUMNS}} for record in self.history]

    def to_pandas(self) -> pandas.DataFrame:
        """The history as a table of pandas, an epoch a row."""
        return data_frame(self.rows())

    def __repr__(self) -> str:
        reached = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return f"{columns_text(self.rows())}\nbest epoch {self.best_epoch}: {reached} ({self.best})"

    def _repr_png_(self) -> bytes | None:
        """The curves, in notebooks."""
        plot = self.folder / "results.png"
        return plot.read_bytes() if plot.is_file() else None
