"""Images inside of tar files: ``shards/train-000003.tar/000000000139.jpg`` is a path like any other.

A tar file is plain (not compressed), and only its regular files count; nothing is ever written to the disk, and no
other member is looked into. Which members there are is read once in a process, and again where the file has changed.
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from yolov7.data.mirror import mirror_of

_MARK = re.compile(r"\.tar[\\/]")
MAX_MEMBERS = 1_000_000  # of a tar file
MAX_NAME = 1_024  # bytes of a member's
KEPT_TABLES = 4_096  # tar files whose members a process remembers
KEPT_FILES = 32  # tar files that a process keeps open
TRIES = 5  # at a file that goes while it is read

Place = tuple[int, int]  # offset and length of a member


class _Tar:
    """A tar file as it was: what it holds, and where."""

    def __init__(self, path: str, stamp: tuple[int, int]) -> None:
        self.stamp = stamp  # size and time of change
        self.places = _places(path)


_TABLES: OrderedDict[str, _Tar] = OrderedDict()
_OPEN: OrderedDict[tuple[str, int, int], int] = OrderedDict()  # descriptors, which a fork may share: nobody seeks
_LOCK = Lock()


def split_member(path: str | Path) -> tuple[str, str] | None:
    """The tar file and the member that a path names, if it names one; a folder may be called ``.tar``, too.

    A tar file of a data set on a server (see `mirror`) need not be there.
    """
    text = os.fspath(path)
    for found in _MARK.finditer(text):
        file = text[: found.end() - 1]
        if os.path.isfile(file) or mirror_of(file) is not None:
            return file, text[found.end() :].replace("\\", "/")
    return None


def file_of_member(path: str) -> str:
    """The tar file that a path names by its words alone; '' where it names none."""
    found = _MARK.search(path)
    return path[: found.end() - 1] if found else ""


def is_there(path: str | Path) -> bool:
    """Whether this is a file, on its own or in a tar file; those of a server are believed to hold what is named."""
    return os.path.isfile(path) or fingerprint(path) is not None


def fingerprint(path: str | Path) -> tuple[int, int] | None:
    """Length of a member and time of change of its tar file, in nanoseconds; None where there is none.

    Of a data set on a server what is known of the tar file.
    """
    found = split_member(path)
    if found is None:
        return None
    if mirror := mirror_of(found[0]):
        return mirror.stamp(found[0]) if mirror.name_of(found[0]) else None
    try:
        tar, place = _find(*found)
    except OSError:
        return None
    return place[1], tar.stamp[1]


def read_member(path: str | Path, limit: int) -> bytes:
    """The content of a member of at most ``limit`` bytes. Raises `OSError`."""
    found = split_member(path)
    if found is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    file, member = found
    mirror = mirror_of(file)
    for _ in range(TRIES):
        if mirror is not None and not mirror.provide(file):
            raise OSError(errno.ENOENT, f"its data set has no {os.path.basename(file)}")
        tar, (offset, length) = _find(file, member)
        if length > limit:
            raise OSError(errno.EFBIG, f"{length:,} bytes; accepted: up to {limit:,}")
        try:
            content = _read(file, tar.stamp, offset, length)
            break
        except FileNotFoundError:  # one of a server made room for another meanwhile
            continue
    else:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if len(content) < length:
        raise OSError(errno.EIO, f"ends before its {length:,} bytes: its tar file is truncated")
    return content


def _find(file: str, member: str) -> tuple[_Tar, Place]:
    status = os.stat(file)
    stamp = status.st_size, status.st_mtime_ns
    with _LOCK:
        tar = _TABLES.get(file)
        if tar is None or tar.stamp != stamp:
            tar = _TABLES[file] = _Tar(file, stamp)
        _TABLES.move_to_end(file)
        while len(_TABLES) > KEPT_TABLES:
            _TABLES.popitem(last=False)
    if member not in tar.places:
        raise OSError(errno.ENOENT, f"is not in {file}")
    return tar, tar.places[member]


def _places(path: str) -> dict[str, Place]:
    """Offset and length of each regular file by its name; of two of one name the last counts, as in tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {member.name.removeprefix("./"): (member.offset_data, member.size) for member in _members(tar)}
    except tarfile.TarError:
        raise OSError(errno.EINVAL, "is not a plain tar file (a compressed one is not read; unpack it: gunzip, xz -d)"
                      ) from None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(tar):
        if number >= MAX_MEMBERS:
            raise OSError(errno.EFBIG, f"more than {MAX_MEMBERS:,} members; accepted: fewer")
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
        if member.isreg() and not member.issparse() and len(member.name) <= MAX_NAME:
            yield member


def _read(file: str, stamp: tuple[int, int], offset: int, length: int) -> bytes:
    """A part of a tar file, which stays open; one that has changed is opened anew."""
    if not hasattr(os, "pread"):
        with open(file, "rb") as stream:
            stream.seek(offset)
            return stream.read(length)
    with _LOCK:
        key = (file, *stamp)
        if key not in _OPEN:
            _close_removed()
            _OPEN[key] = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        _OPEN.move_to_end(key)
        while len(_OPEN) > KEPT_FILES:
            os.close(_OPEN.popitem(last=False)[1])
        return os.pread(_OPEN[key], length, offset)


def _close_removed() -> None:
    """A file that was removed takes its place on the disk as long as somebody has it open."""
    for key in [key for key, descriptor in _OPEN.items() if not os.fstat(descriptor).st_nlink]:
        os.close(_OPEN.pop(key))
