"""``python train.py ...`` is ``yolov7 train ...``: flags in `yolov7/engine/run_config.py`, work in `yolov7/cli.py`."""

import sys

from yolov7.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:], "train.py"))
