"""Building every shipped model: seconds, and the peak of memory over the weights; one fresh process a model.

Writes ``scripts/results/build.json``. The last line is the largest peak over the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from machine import describe_machine

from yolov7.config import atomic_write, shipped_files

RESULTS = Path(__file__).parent / "results" / "build.json"
REPEATS = 3
CHILD = """
import json, sys, time, torch
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec

def status(key):
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

spec = read_spec(sys.argv[1])
torch.rand(8, 8) @ torch.rand(8, 8)  # what torch allocates once
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
started = time.perf_counter()
model = Detector(spec)
seconds = time.perf_counter() - started
weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
print(json.dumps({"seconds": seconds, "weights": weights, "peak": status("VmHWM") - before}))
"""


def measure(name: str) -> dict[str, float]:
    """Seconds and bytes of one build."""
    done = subprocess.run([sys.executable, "-c", CHILD, name], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    """Measure all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(shipped_files("cfg")))
    names = parser.parse_args().models
    rows = {}
    for name in names:
        runs = [measure(name) for _ in range(REPEATS)]
        peak = max(run["peak"] / run["weights"] for run in runs)
        rows[name] = {"seconds": statistics.median(run["seconds"] for run in runs),
                      "weights_MiB": runs[0]["weights"] / 2**20, "peak_over_weights": peak}
        sys.stdout.write(f"{name:24} {rows[name]['seconds']:6.2f} s  {rows[name]['weights_MiB']:7.1f} MiB  "
                         f"peak {peak:.2f} x the weights\n")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(RESULTS, json.dumps({"machine": describe_machine(), "models": rows}, indent=1) + "\n")
    sys.stdout.write(f"ratio {max(row['peak_over_weights'] for row in rows.values()):.3f}\n")


if __name__ == "__main__":
    main()
