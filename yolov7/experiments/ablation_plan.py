"""Which trainings make a table of the paper, at its own scale or at a small one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from yolov7.config import atomic_write, unknown
from yolov7.config.errors import InputError
from yolov7.config.experiment_options import AblationOptions
from yolov7.data.catalog import open_data
from yolov7.data.check import explained
from yolov7.data.data_yaml import RunSettings
from yolov7.experiments.paper_tables import TABLES, PaperRow, PaperTable
from yolov7.experiments.processes import Job
from yolov7.model.scaling import Scale
from yolov7.model.spec import ModelSpec, read_spec, scaled_spec
from yolov7.model.summary import definition_text

QUARTER = Scale(width=0.25, hidden_width=0.25)
SMALL = RunSettings(img_size=(256,), batch_size=8, nominal_batch=8)  # of data without settings of its own
LIKE = "yolov7-tiny"  # the model whose settings of a data set the small scale takes, but for its epochs
PAPER_EPOCHS, SMALL_EPOCHS = 300, 30


class Plan:
    """Which trainings make a table."""

    def __init__(self, options: AblationOptions) -> None:
        assert options.table is not None
        self.options, self.small = options, options.scale == "small"
        self.table: PaperTable = TABLES[options.table]
        self.rows = _chosen(self.table, options.rows)
        self.data = options.data or ("shapes" if self.small else "coco")
        self.seeds = options.seeds or ((0, 1, 2) if self.small else (0,))
        self.folder = Path(options.project) / f"{options.scale}-{Path(self.data).stem}"
        with explained(self.data):
            self.source = open_data(self.data)

    @property
    def distinct_rows(self) -> list[PaperRow]:
        """The rows that are trained differently."""
        return list({row.key: row for row in self.rows}.values())

    @cached_property
    def settings(self) -> RunSettings:
        """Of the small scale: the data set's own where it has some."""
        own = self.source.settings.get(LIKE, SMALL)
        return replace(own, epochs=SMALL_EPOCHS, img_size=own.img_size or SMALL.img_size,
                       batch_size=own.batch_size or SMALL.batch_size,
                       nominal_batch=own.nominal_batch or SMALL.nominal_batch)

    def job(self, row: PaperRow, seed: int) -> Job:
        """The training of a row with a seed."""
        options, small = self.options, self.settings if self.small else RunSettings(epochs=PAPER_EPOCHS)
        size = (options.img_size,) if options.img_size else small.img_size
        flags: dict[str, Any] = {
            "cfg": str(self._model_file(row)) if self.small else row.cfg, "data": self.data, "hyp": small.hyp,
            "epochs": options.epochs or small.epochs, "img_size": list(size) if size else None,
            "batch_size": options.batch_size or small.batch_size,
            "nominal_batch": options.batch_size or small.nominal_batch if self.small else None,
            "precision": options.precision, "workers": options.workers, "patience": 0, "seed": seed,
            "set": [*small.set, *options.set, *row.set]}
        flags = {name: value for name, value in flags.items() if value not in (None, [])}
        return Job(self.folder / f"{row.key}_seed{seed}", flags, f"{row.key}, seed {seed}")

    def write_models(self) -> None:
        """The models of the small scale, as YAML."""
        for row in self.distinct_rows if self.small else ():
            path = self._model_file(row)
            text = definition_text(self.spec(row).definition)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, f"# A quarter of the width of {row.cfg}, for comparisons on small machines.\n{text}")

    def _model_file(self, row: PaperRow) -> Path:
        return self.folder / "models" / f"{row.cfg}-quarter.yaml"

    def spec(self, row: PaperRow) -> ModelSpec:
        """The model of a row, at this scale."""
        spec = read_spec(row.cfg)
        return scaled_spec(spec, QUARTER, f"{row.cfg}-quarter")[0] if self.small else spec


def _chosen(table: PaperTable, numbers: Sequence[str]) -> tuple[PaperRow, ...]:
    places = [str(number) for number in range(1, len(table.rows) + 1)]
    for number in numbers:
        if number not in places:
            raise InputError(f"--rows: {unknown('row', number, places)}")
    return tuple(row for number, row in zip(places, table.rows, strict=True) if not numbers or number in numbers)
