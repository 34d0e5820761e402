"""``yolov7 tune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.experiments.tune_options import TuneOptions

if TYPE_CHECKING:
    from yolov7.experiments.study_report import StudyResult


def tune(options: TuneOptions) -> StudyResult:
    """Search for a better recipe: many trainings, chosen and pruned by Optuna; goes on where it was stopped."""
    from yolov7.experiments.tuning import tune as run_study

    return run_study(options)
