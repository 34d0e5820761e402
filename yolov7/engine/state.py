"""The state of a run, all that it carries from step to step, and its checkpoints.

A checkpoint is tensors and plain values that load with ``weights_only=True``, written under a temporary name and
renamed: after a kill at any moment the previous file is whole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from yolov7.config import InputError, convert, from_mapping, option, reason_of, to_mapping
from yolov7.config.errors import shown
from yolov7.config.options import MAX_COUNT
from yolov7.engine.optim import ModelEMA
from yolov7.engine.run_config import RunConfig
from yolov7.evaluation.coco import fitness
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.stored import checked_tensor, checked_tensors, tensors_in


@dataclass(frozen=True)
class TrainingResult:
    """The best epoch of a run."""

    epoch: int  # 0 is the first
    AP: float  # noqa: N815  # the field's name for it
    AP50: float
    best: Path  # weight file
    fitness: float | None = None  # where it is not that of the boxes

    @property
    def value(self) -> float:
        """What makes an epoch the best: mostly AP (docs/reference.md, Fitness)."""
        return fitness(self.AP, self.AP50) if self.fitness is None else self.fitness


@dataclass
class RunState:
    """What the next step depends on, beside the configuration and the data.

    Nothing is random but by a key of seed, epoch and batch, so that there is no state of a generator. Steps are whole:
    gradients that are not yet applied have no place here.
    """

    model: Detector
    ema: ModelEMA
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    losses: Tensor  # [T + 1], sums over the batches of the epoch of each term, and how many were finite
    scores: np.ndarray  # [C], AP of each class in the last evaluation
    epoch: int = 0  # the one in progress; 0 is the first
    batch: int = 0  # batches of it that are done
    skipped: int = 0  # steps of it that were left out
    skipped_in_a_row: int = 0
    best: TrainingResult | None = None
    record: dict[str, Any] | None = None  # plain values of the last epoch's row in the record of the run
    numbers: dict[str, Any] | None = None  # plain values of what the best epoch found

    def content(self) -> dict[str, Any]:
        """Tensors and plain values, from which `restore` makes the same state."""
        best = self.best and [self.best.epoch, self.best.AP, self.best.AP50,
                              *([] if self.best.fitness is None else [self.best.fitness])]
        return {
            "model": self.model.state_dict(), "ema": self.ema.model.state_dict(),
            "ema_updates": int(self.ema.updates), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "losses": self.losses.cpu(), "scores": self.scores.tolist(),
            "place": {"epoch": self.epoch, "batch": self.batch, "skipped": self.skipped,
                      "skipped_in_a_row": self.skipped_in_a_row},
            "best": best, "record": self.record, "numbers": self.numbers}

    def restore(self, content: dict[str, Any], weights_folder: Path) -> None:
        """Take over what `content` gave. Raises `InputError` where it is that of another run."""
        try:
            self._take_over(content)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:  # torch's
            raise InputError(f"{weights_folder / 'last.pt'}: its state does not fit the run: {reason_of(error)}; "
                             "accepted: last.pt as the run has written it") from None
        if content["best"] is not None:
            epoch, ap, ap50, *fitness = content["best"]
            self.best = TrainingResult(epoch, ap, ap50, weights_folder / "best.pt", *fitness)

    def _take_over(self, content: dict[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.ema.model.load_state_dict(content["ema"])
        self.ema.updates.fill_(content["ema_updates"])
        own = [dict(group) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        for before, group in zip(own, self.optimizer.param_groups, strict=True):
            for name in before:
                if not _is_like(group.get(name), before[name]):
                    raise ValueError(f"the optimizer's {name} is {shown(group.get(name))}, not like {before[name]!r}")
        for parameter, kept in self.optimizer.state.items():
            if wrong := [name for name, value in kept.items() if not _is_state(value, parameter)]:
                raise ValueError(f"the optimizer's {wrong[0]} is {shown(kept[wrong[0]])}")
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.losses.copy_(content["losses"])
        self.scores = np.array(content["scores"])
        for field in fields(_Place):
            setattr(self, field.name, content["place"][field.name])
        self.record, self.numbers = content.get("record"), content.get("numbers")

    def begin_epoch(self, epoch: int) -> None:
        """Nothing of an epoch is done yet."""
        self.epoch, self.batch, self.skipped = epoch, 0, 0
        self.losses.zero_()


def _is_like(found: Any, own: Any) -> bool:
    """Whether a setting of an optimizer may take the place of another one."""
    numbers = (int, float)
    return type(found) is type(own) or (type(found) in numbers and type(own) in numbers)


def _is_state(found: Any, parameter: Tensor) -> bool:
    """Whether an optimizer may keep this beside a parameter: a tensor of its shape, a count, or nothing."""
    return found is None or (isinstance(found, Tensor) and found.shape in (parameter.shape, ()))


KEYS = ("model", "ema", "ema_updates", "optimizer", "scaler", "losses", "scores", "place", "best", "config")


def check_content(content: Any, path: Path) -> dict[str, Any]:
    """A checkpoint to go on from. Raises `InputError` for a file that holds weights only."""
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        raise InputError(f"--resume {str(path)!r}: holds weights only; accepted: last.pt of a run")
    _check_plain_values(content, f"--resume {str(path)!r}")
    for key in ("model", "ema"):
        checked_tensors(content[key], f"{path}, {key}")
    for key in ("optimizer", "losses"):
        for tensor in tensors_in(content[key]):
            checked_tensor(tensor, f"{path}, {key}:")
    return content


@dataclass(frozen=True)
class _Place:
    """Where in the run a checkpoint was written."""

    epoch: int = option(0, "the one in progress", low=0, most=MAX_COUNT)
    batch: int = option(0, "batches of it that are done", low=0)
    skipped: int = option(0, "steps of it that were left out", low=0)
    skipped_in_a_row: int = option(0, "steps left out just before", low=0)


def _check_plain_values(content: dict[str, Any], where: str) -> None:
    from_mapping(_Place, content["place"], f"{where}, place")
    convert(content["ema_updates"], int, f"{where}, ema_updates")
    convert(content["scores"], tuple[float, ...], f"{where}, scores")
    for key in ("optimizer", "scaler"):
        convert(content[key], dict[str, Any], f"{where}, {key}")
    for key in ("record", "numbers"):
        if content.get(key) is not None:
            convert(content[key], dict[str, Any], f"{where}, {key}")
    if not isinstance(content["losses"], Tensor):
        raise InputError(f"{where}, losses: found {shown(content['losses'])}; accepted: a tensor")
    best = content["best"]
    if best is None:
        return
    numbers = convert(best, tuple[float, ...], f"{where}, best")
    if len(numbers) not in (3, 4) or type(best[0]) is not int:
        raise InputError(f"{where}, best: found {shown(best)}; accepted: an epoch, AP, AP50 and a fitness")


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


def last_content(state: RunState, config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """Everything that a run needs to go on."""
    finished = {"epoch": state.epoch - 1, "config": to_mapping(config)}
    return _describe(state.model, config, names) | state.content() | finished


def best_content(state: RunState, config: RunConfig, names: tuple[str, ...], epoch: int) -> dict[str, Any]:
    """The averaged weights alone, which are those of an epoch, for evaluation, detection, export and fine-tuning."""
    return _describe(state.ema.model, config, names) | {"model": state.ema.model.state_dict(), "epoch": epoch}


def _describe(model: Detector, config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    merged = config.classes if config.single_cls else ()
    return weights.describe(model, names, config.test_size, config.data, merged)


def read_last(path: Path) -> dict[str, Any]:
    """A checkpoint to go on from."""
    return check_content(weights.read(path), path)
