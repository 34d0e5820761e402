"""Restarts by ``torchrun --max-restarts N``: a launch goes on with the run that it began."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from yolov7.config import write_atomically
from yolov7.options import TrainOptions


def marker(project: str) -> Path | None:
    """Where this launch notes the folder of its run; None where no ``torchrun`` started it."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if launch is None:
        return None
    if launch == "none":  # of one machine: told apart by the agent, which outlives restarts
        launch = f"agent{os.getppid()}"
    return Path(project) / f".launch-{launch}"


def note_run(project: str, folder: Path) -> None:
    """Remember the run of this launch."""
    if path := marker(project):
        write_atomically(path, str(folder))


def forget_run(project: str) -> None:
    """The run has ended: nothing to go on with."""
    if path := marker(project):
        path.unlink(missing_ok=True)


def after_restart(options: TrainOptions) -> TrainOptions:
    """The options of a launch's first start, or after a restart those that go on with its run.

    Without a checkpoint so far the run begins anew, in the same folder.
    """
    path = marker(options.project)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if path is None or not restarts or not path.is_file() or options.resume is not None:
        return options
    folder = Path(path.read_text(encoding="utf-8"))
    if (folder / "weights" / "last.pt").is_file():
        return dataclasses.replace(options, resume=str(folder))
    return dataclasses.replace(options, project=str(folder.parent), name=folder.name, exist_ok=True)
