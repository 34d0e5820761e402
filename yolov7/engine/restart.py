"""Restarts by ``torchrun --max-restarts N``: a launch goes on with the run that it began."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
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


Agents = Sequence[tuple[str, bool]]  # of every process: its agent, and whether that has restarted it


def own_agent() -> tuple[str, bool]:
    """The agent of this process, and whether it has restarted it: its count is the machine's own."""
    return _agent(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def note_run(project: str, folder: Path, agents: Agents) -> None:
    """Remember the run of this launch, and the agents that take part in it."""
    if path := marker(project):
        names = "\t".join(dict.fromkeys(name for name, _ in agents))
        atomic_write(path, f"{names}\n{folder}")


def forget_run(project: str) -> None:
    """The run has ended: nothing to go on with."""
    if path := marker(project):
        path.unlink(missing_ok=True)


def after_restart(options: TrainOptions, agents: Agents) -> TrainOptions:
    """The options of a launch's first start, or after a restart those that go on with its run.

    It is a restart where any agent says so or took part before: machines may be replaced, the one of the main process,
    too. Without a checkpoint so far the run begins anew, in the same folder.
    """
    path = marker(options.project)
    if path is None or not path.is_file() or options.resume is not None:
        return options
    names, _, name = path.read_text(encoding="utf-8").partition("\n")
    if not any(restarted or agent in names.split("\t") for agent, restarted in agents):
        return options  # of an earlier launch that had the same --rdzv-id
    folder = Path(name)
    note_run(options.project, folder, agents)
    if (folder / "weights" / "last.pt").is_file():
        return dataclasses.replace(options, resume=str(folder))
    return dataclasses.replace(options, project=str(folder.parent), name=folder.name, exist_ok=True)
