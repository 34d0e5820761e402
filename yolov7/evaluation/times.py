"""What the stages of an evaluation take: means and percentiles of milliseconds per picture.

Stages are ``data`` (waiting for the loader; with no loader processes that is decoding and resizing), ``input`` (to the
device, as floats), ``network`` (with decoding), ``nms`` and ``collect`` (what is kept for the score).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NETWORK = "network"
WHOLE = "end to end"
END_TO_END = ("data", "input", NETWORK, "nms")  # from the file to the boxes
PERCENTILES = (50, 90, 99)


@dataclass
class StageTimes:
    """Milliseconds per picture of every batch and stage."""

    _stages: dict[str, list[float]] = field(default_factory=dict)
    _pictures: dict[str, list[int]] = field(default_factory=dict)

    def add(self, stage: str, milliseconds: float, pictures: int) -> None:
        """A batch of ``pictures``, ``milliseconds`` each."""
        self._stages.setdefault(stage, []).append(milliseconds)
        self._pictures.setdefault(stage, []).append(pictures)

    def summary(self) -> dict[str, dict[str, float]]:
        """``mean``, ``p50``, ``p90`` and ``p99`` of every stage, and of all of them up to the boxes.

        Each picture counts once, with its share of its batch's time.
        """
        rows = {stage: np.array(values) for stage, values in self._stages.items()}
        if all(stage in rows for stage in END_TO_END):
            rows[WHOLE] = np.sum([rows[stage] for stage in END_TO_END], axis=0)
        counts = self._pictures.get(NETWORK, [])
        return {name: _figures(np.repeat(values, counts)) for name, values in rows.items()}

    def text(self) -> str:
        """A table; the pictures a second are those of the mean."""
        titles = "".join(f"{title:>9}" for title in ("mean", *(f"p{p}" for p in PERCENTILES)))
        lines = [f"{'ms a picture':<14}{titles}{'a second':>11}"]
        for name, row in self.summary().items():
            figures = "".join(f"{row[key]:9.2f}" for key in ("mean", *(f"p{p}" for p in PERCENTILES)))
            pace = f"{1000 / row['mean']:11.1f}" if name in (NETWORK, WHOLE) and row["mean"] else ""
            lines.append(f"{name:<14}{figures}{pace}")
        return "\n".join(lines)


def _figures(milliseconds: NDArray[np.float64]) -> dict[str, float]:
    values = np.percentile(milliseconds, PERCENTILES) if milliseconds.size else np.zeros(len(PERCENTILES))
    mean = float(milliseconds.mean()) if milliseconds.size else 0.0
    return {"mean": mean} | {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}
