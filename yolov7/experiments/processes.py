"""Trainings in processes of their own, several at a time where there are several devices.

A training is asked to stop, and ends by itself where this process ends, by the end of its standard input (see
`yolov7.runtime.with_parent`). What it prints goes to ``train.log`` in its folder; how far it is, its ``results.csv``
says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from yolov7.config import InputError, atomic_write, read_bytes
from yolov7.config.errors import describe_value
from yolov7.config.program import words_of
from yolov7.experiments.run_folders import NUMBERS, Epoch, RunFolder
from yolov7.runtime.device import available_cores
from yolov7.runtime.folders import process_in

LOG, FLAGS = "train.log", "job.json"
UNIMPORTANT = ("workers", "log")  # flags that may change while a run goes on
TAKEN = " trains in it; "  # in the message of a training whose folder another one holds
TAIL = 20_000  # bytes of it that a message is looked for in
MAX_FLAGS = 1 << 20  # bytes
LAST_WORD = 90.0  # seconds that a training has to stop in: it writes a checkpoint
Outcome = Literal["finished", "stopped", "failed", "elsewhere"]


@dataclass(frozen=True)
class Job:
    """A training: the flags of ``train`` by their names, without those that say where it lies and runs."""

    folder: Path
    options: Mapping[str, Any]
    label: str = ""

    @property
    def epochs(self) -> int:
        """How many it has."""
        return int(self.options["epochs"])

    def is_finished(self) -> bool:
        """Whether it has nothing left to do."""
        return RunFolder(self.folder).is_finished(self.epochs)

    def is_elsewhere(self) -> bool:
        """Whether a process trains in its folder."""
        return bool(process_in(self.folder))

    def note(self) -> None:
        """Write the flags beside the run; raises `InputError` where a run with other flags lies there already."""
        noted = {name: value for name, value in self.options.items() if name not in UNIMPORTANT}
        note_flags(self.folder, noted, "another --project")


def note_flags(folder: Path, flags: Mapping[str, Any], instead: str) -> None:
    """Write what is done in a folder, or raise `InputError` where that is something else than what was done before."""
    folder.mkdir(parents=True, exist_ok=True)
    path, own = folder / FLAGS, json.loads(json.dumps(dict(flags)))
    if not path.is_file():
        atomic_write(path, json.dumps(own, indent=1))
        return
    before = _flags_in(path)
    for name in [*own, *(name for name in before if name not in own)]:
        if own.get(name) != before.get(name):
            raise InputError(f"{folder}: was begun with {name} {before.get(name)!r}, this is {own.get(name)!r}; take "
                             f"{instead}, or delete that folder")


def _flags_in(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(path, MAX_FLAGS))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); delete it to begin that run anew") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: found {describe_value(found)}; accepted: an object of flags")
    return found


@dataclass(frozen=True)
class Place:
    """Where a training runs: one device, or several that share it."""

    devices: tuple[str, ...] = ("",)
    threads: int = 0  # of the processor, of each process; 0: as PyTorch decides

    def command(self, options: Mapping[str, Any]) -> list[str]:
        """The words behind ``python -m``."""
        share = {"workers": self.threads} if self.threads else {}
        words = ["yolov7", "train", *words_of({**share, **options, "device": self._flag()})]
        if len(self.devices) == 1:
            return words
        return ["torch.distributed.run", "--standalone", "--nproc-per-node", str(len(self.devices)), "-m", *words]

    def _flag(self) -> str | None:
        return None if len(self.devices) > 1 and self.devices[0] != "cpu" else self.devices[0] or None

    def environment(self) -> dict[str, str]:
        """What such a process finds."""
        found = dict(os.environ)
        if self.threads:
            found.setdefault("OMP_NUM_THREADS", str(self.threads))
        if len(self.devices) > 1 and self.devices[0] != "cpu":
            found["CUDA_VISIBLE_DEVICES"] = ",".join(device.removeprefix("cuda:") for device in self.devices)
        return found


def places(devices: Sequence[str], together: int) -> list[Place]:
    """A place for each ``together`` of the devices, in their order; raises `InputError` where they do not come out.

    Without devices it is the one that a training takes by itself. Those on the processor share its cores.
    """
    devices = devices or ("",)
    if len(devices) % together:
        raise InputError(f"--devices-per-run {together}: does not divide the {len(devices)} devices of --devices "
                         f"({' '.join(devices)})")
    groups = [tuple(devices[start : start + together]) for start in range(0, len(devices), together)]
    for group in groups:
        if len({device == "cpu" for device in group}) > 1:
            raise InputError(f"--devices {' '.join(devices)}: {' and '.join(group)} would share a run; accepted: GPUs "
                             "alone or cpu alone")
    on_processor = sum(device == "cpu" for device in devices)
    threads = max(available_cores() // on_processor, 1) if on_processor > 1 else 0
    return [Place(group, threads if group[0] == "cpu" else 0) for group in groups]


@dataclass(eq=False)
class TrainingProcess:
    """A training that runs; it goes on where it was stopped before."""

    job: Job
    place: Place
    process: subprocess.Popen[bytes] = field(init=False)
    _seen: int = 0  # epochs that were told
    _changed: int = -1  # of the table of epochs
    _asked: float = 0.0  # when it was asked to stop

    def __post_init__(self) -> None:
        folder = self.job.folder
        folder.mkdir(parents=True, exist_ok=True)
        resumed = (folder / "weights" / "last.pt").is_file()
        options = {"resume": str(folder)} if resumed else dict(self.job.options)
        options |= {"project": str(folder.parent)} | ({} if resumed else {"name": folder.name, "exist_ok": True})
        command = [sys.executable, "-m", "yolov7.runtime.with_parent", *self.place.command(options)]
        with open(folder / LOG, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                                            env=self.place.environment(), start_new_session=True)

    def new_epochs(self) -> list[Epoch]:
        """The epochs that have been finished since the last call, or the start, in their order."""
        with suppress(OSError):
            changed = (self.job.folder / NUMBERS).stat().st_mtime_ns
            if changed != self._changed:
                self._changed = changed
                rows = RunFolder(self.job.folder).epochs
                new, self._seen = rows[self._seen :], max(len(rows), self._seen)
                return new
        return []

    def stop(self) -> None:
        """Ask it to end with a checkpoint; one that does not within `LAST_WORD` seconds is killed by `outcome`."""
        self._asked = self._asked or time.monotonic()
        if self.process.stdin and not self.process.stdin.closed:
            with suppress(OSError):
                self.process.stdin.close()

    def outcome(self) -> Outcome | None:
        """How it has ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            if self._asked and time.monotonic() - self._asked > LAST_WORD:
                self.process.kill()
            return None
        if self.process.stdin:
            with suppress(OSError):
                self.process.stdin.close()
        if code == 0 or self.job.is_finished():
            return "finished"
        if self._asked:
            return "stopped"
        return "elsewhere" if TAKEN in self.last_words() else "failed"

    def last_words(self) -> str:
        """Why it has failed, as it says itself."""
        text = ""
        with suppress(OSError), open(self.job.folder / LOG, "rb") as log:
            log.seek(max(os.fstat(log.fileno()).st_size - TAIL, 0))
            text = log.read().decode("utf-8", "replace")
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else f"exit code {self.process.returncode}"
