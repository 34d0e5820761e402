"""Trackio: a run of the project ``yolov7`` in its local database (``trackio show``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from yolov7.engine.observers.base import Observer, RunFacts, Table

if TYPE_CHECKING:
    import numpy as np

    from yolov7.engine.log import EpochRecord


class Trackio(Observer):
    """Numbers of steps and epochs, images and tables. ``TRACKIO_PROJECT`` and ``TRACKIO_SPACE_ID`` count."""

    def run_begins(self, run: RunFacts) -> None:
        """Begin a run, or go on with the one of this name."""
        import pandas  # noqa: F401  # its tables: nothing is imported later, when processes are forked
        import trackio

        self._run = trackio.init(project=os.environ.get("TRACKIO_PROJECT", "yolov7"), name=run.folder.name,
                                 config=dict(run.settings), space_id=os.environ.get("TRACKIO_SPACE_ID"),
                                 resume="allow", embed=False)
        self._batches = run.batches

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._run.log(dict(values), step=step)

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._run.log({"epoch": record.epoch, **values}, step=record.epoch * self._batches)

    def evaluated(self, epoch: int, tables: Mapping[str, Table]) -> None:
        """Each table under its name."""
        import pandas
        import trackio

        for name, table in tables.items():
            frame = pandas.DataFrame(list(table.rows), columns=list(table.columns))
            self._run.log({name: trackio.Table(dataframe=frame)}, step=epoch * self._batches)

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Each image under its name."""
        import trackio

        self._run.log({name: trackio.Image(image)}, step=epoch * self._batches)

    def run_ends(self, outcome: str) -> None:
        """Finish it."""
        self._run.finish()  # type: ignore[no-untyped-call]
