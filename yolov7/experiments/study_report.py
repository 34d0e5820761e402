"""What a study has found: a table of its trials, the best recipe, which keys matter, and a page with all of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov7.config import atomic_write, override
from yolov7.config.program import words_of
from yolov7.config.recipe import Recipe
from yolov7.engine.run_config import settings_text
from yolov7.experiments.search_space import split
from yolov7.experiments.studies import StudyFolder
from yolov7.pages import Chart, DataTable, Facts, Page, Section, write_page
from yolov7.pages.charts import bars_chart, curves_chart, points_chart
from yolov7.pages.style import to_png
from yolov7.runtime.tables import Table, columns_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

TRIALS, RECIPE, PAGE, IMPORTANCE = "trials.csv", "best.yaml", "index.html", "importance.png"
MIN_FOR_IMPORTANCE = 4  # finished trials
SHOWN = 10  # trials on the screen


@dataclass(frozen=True, repr=False)
class StudyResult(Table):
    """A study: a row for each trial, the best one, and its recipe."""

    folder: Path
    best: int | None  # number of the best trial
    recipe: Path  # of the best trial
    importance: Mapping[str, float]  # of each key, sum 1; empty where too few trials have been finished

    def __repr__(self) -> str:
        ranked = sorted((row for row in self.rows if row["fitness"] is not None), key=lambda row: -row["fitness"])
        shown = [{key: row[key] for key in ("trial", "state", "epochs", "fitness")} for row in ranked[:SHOWN]]
        keys = "\n".join(f"  {name:28}{share:.2f}" for name, share in self.importance.items())
        return "\n".join([columns_text(shown), *([f"importance of the keys:\n{keys}"] if keys else []),
                          f"best trial {self.best}, its recipe: {self.recipe}", f"page: {self.folder / PAGE}"])


def write_table(study: StudyFolder, recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """Write the trials so far as CSV, and the best recipe as YAML; ``recipe`` is that of the study's start."""
    rows = tuple(_row(trial) for trial in study.trials())
    if rows:
        atomic_write(study.folder / TRIALS, Table(rows).to_csv())
    if best := study.best():
        flags, changes = split(best.params)
        note = f"# Trial {best.number} of {study.folder.name}: {best.value:.4f}.\n"
        note += f"# Flags that belong to it: {' '.join(words_of(flags))}\n" if flags else ""
        atomic_write(study.folder / RECIPE, note + settings_text(override(recipe, changes)))
    return rows


def write_report(study: StudyFolder, recipe: Recipe) -> StudyResult:
    """Write all that there is to say of a study."""
    with study.lock():
        rows = write_table(study, recipe)
        best = study.best()
        found = importance(study)
        result = StudyResult(rows, study.folder, best.number if best else None, study.folder / RECIPE, found)
        charts = _charts(study, found)
        if found:
            atomic_write(study.folder / IMPORTANCE, to_png(bars_chart("Importance", found).figure))
        facts: dict[str, Any] = {"trials": len(rows), "finished": study.count("COMPLETE"),
                                 "pruned": study.count("PRUNED"), "failed": study.count("FAIL")}
        facts |= {"best trial": best.number, "best fitness": best.value} if best else {}
        marked = [best.number] if best else []
        write_page(study.folder / PAGE, Page(f"Study {study.folder.name}", [
            Section("Result", [Facts(facts), *charts]), Section("Trials", [DataTable(rows, marked=marked)])]))
    return result


def importance(study: StudyFolder) -> dict[str, float]:
    """How much each key matters for being among the best, from high to low (PED-ANOVA); {} of too few trials."""
    optuna = study.optuna
    if study.count("COMPLETE") < MIN_FOR_IMPORTANCE:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:  # trials that are all alike
        logger.info("the importance of the keys cannot be told: %s", error)
        return {}
    return {str(name): float(share) for name, share in found.items() if math.isfinite(share)}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    steps = trial.intermediate_values
    fitness = trial.value if trial.state.name == "COMPLETE" else max(steps.values(), default=None)
    seconds = trial.duration.total_seconds() if trial.duration else None
    return {"trial": trial.number, "state": trial.state.name.lower(), "epochs": max(steps, default=0),
            "fitness": fitness, "seconds": seconds, **trial.params, "reason": trial.user_attrs.get("reason", "")}


def _charts(study: StudyFolder, found: Mapping[str, float]) -> list[Chart]:
    finished = study.trials("COMPLETE")
    points = [(trial.number, float(trial.value or 0)) for trial in finished]
    best = [(number, max(value for _, value in points[: place + 1])) for place, (number, _) in enumerate(points)]
    curves = {f"trial {trial.number}": sorted(trial.intermediate_values.items())
              for trial in sorted(study.trials(), key=lambda trial: -(_row(trial)["fitness"] or 0))}
    return [points_chart("Fitness of finished trials", points, best, "trial", "fitness"),
            *([bars_chart("Importance of the keys", found, axis="share")] if found else []),
            curves_chart("Fitness over epochs, the best trials first", curves)]
