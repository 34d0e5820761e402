"""Folders of results: new ones, the best weights in them, and the lock that a training holds."""

from __future__ import annotations

import itertools
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from yolov7.config import InputError

logger = logging.getLogger(__name__)


def new_folder(project: str, name: str, exist_ok: bool) -> Path:
    """Create ``project/name``, with the first free number appended unless ``exist_ok``.

    Callers at the same time get different folders. Raises `InputError` where it cannot be created.
    """
    for number in itertools.count(1):
        folder = Path(project) / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError:
            if exist_ok:  # a file
                raise InputError(f"--project {project!r}: cannot create {folder}: a file is in its place") from None
        except OSError as error:
            raise InputError(f"--project {project!r}: cannot create {folder}: {error.strerror}") from None
    raise AssertionError("numbers do not end")


def find_weights(given: Sequence[str]) -> list[Path]:
    """`find_best` for each of the paths that a command was given."""
    return [find_best(path) for path in given or [""]]


def find_best(given: str, project: str = "runs/train") -> Path:
    """The path of weights; for an empty one ``best.pt`` of the latest run. Raises `InputError` where there is none."""
    if given:
        return Path(given)
    found = sorted(Path(project).rglob("best.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"--weights: not given, and no best.pt below {project!r}; train first, or name a weight file")
    return found[-1]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, and delete the half-written files of a killed process.

    The system releases the lock however the process ends, and child processes do not inherit it; its file stays.
    Raises `InputError` where another process trains in the folder, or where its lock is no file of its own. Without
    lock on systems and disks that have none.
    """
    with _open_lock(folder / ".lock") as file:
        _lock(file, folder)
        for path in (*folder.glob(".*.tmp"), *folder.glob("weights/.*.tmp")):
            with suppress(OSError):
                path.unlink()
        yield


def process_in(folder: Path) -> str:
    """The number of another process that holds the lock of a run's folder; '' where none does, or nobody can know."""
    path = folder / ".lock"
    try:
        import fcntl

        with open(path, encoding="ascii", errors="replace") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return path.read_text(encoding="ascii", errors="replace")[:20].strip() or "unknown"
    except (ImportError, OSError):
        return ""
    return ""


def _open_lock(path: Path) -> TextIO:
    """Open or create the file; never what a link leads to, as the file is written to."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        reason = "is a link" if path.is_symlink() else f"cannot be opened ({error.strerror})"
        raise InputError(f"{path}: {reason}; accepted: a file of its own, which the run makes") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or path.is_symlink():
        os.close(descriptor)
        raise InputError(f"{path}: is no file of its own (a link, pipe or device); remove it")
    return os.fdopen(descriptor, "r+", encoding="ascii", errors="replace")


def _lock(file: TextIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        process = file.read(20).strip()
        raise InputError(f"{folder}: process {process} trains in it; wait for its end, stop it, or take another "
                         "--name") from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s): do not start a second training in it", folder, error.strerror)
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
