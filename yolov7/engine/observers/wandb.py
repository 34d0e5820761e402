"""Weights & Biases: a run of the project ``yolov7``; without a key, or with ``WANDB_MODE=offline``, in a folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov7.engine.observers.base import Observer, RunFacts, Table

if TYPE_CHECKING:
    import numpy as np

    from yolov7.engine.log import EpochRecord

logger = logging.getLogger(__name__)


class Wandb(Observer):
    """Numbers of steps and epochs, images, the tables of the best epoch, and its weights where that is asked for.

    ``WANDB_PROJECT``, ``WANDB_ENTITY`` and the other variables of the package count.
    """

    def run_begins(self, run: RunFacts) -> None:
        """Begin a run, or go on with the one of this folder."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_key(wandb) else "offline")
        if mode == "offline":
            logger.info("--log wandb: is written to %s; wandb sync sends it", run.folder / "wandb")
        key = hashlib.sha256(str(run.folder.absolute()).encode()).hexdigest()[:16]
        self._run = wandb.init(project=os.environ.get("WANDB_PROJECT", "yolov7"), name=run.folder.name, id=key,
                               dir=str(run.folder), config=dict(run.settings), mode=mode, resume="allow",
                               settings=wandb.Settings(silent=True, console="off", disable_git=True,
                                                       disable_code=True))
        self._batches = run.batches
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="batches")

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._run.log({"batches": step, "epoch": step / self._batches, **values})

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._run.log({"batches": record.epoch * self._batches, "epoch": record.epoch, **values})

    def evaluated(self, epoch: int, tables: Mapping[str, Table]) -> None:
        """Each table under its name."""
        import wandb

        for name, table in tables.items():
            self._run.log({name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows]),
                           "epoch": epoch, "batches": epoch * self._batches})

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Each image under its name."""
        import wandb

        self._run.log({name: wandb.Image(image), "epoch": epoch, "batches": epoch * self._batches})

    def checkpoint_written(self, path: Path, epoch: int, best: bool) -> None:
        """The weights of the best epoch as an artifact, with ``WANDB_LOG_MODEL``."""
        if best and os.environ.get("WANDB_LOG_MODEL", "").lower() in ("1", "true", "end", "checkpoint"):
            self._run.log_artifact(str(path), name=f"{self._run.id}-best", type="model")

    def run_ends(self, outcome: str) -> None:
        """Finish it."""
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def _has_key(wandb: Any) -> bool:
    """Without one the package would ask for it in the terminal."""
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # before 0.31
        return bool(wandb.api.api_key)
