"""MLflow: a run of the experiment ``yolov7`` on ``MLFLOW_TRACKING_URI``, else in a database beside the runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov7.engine.observers.base import Observer, RunFacts, Table

if TYPE_CHECKING:
    import numpy as np

    from yolov7.engine.log import EpochRecord

STORE = "mlflow.db"  # in the project's folder
RUN_ID = "mlflow_run_id"  # a file in the run's folder
MOST = 1000  # numbers of one request
LONGEST = 500  # characters of a parameter


class Mlflow(Observer):
    """Numbers of epochs against the epoch, numbers of steps against the batches so far, images, tables, parameters."""

    def run_begins(self, run: RunFacts) -> None:
        """Begin a run, or go on with the one of this folder."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run.folder.parent / STORE).absolute()}"
        self._client = MlflowClient(tracking_uri=address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "yolov7")
        found = self._client.get_experiment_by_name(name)
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        place = (run.folder.parent / "mlartifacts").absolute().as_uri() if local else None
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=place)
        file = run.folder / RUN_ID
        if run.first_epoch and file.is_file():
            self._id = file.read_text(encoding="ascii").strip()
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(experiment, run_name=run.folder.name).info.run_id
        file.write_text(self._id, encoding="ascii")
        parameters = [Param(key, str(value)[:LONGEST]) for key, value in _flat(run.settings).items()]
        for start in range(0, len(parameters), 100):
            self._client.log_batch(self._id, params=parameters[start : start + 100])

    def step_done(self, step: int, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._log(values, step)

    def epoch_done(self, record: EpochRecord, values: Mapping[str, float]) -> None:
        """A point for each number."""
        self._log(values, record.epoch)

    def _log(self, values: Mapping[str, float], place: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, place) for name, value in values.items()]
        for start in range(0, len(metrics), MOST):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST])

    def evaluated(self, epoch: int, tables: Mapping[str, Table]) -> None:
        """Each table as a JSON of columns, the latest one."""
        for name, table in tables.items():
            columns = {column: [row[place] for row in table.rows] for place, column in enumerate(table.columns)}
            self._client.log_dict(self._id, {"epoch": epoch, **columns}, f"{name}.json")

    def image_drawn(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Each image as a file with its epoch."""
        self._client.log_image(self._id, image, f"{name}_{epoch}.png")

    def checkpoint_written(self, path: Path, epoch: int, best: bool) -> None:
        """Where the weights are; they are not copied."""
        self._client.set_tag(self._id, "weights.best" if best else "weights.last", str(path))

    def run_ends(self, outcome: str) -> None:
        """Finish it."""
        status = {"finished": "FINISHED", "interrupted": "KILLED"}.get(outcome, "FAILED")
        self._client.set_terminated(self._id, status)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by names with dots."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
