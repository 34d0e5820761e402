"""``compare``: runs side by side as text, CSV and a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov7.config import InputError, atomic_write
from yolov7.config.experiment_options import CompareOptions
from yolov7.engine.log import LAST_COLUMNS, VALIDATION
from yolov7.experiments.compare_runs import Runs, find_runs, losses_among
from yolov7.pages import DataTable, Page, Section, write_page
from yolov7.pages.charts import curves_chart
from yolov7.runtime import folders
from yolov7.runtime.progress import Progress
from yolov7.runtime.tables import Table, columns_text

logger = logging.getLogger(__name__)

PAGE = "index.html"


@dataclass(frozen=True, repr=False)
class RunComparison(Table):
    """A row for each run: settings that differ, metrics of its best epoch, times."""

    folder: Path
    page: Path


def compare(options: CompareOptions) -> RunComparison:
    """Compare training runs; writes ``runs.csv``, ``curves.csv`` and ``index.html``."""
    if not options.runs:
        raise InputError("RUNS are missing; accepted: folders of runs, or folders in which runs lie")
    runs = Runs(find_runs(options.runs))
    rows = tuple(Progress(runs.rows(), "runs", len(runs.runs), "runs"))
    folder = folders.new_folder(options.project, options.name, options.exist_ok)
    atomic_write(folder / "runs.csv", Table(rows).to_csv())
    atomic_write(folder / "curves.csv", runs.curves_csv())
    write_page(folder / PAGE, page_of(runs, rows))
    if runs.different:
        logger.info("what differs:\n%s\n", columns_text(runs.settings_table()))
    else:
        logger.info("no setting differs\n")
    logger.info("%s\n\nAP by epoch:\n%s", columns_text(runs.numbers(rows)), columns_text(runs.curve_table()))
    if groups := runs.groups(rows):
        logger.info("\nruns that differ in their seed alone:\n%s", columns_text(groups))
    logger.info("\npage: %s", folder / PAGE)
    return RunComparison(rows, folder, folder / PAGE)


def page_of(runs: Runs, rows: Sequence[dict[str, Any]]) -> Page:
    """All of it as a page."""
    measured = [(row["AP"], -place) for place, row in enumerate(rows) if row.get("AP") is not None]
    best = [-max(measured)[1]] if measured else []
    sections = [Section("Results", [DataTable(runs.numbers(rows), marked=best, note="Metrics of the best epoch by the "
                                              "run's own choice; the highest AP is bold.")])]
    if groups := runs.groups(rows):
        sections.append(Section("Seeds", [DataTable(groups)], "Runs that differ in their seed alone."))
    sections.append(Section("Settings that differ", [DataTable(runs.settings_table())]) if runs.different else
                    Section("Settings that differ", [], "None."))
    losses = losses_among(runs.columns)
    for title, keys in (("Metrics", [key for key in runs.columns if key not in (*losses, *LAST_COLUMNS)]),
                        ("Loss, by its terms", losses),
                        ("Learning rate and time", [key for key in runs.columns if key in LAST_COLUMNS])):
        charts = [curves_chart(key.replace(VALIDATION, "validation: "), runs.curves(key)) for key in keys]
        if charts:
            sections.append(Section(title, charts))
    return Page(f"{len(runs.runs)} runs compared", sections)
