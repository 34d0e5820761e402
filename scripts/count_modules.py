"""Count the files of the package that run between a batch and its loss, and between an image and its written result.

    python scripts/count_modules.py                  # this checkout
    python scripts/count_modules.py --tree FOLDER    # another checkout, such as one of an earlier commit

A file counts if a function of it is called. The first run trains one step of a small network on two images, from
`TrainingStep.backward` on; the second detects in an image with `yolov7.load(...)` and writes it with `plot`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]


class Recorder:
    """Notes which files of the package run, while it is switched on."""

    def __init__(self, package: Path, start: tuple[str, str] | None = None) -> None:
        self.package, self.start = str(package.resolve()), start
        self.files: dict[str, None] = {}
        self.depth = 0  # of calls of the function that starts it

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """A profile function of `sys.setprofile`."""
        name = frame.f_code.co_filename
        if self.start and name.endswith(self.start[0]) and frame.f_code.co_name == self.start[1]:
            self.depth += {"call": 1, "return": -1}.get(event, 0)
        if event == "call" and (self.depth or self.start is None) and name.startswith(self.package):
            self.files.setdefault(name[len(self.package) + 1 :])

    def on(self) -> None:
        """Watch this thread and those that start later."""
        threading.setprofile(self)
        sys.setprofile(self)

    def off(self) -> None:
        """Watch no longer."""
        sys.setprofile(None)
        threading.setprofile(None)


def small_set(folder: Path) -> Path:
    """Two images with a box each, and their data-set YAML."""
    import cv2
    import numpy as np

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(2):
        image = np.random.default_rng(index).integers(0, 255, (64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        (folder / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "set.yaml").write_text("train: images\nval: images\nnames: [thing]\n")
    return folder / "set.yaml"


def measure(tree: Path) -> dict[str, list[str]]:
    """The files of both ways."""
    sys.path.insert(0, str(tree))
    import yolov7
    from yolov7.cli import main

    package = Path(yolov7.__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = small_set(folder / "data")
        training = Recorder(package, ("engine/step.py", "backward"))
        training.on()
        code = main(["train", "--cfg", "yolov7-tiny", "--data", str(data), "--img-size", "64", "--batch-size", "2",
                     "--epochs", "1", "--workers", "0", "--device", "cpu", "--precision", "fp32",
                     "--project", str(folder / "runs")])
        training.off()
        if code:
            raise SystemExit(f"training failed with exit code {code}")
        model = yolov7.load(folder / "runs" / "exp" / "weights" / "best.pt", device="cpu", precision="fp32")
        image = folder / "data" / "images" / "0.png"
        model(image, conf=0.0)  # what is imported at the first call
        inference = Recorder(package)
        inference.on()
        model(image, conf=0.0).plot(folder / "found.png")
        inference.off()
    return {"batch -> loss": sorted(training.files), "image -> written result": sorted(inference.files)}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose package is measured")
    parser.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.fresh:  # a process that has imported nothing of another checkout
        sys.exit(subprocess.run([sys.executable, __file__, "--tree", str(options.tree.resolve()), "--fresh"],
                                check=False).returncode)
    for way, files in measure(options.tree).items():
        sys.stdout.write(f"{way}: {len(files)} files\n" + "".join(f"  {file}\n" for file in files))


if __name__ == "__main__":
    main()
