"""Names that files cannot have, and what becomes of a file that cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov7.config.errors import InputError, RunError
from yolov7.config.messages import bounded

MAX_NAME, MAX_PATH = 255, 4095  # bytes, as nearly every system has it
CACHE_VARIABLE = "YOLOV7_CACHE_DIR"  # of the environment: the folder of all caches
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # of a write, which names no file


def user_cache() -> Path | None:
    """``${XDG_CACHE_HOME:-~/.cache}/yolov7``, which may not be there yet; None for a user without a home."""
    home = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    return home / "yolov7" if home.is_absolute() else None


def chosen_cache() -> Path | None:
    """``$YOLOV7_CACHE_DIR`` if set, else `user_cache`: for what stands beside no data."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(os.path.abspath(os.path.expanduser(named))) if named else user_cache()


class WriteError(RunError, OSError):
    """A file that cannot be written; the run has failed."""

    def __init__(self, path: str | Path, error: OSError) -> None:
        super().__init__(f"{path}: cannot be written: {error.strerror or error}")
        self.strerror = error.strerror


def check_path(path: str, where: str) -> str:
    """The same path; raises `InputError`, which calls it ``where``, for one that no file or folder can have."""
    shown = repr(bounded(path, 200))
    if "\0" in path:
        raise InputError(f"{where}: found {shown}, with a NUL character, which no name can hold")
    try:
        lengths = [len(os.fsencode(part)) for part in path.split(os.sep)]
    except UnicodeEncodeError:
        raise InputError(f"{where}: found {shown}, with characters that no name of a file can hold") from None
    if max(lengths) > MAX_NAME or sum(lengths) + len(lengths) > MAX_PATH:
        raise InputError(f"{where}: found {shown}, a name of {max(lengths)} bytes; accepted: up to {MAX_NAME}, and "
                         f"{MAX_PATH} with all its folders")
    return path


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """A system's error about this file, or about a disk that takes no more, becomes a `WriteError` that names it."""
    try:
        yield
    except OSError as error:
        named = {str(path), str(temporary)} & {str(error.filename), str(error.filename2)}
        if isinstance(error, RunError) or not (named or (error.filename is None and error.errno in FULL)):
            raise
        raise WriteError(path, error) from error
