"""Some seeds of every family, and the runner itself: that it sees what it is there to see."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

from tests.fuzz.families import ALL
from tests.fuzz.runner import HARMLESS

ROOT = Path(__file__).parents[2]
SEEDS = 3  # of each family
pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.untraced]

ENDS = {
    "accepted": "pass",
    "hang": "while True: pass",
    "crash": "import os; os.abort()",
    "memory": "x = bytearray(1 << 30)",
    "traceback": "[][1]",
    "message": "print('x' * 5000)",
    "outside": "open('in/input', 'w').close()",
    "silent": "import os; os._exit(3)"}
TELL_ENDS = """
import json, sys
from pathlib import Path
from tests.fuzz import runner
limits = runner.Limits(seconds=1, memory=600 << 20)
for name, program in json.loads(sys.argv[2]).items():
    folder = runner.empty(Path(sys.argv[1], name))
    (folder / "in" / "input").write_text("sound")
    print(name, runner.run(runner.Case(program=program), folder, limits).kind)
"""


@pytest.fixture(scope="module")
def sample(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """How the first inputs of every family end."""
    folder = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, "-m", "tests.fuzz", "--count", str(SEEDS * len(ALL)), "--jobs", "1", "--keep", folder,
               "--json", folder / "found.json"]
    done = forks.run(command, os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}, timeout=250)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return {name: [finding for finding in found if finding["family"] == name] for name in ALL}


@pytest.mark.parametrize("family", ALL)
def test_hostile_inputs_are_accepted_or_refused(family: str, sample: dict[str, list[dict[str, Any]]]) -> None:
    assert len(sample[family]) == SEEDS
    faults = {f"{family}:{finding['seed']}": finding["outcome"] for finding in sample[family]
              if finding["outcome"]["kind"] not in HARMLESS}
    assert not faults


def test_the_runner_sees_every_end(forks: Forks, tmp_path: Path) -> None:
    done = forks.run([sys.executable, "-c", TELL_ENDS, tmp_path, json.dumps(ENDS)],
                     os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
    expected = {name: "crash" if name == "silent" else name for name in ENDS}
    assert dict(line.split() for line in done.stdout.splitlines()) == expected, done.stderr
