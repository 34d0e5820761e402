"""The paper's ablations: every row of a table trained with every seed, and measured beside what was published."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov7.config import InputError, RunError, atomic_write
from yolov7.config.experiment_options import AblationOptions
from yolov7.config.options import TestOptions
from yolov7.config.program import saying_how_to_go_on
from yolov7.engine.speed import table10
from yolov7.experiments.ablation_plan import Plan
from yolov7.experiments.jobs import run_list
from yolov7.experiments.paper_tables import TABLES, PaperRow
from yolov7.experiments.processes import places
from yolov7.experiments.run_folders import RunFolder
from yolov7.model.summary import model_cost
from yolov7.pages import DataTable, Facts, Page, Section, write_page
from yolov7.pages.charts import bars_chart
from yolov7.runtime.tables import Table, columns_text, mean_and_deviation

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75")
EVALUATED = "table10"

BySeed = Mapping[int, Mapping[str, float]]  # metrics of the training with a seed


@dataclass(frozen=True, repr=False)
class AblationTable(Table):
    """What was measured, a row for each of the paper's; empty after ``--dry-run``."""

    folder: Path


def run_ablation(options: AblationOptions) -> AblationTable:
    """Train what is not trained yet, and write the table as text, CSV, JSON and a page; raises `RunError` where a
    training has failed.
    """
    if options.table is None:
        raise InputError(f"TABLE is missing; accepted: {', '.join(TABLES)}")
    plan = Plan(options)
    run_places = places(options.devices, options.devices_per_run)
    jobs = [plan.job(row, seed) for row in plan.distinct_rows for seed in plan.seeds]
    logger.info("%s: %s, %d trainings of %d epochs on %s, in %s", options.table, plan.table.title, len(jobs),
                jobs[0].epochs, plan.data, plan.folder)
    if options.dry_run:
        logger.info("%s", columns_text([{"training": job.label, "finished": "yes" if job.is_finished() else "no"}
                                        for job in jobs]))
        return AblationTable((), plan.folder)
    plan.write_models()
    with saying_how_to_go_on("ablation", options):
        failed = run_list(jobs, run_places, options.table)
    table = AblationTable(tuple(measured(plan)), plan.folder)
    _write(plan, table)
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} trainings have failed: {', '.join(failed)}; the same command "
                       "goes on with them")
    return table


def measured(plan: Plan) -> list[dict[str, Any]]:
    """What came out, row by row; of rows whose trainings have failed nothing."""
    is_evaluated = plan.options.table == EVALUATED
    runs = {} if is_evaluated else {row.name: _of_runs(plan, row) for row in plan.rows}
    by_row: Mapping[str, BySeed] = _evaluated(plan) if is_evaluated else runs
    first = plan.table.rows[0].name
    return [_row(plan, row, by_row[row.name], by_row.get(row.base or first, {})) for row in plan.rows]


def _row(plan: Plan, row: PaperRow, by_seed: BySeed, base: BySeed) -> dict[str, Any]:
    result: dict[str, Any] = {"row": row.name, "model": row.cfg, "note": row.note,
                              "published": " ".join(f"{value:g}" for value in row.published),
                              "M params": model_cost(plan.spec(row)).parameters / 1e6}
    for name in METRICS:
        result[name], deviation = mean_and_deviation([100 * metrics[name] for metrics in by_seed.values()])
        if name == "AP":
            result["deviation"] = deviation
    others = {} if base is by_seed else base
    paired = [100 * (by_seed[seed]["AP"] - others[seed]["AP"]) for seed in by_seed if seed in others]
    result["to base"], result["its deviation"] = mean_and_deviation(paired)
    result["seeds"] = len(by_seed)
    return result


def _of_runs(plan: Plan, row: PaperRow) -> BySeed:
    """The best epoch of each seed's training."""
    found: dict[int, Mapping[str, float]] = {}
    for seed in plan.seeds:
        job = plan.job(row, seed)
        best = RunFolder(job.folder).best if job.is_finished() else None
        if best is not None:
            found[seed] = {name: best.get(name, 0.0) for name in METRICS}
    return found


def _evaluated(plan: Plan) -> Mapping[str, BySeed]:
    """Of table 10: each training evaluated in four ways, in the order of its rows."""
    table = TABLES[EVALUATED]
    found: dict[str, dict[int, dict[str, float]]] = {row.name: {} for row in table.rows}
    for seed in plan.seeds:
        job = plan.job(table.rows[0], seed)
        if not job.is_finished():
            continue
        weights = job.folder / "weights" / "best.pt"
        test = TestOptions(weights=(str(weights),), data=plan.data, task="table10", project=str(job.folder),
                           name="table10", exist_ok=True, device="".join(plan.options.devices[:1]))
        for row, numbers in zip(table.rows, table10(test).rows, strict=True):
            found[row.name][seed] = {name: numbers[name] for name in METRICS}
    return found


def _write(plan: Plan, table: AblationTable) -> None:
    """Text on the screen, and the files."""
    name, title, note = str(plan.options.table), plan.table.title, plan.table.note
    job = plan.job(plan.rows[0], plan.seeds[0])
    flags = {key: value for key, value in job.options.items() if key not in ("cfg", "seed")}
    content = {"table": name, "title": title, "note": note, "scale": plan.options.scale,
               "flags": flags, "seeds": list(plan.seeds), "rows": table.rows}
    atomic_write(plan.folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    atomic_write(plan.folder / f"{name}.csv", table.to_csv())
    found = [row for row in table.rows if row["AP"] is not None]
    bars = bars_chart("AP, and its standard deviation over seeds", {row["row"]: row["AP"] for row in found},
                      {row["row"]: row["deviation"] or 0.0 for row in found}, "AP in percent")
    facts = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in flags.items()}
    write_page(plan.folder / f"{name}.html", Page(f"{title}: {name} of the paper, {plan.options.scale} scale", [
        Section("Measured beside published", [DataTable(table.rows), bars], f"AP in percent. {note}"),
        Section("Settings", [Facts({"seeds": " ".join(map(str, plan.seeds)), **facts})])]))
    logger.info("%s\n%swritten to %s.json, .csv and .html", table, f"{note}\n" if note else "", plan.folder / name)
