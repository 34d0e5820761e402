"""Data sets of tar files on a server (``--data s3://bucket/set``): a folder on this disk has of them what is needed.

The folder stands in the user's cache. Annotations and the lists of tar files are fetched when the data set is opened,
tar files when an image of theirs is read, or a window ahead (`yolov7.data.windows`); those that were used longest ago
go where room is needed. What is fetched must have the checksum that its list states. A process finds the data set by
the note in its folder; of several processes on a machine one fetches a file, and the others wait for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from yolov7.config import CACHE_VARIABLE, InputError, atomic_write, checksum, chosen_cache, read_bytes
from yolov7.config.messages import size_text
from yolov7.data.remote import RemoteError, RemoteFolder, check_address
from yolov7.data.shard_list import MAX_LIST, SPLITS, ShardList, annotations_path, list_path, parse_list
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

NOTE = "mirror.json"  # in the folder
DEPTH = 2  # folders between it and a tar file: images/<split>
ROOM_VARIABLE = "YOLOV7_CACHE_ROOM"  # GiB, for the tar files of a data set
SHARE = 0.8  # of the free disk, where nobody says
USED_EVERY = 30.0  # seconds between notes of a file's use
WAIT = 3600.0  # seconds for another process that fetches
ABANDONED = 900.0  # seconds since a part of a file was written
AT_A_TIME = 4  # tar files that are fetched while nothing else is done


@dataclass(frozen=True, eq=False)
class Mirror:
    """The folder of a data set on this disk; ``files`` are its tar files with their bytes and checksums."""

    root: Path
    address: str
    room: int  # bytes
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    def name_of(self, file: str) -> str:
        """How a file of the folder is called in the data set; '' for one that is none of its tar files."""
        name = os.path.relpath(file, self.root).replace(os.sep, "/") if file else ""
        return name if name in self.files else ""

    def stamp(self, file: str) -> tuple[int, int]:
        """What tells a file from another of this name, whether it is there or not: its bytes, and of its checksum."""
        length, sha256 = self.files[self.name_of(file)]
        return length, int(sha256[:15], 16)

    def provide(self, file: str, wait: bool = True) -> bool:
        """Fetch a file, unless it is there; whether it is there now. Raises `RemoteError`.

        Where another process fetches it, that is waited for, or left to it.
        """
        name = self.name_of(file)
        if not name:
            return False
        if _is_used(file):
            return True
        lock = self.root / ".locks" / f"{name.replace('/', '_')}.lock"
        lock.parent.mkdir(exist_ok=True)
        try:
            with FileLock(lock, timeout=WAIT if wait else 0):
                if not _is_used(file):
                    self._make_room(self.files[name][0])
                    RemoteFolder(self.address).download(name, Path(file), *self.files[name])
        except Timeout:
            if wait:
                raise RemoteError(f"{self.address}/{name}: another process has been fetching it for {WAIT:.0f} s; "
                                  f"where there is none, remove {lock}") from None
            return False
        return True

    def _make_room(self, needed: int) -> None:
        """Remove the tar files that were used longest ago, until there is room; what is being fetched counts."""
        with FileLock(self.root / ".locks" / "room.lock", timeout=WAIT):
            there, parts = (_files(self.root, pattern) for pattern in ("*.tar", ".*.tmp"))
            abandoned = [path for path, status in parts if time.time() - status.st_mtime > ABANDONED]
            taken = needed + sum(status.st_size for path, status in (*there, *parts) if path not in abandoned)
            for path, status in sorted(there, key=lambda found: found[1].st_atime_ns):
                if taken <= self.room:
                    break
                abandoned.append(path)
                taken -= status.st_size
            for path in abandoned:
                path.unlink(missing_ok=True)

    def check_room(self, needed: int, what: str) -> None:
        """Raise `InputError` where so many bytes of tar files have no room at the same time."""
        if needed > self.room:
            raise InputError(f"{self.address}: {what} takes {size_text(needed)} in {self.root}, there is room for "
                             f"{size_text(self.room)}; accepted: a smaller --shard-window, another disk "
                             f"(${CACHE_VARIABLE}), more room (${ROOM_VARIABLE}, in GiB)")


def _files(root: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    """Files beside the lists, as they are now."""
    found = []
    for path in root.glob(f"images/*/{pattern}"):
        with suppress(OSError):  # it went meanwhile
            found.append((path, path.stat()))
    return found


_USED: dict[str, float] = {}


def _is_used(file: str) -> bool:
    """Whether a file is there; that it is used is noted now and then."""
    now = time.monotonic()
    if now - _USED.get(file, -USED_EVERY) < USED_EVERY:
        return os.path.exists(file)
    try:
        os.utime(file, ns=(time.time_ns(), os.stat(file).st_mtime_ns))
    except OSError:
        return False
    _USED[file] = now
    return True


def mirror_of(file: str | Path) -> Mirror | None:
    """The data set that a tar file belongs to, whether the file is there or not."""
    text = os.fspath(file)
    root = text
    for _ in range(DEPTH + 1):
        root = os.path.dirname(root)
    return mirror_in(root) if root else None


def mirror_in(root: str | Path) -> Mirror | None:
    """The data set whose folder this is."""
    note = os.path.join(root, NOTE)
    try:
        stamp = os.stat(note).st_mtime_ns
    except (OSError, ValueError):
        return None
    return _read_note(note, stamp)


@lru_cache(maxsize=8)
def _read_note(note: str, _: int) -> Mirror | None:
    try:
        said = json.loads(read_bytes(note, MAX_LIST))
        files = {str(name): (int(length), str(sha256)) for name, (length, sha256) in said["files"].items()}
        return Mirror(Path(note).parent, str(said["address"]), int(said["room"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, InputError):
        return None


# --- opening ---------------------------------------------------------------------------------------------------


def open_mirror(address: str) -> Mirror:
    """Fetch lists and annotations of a data set. Raises `InputError` for an address without one."""
    address = check_address(address, "--data")
    root = _folder_of(address)
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    remote = RemoteFolder(address)
    with FileLock(root / ".locks" / "open.lock", timeout=WAIT):
        lists = [found for split in SPLITS if (found := _fetch_list(remote, root, split))]
        if not lists:
            raise InputError(f"--data {address}: has none of {', '.join(map(list_path, SPLITS))}; accepted: a data set "
                             "that `yolov7 data shard` has written")
        files = {f"images/{one.split}/{file.name}": (file.bytes, file.sha256) for one in lists for file in one.files}
        mirror = Mirror(root, address, _room(root), files)
        atomic_write(root / NOTE, json.dumps({"address": address, "room": mirror.room, "files": files}))
    whole = sum(length for length, _ in files.values())
    held = "all" if whole <= mirror.room else size_text(mirror.room)
    logger.info("%s: %d tar files (%s), fetched as they are needed into %s, which holds %s of them", address,
                len(files), size_text(whole), root, held)
    return mirror


def _folder_of(address: str) -> Path:
    place = chosen_cache()
    if place is None:
        raise InputError(f"--data {address}: no folder can be written to; ${CACHE_VARIABLE} names one")
    name = re.sub(r"[^\w.-]+", "_", address.rpartition("/")[2])[:40]
    folder = place / "remote" / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--data {address}: {folder} cannot be made ({error.strerror}); ${CACHE_VARIABLE} names "
                         "another place") from None
    return folder


def _room(root: Path) -> int:
    if said := os.environ.get(ROOM_VARIABLE):
        try:
            room = float(said)
        except ValueError:
            room = 0.0
        if not 0 < room < 1e9:
            raise InputError(f"${ROOM_VARIABLE}: found {said!r}; accepted: GiB of the disk, a number above 0")
        return int(room * 2**30)
    there = sum(status.st_size for _, status in _files(root, "*.tar"))
    return int(SHARE * (shutil.disk_usage(root).free + there))


def _fetch_list(remote: RemoteFolder, root: Path, split: str) -> ShardList | None:
    """The list of a split, with its annotations as they are now; tar files that are others now go."""
    content = remote.read(list_path(split), MAX_LIST)
    if content is None:
        return None
    found = parse_list(content, f"{remote.address}/{list_path(split)}")
    if found.split != split:
        raise InputError(f"{remote.address}/{list_path(split)}: is of the split {found.split!r}")
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    before = folder / Path(list_path(split)).name
    if before.is_file():
        _forget_changed(folder, parse_list(read_bytes(before, MAX_LIST), before), found)
    annotations = root / annotations_path(split)
    length, sha256 = found.annotations.bytes, found.annotations.sha256
    if not annotations.is_file() or checksum(annotations) != (length, sha256):
        remote.download(annotations_path(split), annotations, length, sha256)
    atomic_write(before, content)
    return found


def _forget_changed(folder: Path, before: ShardList, now: ShardList) -> None:
    kept = {file.name: file.sha256 for file in now.files}
    for file in before.files:
        if kept.get(file.name) != file.sha256:
            (folder / file.name).unlink(missing_ok=True)


# --- fetching -----------------------------------------------------------------------------------------------------


def fetch(mirror: Mirror, files: Sequence[str], what: str) -> None:
    """Fetch what is not there, some at a time, and show how far that is. Raises `RemoteError`."""
    missing = [file for file in dict.fromkeys(files) if not os.path.exists(file)]
    if not missing:
        return
    progress: Progress[str] = Progress(description=f"fetching {what}", total=len(missing), unit="tar files")
    with ThreadPoolExecutor(AT_A_TIME) as pool, progress:
        for _ in pool.map(mirror.provide, missing):
            progress.update()


class Ahead:
    """A thread that fetches files which will be needed soon; what fails here fails again where it is needed."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the thread is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def fetch(self, files: Sequence[str]) -> None:
        """Begin; files that another process fetches are left to it."""
        self._thread = threading.Thread(target=self._work, args=(tuple(files),), daemon=True)
        self._thread.start()

    def _work(self, files: Sequence[str]) -> None:
        for file in files:
            with suppress(RemoteError, InputError, OSError):
                self._mirror.provide(file, wait=False)
