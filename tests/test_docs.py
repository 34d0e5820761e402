"""What the documentation claims of the tests is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
SHORT = dict(re.findall(r"`(\w+)` is `(tests/[\w/]+\.py)`", TABLE))
NAMED = sorted(set(re.findall(r"`([\w/.]+)::(\w+)", TABLE)))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[":".join(named) for named in NAMED])
def test_a_named_test_is_there(file: str, name: str) -> None:
    path = ROOT / SHORT.get(file, file)
    assert path.is_file() and re.search(rf"^ *(async )?def {name}\(", path.read_text(encoding="utf-8"), re.M)


def test_the_oldest_torch_reads_weights_safely() -> None:
    """Before 2.10 ``weights_only=True`` ran code (CVE-2026-24747)."""
    floors = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floors and all(tuple(map(int, floor.split("."))) >= (2, 10) for floor in floors)
