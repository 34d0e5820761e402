"""``yolov7 ablation``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.config.experiment_options import AblationOptions

if TYPE_CHECKING:
    from yolov7.experiments.ablation import AblationTable


def ablation(options: AblationOptions) -> AblationTable:
    """Run an ablation of the paper: its rows trained with each seed, measured beside what was published."""
    from yolov7.experiments.ablation import run_ablation

    return run_ablation(options)
