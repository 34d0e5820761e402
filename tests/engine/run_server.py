"""Runs of the command line as processes of their own, forked from one that has imported everything already.

Reads a line ``{"arguments": [...], "log": path, "phase": path}`` as JSON for each run and answers with its process
number; an empty line waits for that run and answers with its exit code (minus the signal that killed it). While a run
goes on, the first byte of its phase file says what it is in: ``T`` training, ``E`` evaluation, ``C`` the writing of a
checkpoint, ``-`` anything else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from yolov7 import cli
from yolov7.engine import run as _  # noqa: F401  # imported before the fork
from yolov7.engine.trainer import Trainer
from yolov7.model import weights


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


def child(arguments: list[str], log: str, phase: str) -> int:
    """One run, in the forked process."""
    torch.set_num_threads(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    descriptor = os.open(phase, os.O_WRONLY | os.O_CREAT)
    phases = [b"-"]
    os.pwrite(descriptor, b"-", 0)
    Trainer._train_epoch = mark(Trainer._train_epoch, b"T", phases, descriptor)  # type: ignore[method-assign]
    Trainer._evaluate = mark(Trainer._evaluate, b"E", phases, descriptor)  # type: ignore[method-assign]
    weights.save = mark(weights.save, b"C", phases, descriptor)
    return cli.main(arguments)


def serve() -> None:
    """Answer the lines of the standard input."""
    process = 0
    for line in sys.stdin:
        if line.strip():
            command = json.loads(line)
            process = os.fork()
            if process == 0:
                code = child(command["arguments"], command["log"], command["phase"])
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            answer = process
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
