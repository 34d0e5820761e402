"""``last.pt`` and ``best.pt`` of a run: written as soon as they can be, and told where they cannot."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from yolov7.config import InputError
from yolov7.engine.nonfinite import TrainingError
from yolov7.engine.run_config import RunConfig
from yolov7.engine.state import RunState, best_content, save_last
from yolov7.model import weights

logger = logging.getLogger(__name__)


class Checkpoints:
    """The two weight files of a run in ``folder``, which only its first process writes."""

    def __init__(self, folder: Path, config: RunConfig, names: tuple[str, ...], writes: bool = True) -> None:
        self.last, self.best, self.writes = folder / "last.pt", folder / "best.pt", writes
        self.config, self.names = config, names
        self._unwritten: dict[str, Any] | None = None  # what best.pt is to hold, where it could not be written
        self._reason = ""

    def save_last(self, state: RunState, required: bool = False) -> None:
        """Write a checkpoint; one that cannot be written leaves the one before it and, unless it is ``required``, the
        run goes on."""
        if not self.writes:
            return
        try:
            save_last(self.last, state, self.config, self.names)
        except OSError as error:
            message = _failure(self.last, error)
            if required:
                raise TrainingError(message) from None
            logger.error("%s; the run goes on and tries again after the next epoch", message)

    def save_best(self, state: RunState, epoch: int) -> None:
        """Write the averaged weights, which are those of this epoch."""
        if self.writes:
            self._unwritten = best_content(state, self.config, self.names, epoch)
            self.retry_best()

    def retry_best(self) -> None:
        """Write the best weights so far, if that has not been possible yet; they are kept in memory until it is."""
        if self._unwritten is None:
            return
        try:
            weights.save(self._unwritten, self.best)
        except OSError as error:
            self._reason = _failure(self.best, error)
            model = self._unwritten["model"]
            self._unwritten["model"] = {key: value.detach().cpu().clone() for key, value in model.items()}
            logger.error("%s; the run goes on and tries again after the next epoch", self._reason)
        else:
            self._unwritten = None

    def check_best(self) -> None:
        """Raise `TrainingError` where the best weights could not be written to the end."""
        if self._unwritten is not None:
            epoch = self._unwritten["epoch"] + 1
            raise TrainingError(f"{self._reason}; the weights of the best epoch, {epoch}, are lost")

    def recover_best(self, state: RunState) -> bool:
        """Whether the best weights that a state knows stand in their file, or could be taken from the state itself."""
        best = state.best
        if best is None or self._epoch_of_best() >= best.epoch:
            return True
        if not state.batch and state.epoch - 1 == best.epoch:
            self.save_best(state, best.epoch)
            return True
        logger.warning("%s: the weights of the best epoch, %d, are not there: the best of the epochs from here on "
                       "counts", self.best, best.epoch + 1)
        return False

    def _epoch_of_best(self) -> int:
        try:
            content = weights.read(self.best)
        except (InputError, OSError):
            return -1
        epoch = content.get("epoch") if isinstance(content, dict) else None
        return epoch if isinstance(epoch, int) else -1


def _failure(path: Path, error: OSError) -> str:
    kept = f"the one before it is whole ({path})" if path.is_file() else "there is none before it"
    return f"{path}: the checkpoint cannot be written: {error.strerror or error}; {kept}"
