"""Runs on disk: folders, checkpoints, and finding them again.

A checkpoint is tensors and plain values that load with ``weights_only=True``, written under a temporary name and
renamed: after a kill at any moment the previous file is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from yolov7.config import InputError, to_mapping
from yolov7.engine.ema import ModelEMA
from yolov7.engine.setup import RunConfig
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


def find_best(given: str, project: str = "runs/train") -> Path:
    """The weights that a command means: a path, or nothing for ``best.pt`` of the latest run."""
    if given:
        return Path(given)
    found = sorted(Path(project).rglob("best.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"--weights: not given, and no best.pt below {project!r}; train first, or name a weight file")
    return found[-1]


def save_last(path: Path, model: Detector, ema: ModelEMA, optimizer: Optimizer, config: RunConfig,
              progress: dict[str, Any]) -> None:
    """Everything that a run needs to go on; ``progress`` holds plain values (epoch, best fitness, names)."""
    content = _describe(model, config, progress)
    content |= {key: value for key, value in progress.items() if key != "names"}
    content |= {
        "model": model.state_dict(), "ema": ema.model.state_dict(), "ema_updates": ema.updates,
        "optimizer": optimizer.state_dict(), "config": to_mapping(config),
    }
    weights.save(content, path)


def save_best(path: Path, ema: ModelEMA, config: RunConfig, progress: dict[str, Any]) -> None:
    """The averaged weights alone, for evaluation, detection, export and fine-tuning."""
    content = _describe(ema.model, config, progress)
    content |= {"model": ema.model.state_dict(), "epoch": progress["epoch"]}
    weights.save(content, path)


def _describe(model: Detector, config: RunConfig, progress: dict[str, Any]) -> dict[str, Any]:
    merged = config.classes if config.single_cls else ()
    return weights.describe(model, progress["names"], config.test_size, config.data, merged)


def read_last(path: Path) -> dict[str, Any]:
    """A checkpoint to go on from."""
    content = weights.read(path)
    if not isinstance(content, dict) or "optimizer" not in content or "config" not in content:
        raise InputError(f"--resume {str(path)!r}: holds weights only; accepted: last.pt of a run")
    return content


def restore(content: dict[str, Any], model: Detector, ema: ModelEMA, optimizer: Optimizer) -> None:
    """Copy a checkpoint into freshly built objects of the same run."""
    state: dict[str, Tensor] = content["model"]
    model.load_state_dict(state)
    ema.model.load_state_dict(content["ema"])
    ema.updates = content["ema_updates"]
    optimizer.load_state_dict(content["optimizer"])


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files of a killed process."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
