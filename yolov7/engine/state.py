"""The state of a run: all that it carries from step to step, saved and restored as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from yolov7.config import InputError
from yolov7.engine.ema import ModelEMA
from yolov7.model.detector import Detector


@dataclass(frozen=True)
class TrainingResult:
    """The best epoch of a run."""

    epoch: int  # 0 is the first
    AP: float  # noqa: N815  # the field's name for it
    AP50: float
    best: Path  # weight file


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
    losses: Tensor  # [4], sums over the batches of the epoch: box, objectness, class, and how many were finite
    scores: np.ndarray  # [C], AP of each class in the last evaluation
    epoch: int = 0  # the one in progress; 0 is the first
    batch: int = 0  # batches of it that are done
    skipped: int = 0  # steps of it that were left out
    skipped_in_a_row: int = 0
    best: TrainingResult | None = None

    def content(self) -> dict[str, Any]:
        """Tensors and plain values, from which `restore` makes the same state."""
        best = None if self.best is None else [self.best.epoch, self.best.AP, self.best.AP50]
        return {
            "model": self.model.state_dict(), "ema": self.ema.model.state_dict(),
            "ema_updates": int(self.ema.updates), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "losses": self.losses.cpu(), "scores": self.scores.tolist(),
            "place": {"epoch": self.epoch, "batch": self.batch, "skipped": self.skipped,
                      "skipped_in_a_row": self.skipped_in_a_row},
            "best": best,
        }

    def restore(self, content: dict[str, Any], weights_folder: Path) -> None:
        """Take over what `content` gave; its shapes must be those of this state."""
        self.model.load_state_dict(content["model"])
        self.ema.model.load_state_dict(content["ema"])
        self.ema.updates.fill_(content["ema_updates"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.losses.copy_(content["losses"])
        self.scores = np.array(content["scores"])
        for name, value in content["place"].items():
            setattr(self, name, value)
        if content["best"] is not None:
            epoch, ap, ap50 = content["best"]
            self.best = TrainingResult(epoch, ap, ap50, weights_folder / "best.pt")

    def begin_epoch(self, epoch: int) -> None:
        """Nothing of an epoch is done yet."""
        self.epoch, self.batch, self.skipped = epoch, 0, 0
        self.losses.zero_()


KEYS = ("model", "ema", "ema_updates", "optimizer", "scaler", "losses", "scores", "place", "best", "config")


def check_content(content: Any, path: Path) -> dict[str, Any]:
    """A checkpoint to go on from. Raises `InputError` for a file that holds weights only."""
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        raise InputError(f"--resume {str(path)!r}: holds weights only; accepted: last.pt of a run")
    return content
