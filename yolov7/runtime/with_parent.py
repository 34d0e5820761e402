"""A module of Python as a process that ends with the one which started it.

``python -m yolov7.runtime.with_parent MODULE ARGUMENTS ...``: the other end of its standard input is held by whoever
started it. Where that is closed, on purpose or as that process was killed, this one is told to stop as by SIGTERM, and
a training answers with a checkpoint.
"""

from __future__ import annotations

import _thread
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

LAST_WORD = 120.0  # seconds from the end of the parent to the end of this process, if it does not end itself
STOPPED = 128 + signal.SIGTERM


def main() -> None:
    """See above."""
    signal.signal(signal.SIGTERM, _end)  # where nobody else answers it
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    module, *sys.argv[1:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end(*_: int | FrameType | None) -> None:
    sys.exit(STOPPED)


def _watch() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(LAST_WORD)
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
