"""Steps whose loss or gradient is not finite: counted, their batches kept as evidence, the run stopped in the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from yolov7.config import RunError
from yolov7.engine.sheets import batch_sheet, write_image
from yolov7.engine.state import RunState
from yolov7.model.weights import save
from yolov7.structures import Batch

logger = logging.getLogger(__name__)

MAX_IN_A_ROW = 20
MAX_FILES = 3  # of one process


class TrainingError(RunError):
    """A training that cannot go on."""


@dataclass(frozen=True)
class StepRecord:
    """A step, until its flags have come over from the device."""

    flags: Tensor  # float [3] on the host: left out, stop, the loss itself is not finite
    copied: torch.cuda.Event | None
    epoch: int
    first_batch: int
    batches: tuple[Batch, ...]
    terms: Tensor  # [batches, 3] on the device


class StepGuard:
    """Reads the flags of a step when the next one has been sent off, so that the device never waits for the host."""

    def __init__(self, state: RunState, folder: Path, names: tuple[str, ...], rank: int = 0) -> None:
        self.state, self.folder, self.names = state, folder, names
        self.suffix = f"_process{rank}" if rank else ""
        self.stop = False  # whether a process was told to stop
        self._waiting: StepRecord | None = None
        self._files = 0

    def note(self, flags: Tensor, batches: list[Batch], terms: list[Tensor]) -> None:
        """Take a step's flags, and look at those of the step before it."""
        host, event = flags, None
        if flags.device.type == "cuda":
            host = torch.empty(flags.shape, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        first = self.state.batch - len(batches)
        record = StepRecord(host, event, self.state.epoch, first, tuple(batches), torch.stack(terms))
        self.settle()
        self._waiting = record

    def settle(self) -> None:
        """Wait for the last step's flags. Raises `TrainingError` after 20 left out in a row."""
        record, self._waiting = self._waiting, None
        if record is None:
            return
        if record.copied is not None:
            record.copied.synchronize()
        skipped, stop, in_loss = (value > 0 for value in record.flags.tolist())
        self.stop |= stop
        if not skipped:
            self.state.skipped_in_a_row = 0
            return
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        if in_loss or not self.state.scaler.is_enabled():  # infinite gradients are how the scale of fp16 is found
            self._report(record, in_loss)
        if self.state.skipped_in_a_row >= MAX_IN_A_ROW:
            raise TrainingError(
                f"the loss or its gradient was not finite in {MAX_IN_A_ROW} steps in a row, up to epoch "
                f"{record.epoch + 1}, batch {record.first_batch + len(record.batches)}; the weights are those before "
                "the first of them. A smaller learning rate (--set optimizer.lr0=0.001) or --precision fp32 may help")

    def _report(self, record: StepRecord, in_loss: bool) -> None:
        """Warn, and write the batches whose loss is not finite, or all of the step if only the gradient is not."""
        logger.warning("epoch %d, batch %d: the %s is not finite, the step is left out (%d in this epoch)",
                       record.epoch + 1, record.first_batch + 1, "loss" if in_loss else "gradient", self.state.skipped)
        finite = record.terms.isfinite().all(dim=1).tolist()
        for index, batch in enumerate(record.batches):
            if self._files < MAX_FILES and not (in_loss and finite[index]):
                self._files += 1
                place = f"{record.epoch + 1}_{record.first_batch + index + 1}"
                self._write(batch, record.terms[index], f"nonfinite_{place}")

    def _write(self, batch: Batch, terms: Tensor, name: str) -> None:
        path = self.folder / f"{name}{self.suffix}.pt"
        targets = batch.targets
        content = {"images": batch.images.cpu(), "boxes": targets.boxes, "labels": targets.labels,
                   "valid": targets.valid, "paths": [meta.path for meta in batch.metas], "loss": terms.tolist()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(content, path)
            title = f"Batch whose loss or gradient was not finite: {path.name}"
            write_image(path.with_suffix(".jpg"), batch_sheet(batch, self.names, title=title))
            logger.warning("its batch stands in %s, as an image beside it", path)
        except OSError as error:
            logger.warning("%s: cannot be written: %s", path, error.strerror)
