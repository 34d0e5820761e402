"""Runs side by side: what their settings have otherwise, what they reached, how long they took, and their curves."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from yolov7.config import InputError
from yolov7.config.errors import shown
from yolov7.engine.log import LAST_COLUMNS, VALIDATION
from yolov7.experiments.processes import UNIMPORTANT
from yolov7.experiments.run_folders import NUMBERS, SETTINGS, RunFolder
from yolov7.runtime.progress import duration_text
from yolov7.runtime.tables import Table, mean_and_deviation

MAX_RUNS, MAX_FOLDERS, MAX_DEPTH = 500, 20_000, 4
SEED = "seed"
IDLE = ("device", *UNIMPORTANT)  # settings that change nothing of what comes out
SHOWN_EPOCHS = 10  # rows of the curves as text
NOT_SET = "-"  # a setting that a run does not have


def find_runs(given: Sequence[str]) -> list[RunFolder]:
    """The runs that are meant: folders with a ``results.csv``, and those in which such folders lie; raises
    `InputError`.
    """
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        inside = [path.parent] if path.name == NUMBERS else [path.parent.parent] if path.suffix == ".pt" else [path]
        below = [folder for start in inside for folder in _runs_below(start)]
        if not below:
            raise InputError(f"RUNS: {shown(text)} {'holds no run' if path.exists() else 'is not there'}; accepted: a "
                             f"folder with {NUMBERS}, or one in which such folders lie")
        found |= dict.fromkeys(below)
    if len(found) > MAX_RUNS:
        raise InputError(f"RUNS: found {len(found)} runs; accepted: at most {MAX_RUNS}")
    return [RunFolder(path) for path in found]


def _runs_below(start: Path) -> Iterator[Path]:
    for count, (folder, children, files) in enumerate(os.walk(start)):
        if NUMBERS in files:
            yield Path(folder)
            children.clear()
        if count > MAX_FOLDERS or len(Path(folder).relative_to(start).parts) >= MAX_DEPTH:
            children.clear()
        children.sort()


class Runs:
    """Runs with names that tell them apart."""

    def __init__(self, runs: Sequence[RunFolder]) -> None:
        paths = [Path(os.path.abspath(run.path)) for run in runs]
        shared = Path(os.path.commonpath([path.parent for path in paths]))
        self.runs = {str(path.relative_to(shared)): run for path, run in zip(paths, runs, strict=True)}

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Of each run that has noted them."""
        return {name: run.settings if (run.path / SETTINGS).is_file() else {} for name, run in self.runs.items()}

    @cached_property
    def different(self) -> list[str]:
        """The settings that not all runs have alike."""
        names = dict.fromkeys(key for settings in self.settings.values() for key in settings)
        return [name for name in names
                if len({repr(settings.get(name, NOT_SET)) for settings in self.settings.values()}) > 1]

    def settings_table(self) -> list[dict[str, Any]]:
        """A row for each setting that differs, a column for each run."""
        found = self.settings.items()
        return [{"setting": key, **{name: _text(settings.get(key, NOT_SET)) for name, settings in found}}
                for key in self.different]

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each run, of plain values."""
        for name, run in self.runs.items():
            best, epochs = run.best or {}, run.epochs
            seconds = [row["seconds"] for row in epochs if "seconds" in row]
            yield {"run": name, **{key: _text(self.settings[name].get(key, NOT_SET)) for key in self.different},
                   "epochs done": len(epochs), "best epoch": int(best["epoch"]) if best else None,
                   **{key: value for key, value in best.items() if key not in ("epoch", *LAST_COLUMNS)},
                   "last AP": epochs[-1].get("AP") if epochs else None,
                   "skipped steps": int(epochs[-1].get("skipped", 0)) if epochs else None,
                   "seconds": sum(seconds), "seconds an epoch": statistics.median(seconds) if seconds else None}

    def numbers(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows without settings and losses, times for people."""
        losses = losses_among(list(dict.fromkeys(key for row in rows for key in row)))
        return [{**{key: value for key, value in row.items() if key not in (*self.different, *losses, "seconds")},
                 "time": duration_text(row["seconds"])} for row in rows]

    def groups(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Mean and standard deviation of runs that differ in nothing but their seed."""
        alike: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            settings = {key: value for key, value in self.settings[row["run"]].items()
                        if key not in (SEED, *IDLE)}
            if settings:
                alike.setdefault(repr(sorted(settings.items())), []).append(row)
        result = []
        for members in (group for group in alike.values() if len(group) > 1):
            row = {"runs": members[0]["run"] + f" and {len(members) - 1} more", "seeds": len(members)}
            for key in ("AP", "AP50", "AP75"):
                values = [member[key] for member in members if member.get(key) is not None]
                row[key], row[f"{key} deviation"] = mean_and_deviation(values)
            result.append(row)
        return result

    def curve_table(self) -> list[dict[str, Any]]:
        """AP over some epochs, a column for each run."""
        curves = {name: dict(points) for name, points in self.curves("AP").items()}
        epochs = sorted({epoch for points in curves.values() for epoch in points})
        step = -(-len(epochs) // SHOWN_EPOCHS) or 1
        shown_epochs = sorted({*epochs[step - 1 :: step], *epochs[-1:]})
        return [{"epoch": int(epoch), **{name: points.get(epoch) for name, points in curves.items()}}
                for epoch in shown_epochs]

    def curves_csv(self) -> str:
        """Every epoch of every run, with all columns that any of them has."""
        return Table(tuple({"run": name, **epoch} for name, run in self.runs.items() for epoch in run.epochs)).to_csv()

    @property
    def columns(self) -> list[str]:
        """What is known of epochs, of any of the runs."""
        return list(dict.fromkeys(key for run in self.runs.values() for epoch in run.epochs for key in epoch
                                  if key != "epoch"))

    def curves(self, column: str) -> dict[str, list[tuple[float, float]]]:
        """A column of every run that has it, over its epochs."""
        found = {name: [(row["epoch"], row[column]) for row in run.epochs if column in row]
                 for name, run in self.runs.items()}
        return {name: points for name, points in found.items() if points}


def losses_among(columns: Sequence[str]) -> list[str]:
    """The terms of the loss among columns, on both splits."""
    return [key for key in columns if f"{VALIDATION}{key}" in columns or key.startswith(VALIDATION)]


def _text(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)
