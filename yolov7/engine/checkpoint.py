"""Runs on disk: folders, checkpoints, and finding them again.

A checkpoint is tensors and plain values that load with ``weights_only=True``, written under a temporary name and
renamed: after a kill at any moment the previous file is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov7.config import InputError, to_mapping
from yolov7.engine.setup import RunConfig
from yolov7.engine.state import RunState, check_content
from yolov7.model import weights
from yolov7.model.detector import Detector


def new_folder(project: str, name: str, exist_ok: bool) -> Path:
    """``project/name``, with the first free number behind it unless ``exist_ok``; created."""
    folder, number = Path(project) / name, 1
    while not exist_ok and folder.exists():
        number += 1
        folder = Path(project) / f"{name}{number}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--project {project!r}: cannot make {folder}: {error.strerror}") from None
    return folder


def find_last(run: str, project: str) -> Path:
    """The ``last.pt`` that ``--resume`` means: a file, a run's folder, or '' for the latest run below ``project``."""
    if not run:
        found = sorted(Path(project).rglob("last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"--resume: no last.pt below {project!r}; name the run: --resume FOLDER")
        return found[-1]
    path = Path(run)
    for candidate in (path, path / "last.pt", path / "weights" / "last.pt"):
        if candidate.is_file():
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


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files of a killed process."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
