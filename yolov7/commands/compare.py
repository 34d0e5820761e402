"""``yolov7 compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolov7.config.experiment_options import CompareOptions

if TYPE_CHECKING:
    from yolov7.experiments.comparing import RunComparison


def compare(options: CompareOptions) -> RunComparison:
    """Compare training runs: settings that differ, metrics, times and curves as text, CSV and one HTML page."""
    from yolov7.experiments.comparing import compare as run_comparison

    return run_comparison(options)
