"""What a run left in its folder: settings, and the numbers of every epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from yolov7.config import InputError, read_bytes, read_yaml
from yolov7.evaluation.coco import fitness

SETTINGS, NUMBERS = "config.yaml", "results.csv"
MAX_NUMBERS = 256 << 20  # bytes of a results.csv

Epoch = Mapping[str, float]  # a row of ``results.csv``


def read_epochs(folder: Path) -> list[Epoch]:
    """The rows of ``results.csv`` with what is a number in them; none where the file is not there or not whole.

    Raises `InputError` where it is no such table.
    """
    path = folder / NUMBERS
    if not path.is_file():
        return []
    text = read_bytes(path, MAX_NUMBERS).decode("utf-8", "replace")
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise InputError(f"{path}: is no table of epochs ({error})") from None
    if rows and "epoch" not in rows[0]:
        raise InputError(f"{path}: is no table of epochs: the column 'epoch' is missing")
    return [numbers for row in rows if "epoch" in (numbers := _numbers(row))]


def _numbers(row: Mapping[str | None, Any]) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        try:
            number = float(text)
        except (TypeError, ValueError):
            continue
        if name is not None and math.isfinite(number):
            found[name] = number
    return found


@dataclass(frozen=True)
class RunFolder:
    """A training run that lies in a folder, finished or not."""

    path: Path

    @property
    def name(self) -> str:
        """How people call it."""
        return self.path.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the run by name, those of the recipe as ``recipe.loss.box``; raises `InputError`."""
        return dict(_flat(read_yaml(self.path / SETTINGS)))

    @cached_property
    def epochs(self) -> list[Epoch]:
        """The numbers of each epoch."""
        return read_epochs(self.path)

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest fitness, of equal ones the first; None where nothing was measured."""
        return best_of(self.epochs)

    def is_finished(self, epochs: int) -> bool:
        """Whether a training of so many epochs has nothing left to do."""
        done = self.epochs
        return bool(done) and done[-1]["epoch"] >= epochs and (self.path / "weights" / "best.pt").is_file()


def best_of(epochs: list[Epoch]) -> Epoch | None:
    """The row of the highest fitness, of equal ones the first, as a run chooses its best weights."""
    measured = [row for row in epochs if "AP" in row]
    return max(measured, key=fitness_of, default=None)


def fitness_of(row: Epoch) -> float:
    """0.9 AP + 0.1 AP50 of boxes, and of masks or key points where there are some."""
    return sum(fitness(row[name], row.get(f"{name}50", 0.0)) for name in row if name == "AP" or name.endswith("_AP"))


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) and value else [(name, value)]
    return rows
