"""What a step launches, moves and keeps, on paper: fused norms keep a third less of each convolution."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "count_step.py"


@pytest.mark.untraced
def test_fused_norms_keep_less_and_casts_are_one(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--networks", "yolov7:640", "--batch", "8", "--output", tmp_path / "counts.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    plain, cast, fused = json.loads((tmp_path / "counts.json").read_text())["rows"]
    assert [row["way"] for row in (plain, cast, fused)] == ["plain", "cast", "fused"]
    assert plain["kernels"] - cast["kernels"] == 95 - 1  # a cast for each convolution; one call for all
    assert plain["kept_gib"] == cast["kept_gib"]
    assert fused["kept_gib"] < 0.8 * plain["kept_gib"]
    assert fused["moved_gib"] < 0.9 * plain["moved_gib"]
    assert done.stdout.splitlines()[-1] == f"ratio {plain['kept_gib'] / fused['kept_gib']:.2f}"
