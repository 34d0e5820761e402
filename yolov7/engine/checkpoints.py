"""``last.pt``, ``best.pt`` and the last epochs of a run: written as soon as they can be, and told where they cannot.

What is written are the bytes of a file, a snapshot of the state; a thread brings them to the disk while the run goes
on. After a kill at any moment the file before it is whole.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from yolov7.config import InputError, atomic_write
from yolov7.engine.nonfinite import TrainingError
from yolov7.engine.run_config import RunConfig
from yolov7.engine.state import RunState, best_content, last_content
from yolov7.model import weights

logger = logging.getLogger(__name__)

_EPOCH_FILE = re.compile(r"epoch(\d+)\.pt")


@dataclass(frozen=True)
class _Best:
    """The best weights so far, where their file is not written yet."""

    epoch: int  # 0 is the first
    content: memoryview


class Checkpoints:
    """The two weight files of a run in ``folder``, which only its first process writes; the best one comes first."""

    def __init__(self, folder: Path, config: RunConfig, names: tuple[str, ...], writes: bool = True,
                 tell: Callable[..., None] = lambda event, *facts: None) -> None:
        self.last, self.best, self.writes = folder / "last.pt", folder / "best.pt", writes
        self.config, self.names, self._tell = config, names, tell  # `Observers.tell`
        self._unwritten: _Best | None = None
        self._reason = ""
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: dict[Path, Future[None]] = {}

    def save_last(self, state: RunState, required: bool = False) -> None:
        """Write a checkpoint; one that cannot be written leaves the one before it and, unless it is ``required``, the
        run goes on. Only one that is required is waited for."""
        if not self.writes:
            return
        self.settle()  # never two copies of a state
        self._write(self.last, weights.packed(last_content(state, self.config, self.names)), state.epoch)
        if required:
            self._settle_best()
            if error := self._settled(self.last):
                raise TrainingError(_failure(self.last, error))

    def save_best(self, state: RunState, epoch: int) -> None:
        """Write the averaged weights, which are those of this epoch."""
        if self.writes:
            self.settle()
            self._unwritten = _Best(epoch, weights.packed(best_content(state, self.config, self.names, epoch)))
            self.retry_best()

    def keep_epoch(self, state: RunState) -> None:
        """Write the averaged weights of this epoch beside those of the epochs before it, as many as ``--keep`` says."""
        if not (self.writes and self.config.keep):
            return
        self.settle()
        content = weights.packed(best_content(state, self.config, self.names, state.epoch))
        number = state.epoch + 1
        self._write(self.last.with_name(f"epoch{number}.pt"), content, number)
        for epoch, path in kept_epochs(self.last.parent).items():
            if epoch <= number - self.config.keep:
                path.unlink(missing_ok=True)

    def retry_best(self) -> None:
        """Write the best weights so far, if that has not been possible yet; they are kept in memory until it is."""
        self.settle()
        if self._unwritten is not None:
            self._write(self.best, self._unwritten.content, self._unwritten.epoch + 1)

    def settle(self) -> None:
        """Wait for what is being written, and tell what could not be."""
        self._settle_best()
        if error := self._settled(self.last):
            logger.error("%s; the run goes on and tries again after the next epoch", _failure(self.last, error))
        for path in [*self._writing]:
            if error := self._settled(path):
                logger.error("%s: cannot be written: %s; the run goes on", path, error.strerror or error)

    def close(self) -> None:
        """`settle`, and end the thread that writes."""
        self.settle()
        self._writer.shutdown()

    def _settle_best(self) -> None:
        if self.best not in self._writing:
            return
        if error := self._settled(self.best):
            self._reason = _failure(self.best, error)
            logger.error("%s; the run goes on and tries again after the next epoch", self._reason)
        else:
            self._unwritten = None

    def _write(self, path: Path, content: memoryview, epoch: int) -> None:
        self._writing[path] = self._writer.submit(self._bring_to_disk, path, content, epoch)

    def _bring_to_disk(self, path: Path, content: memoryview, epoch: int) -> None:
        atomic_write(path, content)
        self._tell("checkpoint_written", path, epoch, path == self.best)

    def _settled(self, path: Path) -> OSError | None:
        """Wait for a file; why it could not be written."""
        writing = self._writing.pop(path, None)
        error = writing.exception() if writing else None
        if error is not None and not isinstance(error, OSError):
            raise error
        return error

    def check_best(self) -> None:
        """Raise `TrainingError` where the best weights could not be written to the end."""
        self.settle()
        if self._unwritten is not None:
            epoch = self._unwritten.epoch + 1
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
        self.settle()
        try:
            content = weights.read(self.best)
        except (InputError, OSError):
            return -1
        epoch = content.get("epoch") if isinstance(content, dict) else None
        return epoch if isinstance(epoch, int) else -1


def kept_epochs(folder: Path) -> dict[int, Path]:
    """The files of the epochs that a run has kept, by their number, which counts from 1; in rising order."""
    found = {int(name[1]): path for path in folder.glob("epoch*.pt") if (name := _EPOCH_FILE.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _failure(path: Path, error: OSError) -> str:
    kept = f"the one before it is whole ({path})" if path.is_file() else "there is none before it"
    return f"{path}: the checkpoint cannot be written: {error.strerror or error}; {kept}"
