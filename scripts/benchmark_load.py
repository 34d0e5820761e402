"""Time of `yolov7.load` plus the first prediction in a fresh process, beside that of another checkout.

    python scripts/benchmark_load.py --base FOLDER [--rounds 9]

FOLDER is a checkout of another commit. Processes of the two take turns, with one thread of torch each; the weights are
`tests/compat/best.pt`, the image is the one beside it. The last line is the ratio of the medians, ours over the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import describe_machine

ROOT = Path(__file__).parents[1]
COMPAT = ROOT / "tests" / "compat"
PROGRAM = """
import sys, time
started = time.perf_counter()
import yolov7
model = yolov7.load(sys.argv[1], device="cpu", precision="fp32")
loaded = time.perf_counter()
model(sys.argv[2])
print(loaded - started, time.perf_counter() - started, len(sys.modules), "yolov7.engine" in sys.modules)
"""


def once(tree: Path, image: Path) -> tuple[float, float, int, str]:
    """Seconds of load, seconds of load and first prediction, modules imported, whether the engine is among them."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(COMPAT / "best.pt"), str(image)], env=environment,
                          cwd=tree, capture_output=True, text=True, check=True)
    load, whole, modules, engine = done.stdout.split()
    return float(load), float(whole), int(modules), engine


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    image = next(iter(sorted(COMPAT.glob("*.jpg"))))
    trees = {"base": options.base.resolve(), "ours": ROOT}
    found: dict[str, list[tuple[float, float, int, str]]] = {name: [] for name in trees}
    for tree in trees.values():
        once(tree, image)  # compiles and fills the file cache
    for _ in range(options.rounds):
        for name, tree in trees.items():
            found[name].append(once(tree, image))
    rows = {name: {"load": statistics.median(row[0] for row in runs),
                   "whole": statistics.median(row[1] for row in runs), "modules": runs[0][2],
                   "imports engine": runs[0][3]} for name, runs in found.items()}
    ratio = rows["ours"]["whole"] / rows["base"]["whole"]
    results = ROOT / "scripts" / "results" / "load.json"
    content = {"machine": describe_machine(), "rounds": options.rounds, "rows": rows, "ratio": ratio}
    results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, row in rows.items():
        sys.stdout.write(f"{name}: load {row['load']:.2f} s, with the first prediction {row['whole']:.2f} s, "
                         f"{row['modules']} modules, engine imported: {row['imports engine']}\n")
    sys.stdout.write(f"ratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
