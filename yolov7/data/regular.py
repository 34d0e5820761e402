"""Files of a data set that may be anything: only regular ones are opened, and only up to a size."""

from __future__ import annotations

import errno
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from yolov7.data.tar_members import read_member, split_member

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def open_regular(path: str | Path, limit: int) -> BinaryIO:
    """Open a file of at most ``limit`` bytes to read it, or a member of a tar file (see `tar_members`).

    Raises `OSError`, for pipes, devices, sockets and folders, too: some never begin, and some have no end.
    """
    try:  # without waiting for somebody to write into a pipe
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:
        raise OSError(errno.EINVAL, "not a name of a file") from None
    except (NotADirectoryError, FileNotFoundError):
        if split_member(path) is None:
            raise
        return BytesIO(read_member(path, limit))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise OSError(errno.EINVAL, f"{kind}; accepted: a regular file")
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes; accepted: up to {limit:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of such a file."""
    with open_regular(path, limit) as stream:
        return read_whole(stream, limit)


def read_whole(stream: BinaryIO, limit: int) -> bytes:
    """The content of an open file, up to a limit; no more memory is taken than it has bytes."""
    return stream.read(min(limit, length_of(stream)))


def length_of(stream: BinaryIO) -> int:
    """Bytes of an open file."""
    return len(stream.getbuffer()) if isinstance(stream, BytesIO) else os.fstat(stream.fileno()).st_size
