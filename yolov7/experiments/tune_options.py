"""Flags of ``tune``: those of ``train`` that a study keeps, and its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from yolov7.config import option
from yolov7.config.experiment_options import PlaceOptions
from yolov7.config.options import MAX_COUNT, MAX_SEED
from yolov7.engine.run_config import TrainOptions


def _settled(default: Any) -> Any:
    """A field of ``train`` that a study decides."""
    return option(default, "decided by the study", flag=False)


@dataclass(frozen=True)
class TuneOptions(PlaceOptions, TrainOptions):
    """Flags of ``tune``."""

    space: str = option("default", "search space: what to change, and how far; a shipped name or a YAML file",
                        group="what is measured")
    trials: int = option(30, "trainings of the study, over all processes and starts", low=1, most=MAX_COUNT,
                         group="what is measured")
    hours: float | None = option(None, "begin no more trials after so many hours; default: no limit", low=0,
                                 most=MAX_COUNT, group="what is measured")
    prune: Literal["median", "halving", "off"] = option(
        "median", "end a trial early: median, where after an epoch it is below the median of the others; halving, "
        "unless it is among the best quarter after 1/16, 1/4 of the epochs; off", group="what is measured")
    epochs: int = option(30, "epochs of each trial", low=1, most=MAX_COUNT, group="schedule and batch")
    log: tuple[str, ...] = option(("none",), "who is told of the trainings: tensorboard, wandb, mlflow, trackio, "
                                  "observers of other packages, none", metavar="NAME", group="run and output")
    study: str = option("study", "name of the study, below --project: one that is there goes on, and several processes "
                        "share it", group="run and output")
    storage: str = option("", "where the study is kept: sqlite:///FILE, or a server (postgresql://..., mysql://...); "
                          "default: study.db in its folder", group="run and output")
    study_seed: int = option(0, "seed of the study's choices; --seed is that of every training", low=0, most=MAX_SEED,
                             group="run and output")
    project: str = option("runs/tune", "studies are folders below this one", group="run and output")
    device: str = _settled("")
    name: str = _settled("")
    exist_ok: bool = _settled(False)
    resume: str | None = _settled(None)
    dry_run: bool = _settled(False)
    autoanchor: bool = _settled(False)
