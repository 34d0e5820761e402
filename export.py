"""``python export.py ...`` is ``yolov7 export ...``: flags in `yolov7/config/options.py`, work in `yolov7/cli.py`."""

import sys

from yolov7.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:], "export.py"))
