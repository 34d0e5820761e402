"""Runs on disk: folders, checkpoints, and finding them again.

A checkpoint is tensors and plain values that load with ``weights_only=True``, written under a temporary name and
renamed: after a kill at any moment the previous file is whole.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from yolov7.config import InputError, to_mapping
from yolov7.engine.setup import RunConfig
from yolov7.engine.state import RunState, check_content
from yolov7.model import weights
from yolov7.model.detector import Detector

logger = logging.getLogger(__name__)


def new_folder(project: str, name: str, exist_ok: bool) -> Path:
    """``project/name``, with the first free number behind it unless ``exist_ok``; created, for this caller alone."""
    for number in itertools.count(1):
        folder = Path(project) / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError:
            if exist_ok:  # a file
                raise InputError(f"--project {project!r}: cannot make {folder}: a file is in its place") from None
        except OSError as error:
            raise InputError(f"--project {project!r}: cannot make {folder}: {error.strerror}") from None
    raise AssertionError("numbers do not end")


def find_last(run: str, project: str) -> Path:
    """The ``last.pt`` that ``--resume`` means: a file, a run's folder, or '' for the latest run below ``project``."""
    if not run:
        found = sorted(Path(project).rglob("weights/last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"--resume: no weights/last.pt below {project!r}; name the run: --resume FOLDER")
        return found[-1]
    path = Path(run)
    for candidate in (path, path / "last.pt", path / "weights" / "last.pt"):
        if candidate.is_file():
            if candidate.absolute().parent.name != "weights":
                raise InputError(f"--resume {run!r}: lies in no run's folder; accepted: RUN/weights/last.pt")
            return candidate
    raise InputError(f"--resume {run!r}: neither a checkpoint nor the folder of a run")


def find_weights(given: Sequence[str]) -> list[Path]:
    """`find_best` for a command that takes several."""
    return [find_best(path) for path in given or [""]]


def find_best(given: str, project: str = "runs/train") -> Path:
    """The weights that a command means: a path, or nothing for ``best.pt`` of the latest run."""
    if given:
        return Path(given)
    found = sorted(Path(project).rglob("best.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"--weights: not given, and no best.pt below {project!r}; train first, or name a weight file")
    return found[-1]


def save_last(path: Path, state: RunState, config: RunConfig, names: tuple[str, ...]) -> None:
    """Everything that a run needs to go on."""
    finished = {"epoch": state.epoch - 1, "config": to_mapping(config)}
    weights.save(_describe(state.model, config, names) | state.content() | finished, path)


def save_best(path: Path, state: RunState, config: RunConfig, names: tuple[str, ...]) -> None:
    """The averaged weights alone, for evaluation, detection, export and fine-tuning."""
    content = _describe(state.ema.model, config, names)
    weights.save(content | {"model": state.ema.model.state_dict(), "epoch": state.epoch}, path)


def _describe(model: Detector, config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    merged = config.classes if config.single_cls else ()
    return weights.describe(model, names, config.test_size, config.data, merged)


def read_last(path: Path) -> dict[str, Any]:
    """A checkpoint to go on from."""
    return check_content(weights.read(path), path)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A run's folder, for this process alone; what a killed one left half-written is deleted.

    The lock is the process's own: the system takes it back however it ends, and children do not have it; its file
    stays. Raises `InputError` where another process trains in the folder. Systems and disks without locks go on
    without.
    """
    with (folder / ".lock").open("a+", encoding="ascii") as file:
        _lock(file, folder)
        for path in (*folder.glob(".*.tmp"), *folder.glob("weights/.*.tmp")):
            path.unlink(missing_ok=True)
        yield


def _lock(file: TextIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise InputError(f"{folder}: process {file.read()} trains in it; wait for its end, stop it, or take another "
                         "--name") from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s): do not start a second training in it", folder, error.strerror)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
