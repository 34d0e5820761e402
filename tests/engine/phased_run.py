"""``python phased_run.py FILE train ...``: a run that says in the first byte of a file what it is in.

``T`` training, ``E`` evaluation, ``R`` the writing of the record behind them, ``-`` anything else; the second byte is
``C`` while a thread writes a checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from yolov7 import cli
from yolov7.engine import checkpoints
from yolov7.engine.log import RunLog
from yolov7.engine.trainer import Trainer


def mark(function: Callable[..., Any], letter: bytes, phases: list[bytes], descriptor: int) -> Callable[..., Any]:
    """The same function, announced in the phase file while it runs."""

    def marked(*arguments: Any, **named: Any) -> Any:
        phases.append(letter)
        os.pwrite(descriptor, letter, 0)
        try:
            return function(*arguments, **named)
        finally:
            phases.pop()
            os.pwrite(descriptor, phases[-1], 0)

    return marked


def mark_writing(function: Callable[..., Any], descriptor: int) -> Callable[..., Any]:
    """The same function, announced in the second byte, with a moment around it: a kill can be aimed at it."""

    def marked(*arguments: Any) -> Any:
        os.pwrite(descriptor, b"C", 1)
        try:
            time.sleep(0.002)
            result = function(*arguments)
            time.sleep(0.006)
            return result
        finally:
            os.pwrite(descriptor, b"-", 1)

    return marked


def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which begins after a moment: a kill can be aimed at it."""

    def begun_late(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.01)
        return function(*arguments, **named)

    return begun_late


def main(phase: str, *arguments: str) -> int:
    """The run with these arguments."""
    descriptor = os.open(phase, os.O_WRONLY | os.O_CREAT)
    phases = [b"-"]
    os.pwrite(descriptor, b"--", 0)
    Trainer.train_epoch = mark(Trainer.train_epoch, b"T", phases, descriptor)  # type: ignore[method-assign]
    Trainer._evaluate = mark(Trainer._evaluate, b"E", phases, descriptor)  # type: ignore[method-assign]
    RunLog.add_epoch = mark(slowly(RunLog.add_epoch), b"R", phases, descriptor)  # type: ignore[method-assign]
    checkpoints.atomic_write = mark_writing(checkpoints.atomic_write, descriptor)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
