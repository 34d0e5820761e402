"""``python test.py ...`` is ``yolov7 test ...``: flags in `yolov7/config/options.py`, work in `yolov7/cli.py`."""

import sys

from yolov7.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("test", sys.argv[1:], "test.py"))
