"""TensorBoard: events in the run's folder, those of steps in ``steps`` below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from yolov7.data.images import encode_image
from yolov7.engine.observers.base import Observer, RunFacts

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    from yolov7.engine.log import EpochRecord


class TensorBoard(Observer):
    """Numbers of epochs and images against the epoch; numbers of steps against the batches so far."""

    def run_begins(self, run: RunFacts) -> None:
        """Open the event files; what an earlier start recorded behind this place is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(run.folder), purge_step=run.first_epoch + 1 if run.first_epoch else 0)
        self._steps = SummaryWriter(str(run.folder / "steps"), purge_step=run.first_step + 1 if run.first_step else 0)

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each number."""
        _add(self._steps, values, step)
        self._steps.flush()

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        """A point for each number."""
        _add(self._writer, values, record.epoch)
        self._writer.flush()

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        """The same image as by the writer's own method, whose PNG takes seven times as long."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = image.shape[:2]
        encoded = Summary.Image(height=height, width=width, colorspace=3,
                                encoded_image_string=encode_image(image, ".png"))
        assert self._writer.file_writer is not None
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=encoded)]), epoch)
        self._writer.flush()

    def run_ends(self, outcome: str) -> None:
        """Close the files."""
        self._writer.close()
        self._steps.close()


def _add(writer: SummaryWriter, values: Mapping[str, float], place: int) -> None:
    for name, value in values.items():
        writer.add_scalar(name, value, place)
