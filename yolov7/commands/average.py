"""``yolov7 average``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from yolov7.config import InputError
from yolov7.config.experiment_options import AverageOptions
from yolov7.config.program import command

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AverageRun:
    """What was averaged, and where the mean lies."""

    weights: tuple[Path, ...]
    output: Path


def average(options: AverageOptions) -> AverageRun:
    """Write the mean of several weight files: the last epochs that a run has kept, or files by name."""
    from yolov7.model import weights
    from yolov7.model.averaging import average_weights

    paths, output = _files(options)
    if output.resolve() in {path.resolve() for path in paths}:
        raise InputError(f"--output {str(output)!r}: is one of the files that are averaged; accepted: another one")
    weights.save(average_weights(paths), output)
    logger.info("the mean of %d files, %s to %s: %s\ncompare:\n  %s\n  %s", len(paths), paths[0].name, paths[-1].name,
                output, command("test", weights=output), command("test", weights=paths[-1]))
    return AverageRun(tuple(paths), output)


def _files(options: AverageOptions) -> tuple[list[Path], Path]:
    """The files to average, and where the mean goes."""
    from yolov7.engine.checkpoints import kept_epochs

    given = [Path(path) for path in options.runs]
    if not given:
        raise InputError("RUNS is missing; accepted: the folder of a run that was trained with --keep, or weight files")
    folders = [path for path in given if path.is_dir()]
    if folders and len(given) > 1:
        raise InputError(f"RUNS: {folders[0]} stands beside others; accepted: one folder, or weight files")
    if not folders:
        if len(given) < 2 or not options.output:
            what = "one weight file has no mean" if len(given) < 2 else "--output is missing"
            raise InputError(f"RUNS: {what}; accepted: the folder of a run, or several weight files with --output FILE")
        return given, Path(options.output)
    folder = given[0] / "weights" if (given[0] / "weights").is_dir() else given[0]
    kept = [*kept_epochs(folder).values()]
    last = kept[-options.last if options.last else 0 :]
    if len(last) < max(options.last or 2, 2):
        raise InputError(f"{folder}: has {len(kept)} files epochN.pt; accepted: at least {max(options.last or 2, 2)}, "
                         "which train --keep N writes")
    return last, Path(options.output) if options.output else folder / "average.pt"
