"""Cross-validation: ``train --folds K``, a run for each part of the training images, and what they reach together."""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolov7.config import InputError, RunError, atomic_write
from yolov7.config.program import given_flags, saying_how_to_go_on
from yolov7.engine.run import settled_config
from yolov7.engine.run_config import TrainOptions
from yolov7.experiments.jobs import run_list
from yolov7.experiments.processes import Job, Place
from yolov7.experiments.run_folders import RunFolder
from yolov7.runtime import folders
from yolov7.runtime.distributed import environment
from yolov7.runtime.tables import Table

logger = logging.getLogger(__name__)

ELSEWHERE = ("project", "name", "exist_ok", "device", "verbose", "dry_run", "resume", "fold")  # not flags of a fold
TABLE = "folds.csv"


@dataclass(frozen=True, repr=False)
class FoldRuns(Table):
    """A row for each fold, then mean and standard deviation."""

    folder: Path


def train_folds(options: TrainOptions) -> FoldRuns:
    """Train and evaluate every fold; with ``--exist-ok`` what is finished below the folder is not done again."""
    if environment().world_size > 1:
        raise InputError("--folds: starts a process for each fold; accepted under torchrun: --fold N, one by one")
    if options.dry_run:
        raise InputError("--folds: a dry run is one of a single fold; accepted: --fold 1 beside it")
    config = settled_config(replace(options, fold=1))
    folder = folders.new_folder(options.project, options.name, options.exist_ok)
    given = {name: value for name, value in given_flags(options).items() if name not in ELSEWHERE}
    flags = {**given, "epochs": config.epochs}
    jobs = [Job(folder / f"fold{fold}", flags | {"fold": fold}, f"fold {fold}")
            for fold in range(1, options.folds + 1)]
    logger.info("%d folds of %d epochs, in %s", options.folds, config.epochs, folder)
    with saying_how_to_go_on("train", options, name=folder.name, exist_ok=True):
        failed = run_list(jobs, [Place((options.device,))], "folds")
    table = FoldRuns(tuple(_rows(jobs)), folder)
    atomic_write(folder / TABLE, table.to_csv())
    logger.info("%s\nwritten to %s", table, folder / TABLE)
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} folds have failed: {', '.join(failed)}")
    return table


def _rows(jobs: list[Job]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, job in enumerate(jobs, 1):
        best = RunFolder(job.folder).best if job.is_finished() else None
        if best is not None:
            rows.append({"fold": str(number), "best epoch": int(best["epoch"]),
                         **{name: value for name, value in best.items() if name == "AP" or name.endswith("_AP")
                            or name in ("AP50", "AP75", "precision", "recall", "F1")}})
    names = [name for name in rows[0] if name not in ("fold", "best epoch")] if rows else []
    summaries = []
    for title, function in (("mean", statistics.mean), ("deviation", statistics.stdev)):
        if len(rows) > 1:
            summaries.append({"fold": title, "best epoch": None,
                              **{name: function([float(row[name]) for row in rows]) for name in names}})
    return [*rows, *summaries]
