"""Restarts by ``torchrun --max-restarts N``: a launch goes on with the run that it began."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path

from yolov7.config import atomic_write
from yolov7.engine.run_config import TrainOptions


def marker(project: str) -> Path | None:
    """Where this launch notes the folder of its run; None where no ``torchrun`` started it."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if launch is None:
        return None
    return Path(project) / f".launch-{_agent() if launch == 'none' else launch}"


def _agent() -> str:
    """What outlives the restarts of this machine's processes: ``torchrun`` itself."""
    return f"{platform.node()}-{os.getppid()}"


def note_run(project: str, folder: Path) -> None:
    """Remember the run of this launch."""
    if path := marker(project):
        atomic_write(path, f"{_agent()}\n{folder}")


def forget_run(project: str) -> None:
    """The run has ended: nothing to go on with."""
    if path := marker(project):
        path.unlink(missing_ok=True)


def after_restart(options: TrainOptions) -> TrainOptions:
    """The options of a launch's first start, or after a restart those that go on with its run.

    Without a checkpoint so far the run begins anew, in the same folder.
    """
    path = marker(options.project)
    if path is None or not path.is_file() or options.resume is not None:
        return options
    agent, _, name = path.read_text(encoding="utf-8").partition("\n")
    if agent != _agent() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return options  # of an earlier launch that had the same --rdzv-id
    folder = Path(name)
    if (folder / "weights" / "last.pt").is_file():
        return dataclasses.replace(options, resume=str(folder))
    return dataclasses.replace(options, project=str(folder.parent), name=folder.name, exist_ok=True)
