"""What was read of a data set, kept for the next start: one ``.npz`` of plain arrays for each split.

A row is trusted as long as size and time of change of its files are the same. Nothing in the file is executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config import CACHE_VARIABLE, atomic_path, reason_of, user_cache
from yolov7.data.objects import Column, objects_from
from yolov7.data.scan import UNREADABLE, Entries, Finding, join, map_chunks, take

logger = logging.getLogger(__name__)

BESIDE_THE_DATA = ".yolov7-cache"
FORMAT = "yolov7 labels"
VERSION = 2  # of the file's arrays: to be raised with every change of the columns of `Objects`
RULES = 5  # to be raised with every change of what is read from the same files, of what is dropped, of the messages
_ARRAYS = {"sizes": Column("<i4", (2,)), "usable": Column("|b1"), "offsets": Column("<i8")}  # of the images


def cache_folder(near: Path) -> Path | None:
    """An existing folder for caches of the data in ``near``, or None where nothing can be written: memory only.

    ``$YOLOV7_CACHE_DIR`` if set; else ``<near>/.yolov7-cache``; else ``${XDG_CACHE_HOME:-~/.cache}/yolov7``. For
    labels, ``near`` is the folder that the split's relative path starts from: the YAML's ``path``, else the YAML's
    own folder, or the folder in COCO layout.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        folder = Path(os.path.abspath(os.path.expanduser(named)))
        if _can_write(folder):
            return folder
        logger.warning("%s=%s: cannot be written to; nothing is cached", CACHE_VARIABLE, named)
        return None
    places = [near / BESIDE_THE_DATA] if _is_open(near) else []
    places += [home] if (home := user_cache()) else []
    return next(filter(_can_write, places), None)


def _is_open(folder: Path) -> bool:
    """Whether someone may write to this folder. Root may write to any, but a read-only folder is meant to stay so."""
    return folder.is_dir() and bool(folder.stat().st_mode & 0o222)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@dataclass(frozen=True, eq=False)
class Cached:
    """Entries, the names (relative to the data set's root) and fingerprints of their files, and where they are from."""

    described: dict[str, Any]  # what must be the same, or nothing of this holds
    keys: Sequence[str]
    stats: np.ndarray  # int64 [I, F]
    entries: Entries
    extra: dict[str, Any] = field(default_factory=dict)

    def rows(self, keys: Sequence[str], stats: np.ndarray) -> np.ndarray:
        """The row of each of these files, -1 where it is new or has changed: int64 ``[N]``."""
        place = {key: row for row, key in enumerate(self.keys)}
        rows = np.array([place.get(key, -1) for key in keys], np.int64)
        known = np.flatnonzero(rows >= 0)
        changed = (self.stats[rows[known]] != stats[known]).any(1)
        rows[known[changed]] = -1
        return rows


class LabelCache:
    """The cache file of one split; ``near`` as for `cache_folder`.

    The file's name tells data sets apart by their ``sources``: relative to ``near`` where the cache stands beside the
    data, so that it is found again after the folder has moved.
    """

    def __init__(self, near: Path, split: str, sources: Sequence[Path]) -> None:
        self.root = os.path.abspath(near)
        folder = cache_folder(near)
        self.file: Path | None = None
        if folder is not None:
            beside = folder == near / BESIDE_THE_DATA
            names = [os.path.relpath(source, near) if beside else os.path.abspath(source) for source in sources]
            digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
            self.file = folder / f"labels_{split}_{digest[:12]}.npz"

    def keys(self, paths: Iterable[str]) -> list[str]:
        """Paths without the root, which may move."""
        prefix = f"{self.root}{os.sep}"
        return [path.replace(prefix, "") for path in paths]

    def load(self, described: dict[str, Any], classes: int | None = None) -> Cached | None:
        """What the file holds, unless it was made of something else or by other rules. A damaged one is as none.

        Without ``classes`` it is the caller who checks labels.
        """
        try:
            with self._open() as arrays:
                header = _header(arrays)
                if header["described"] != _described(described):
                    return None
                return _validated(arrays, header, described, classes)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  whatever a file of any content may raise: it is only a cache
            logger.warning("%s: is not a cache that can be read (%s); it is made anew", self.file, reason_of(error))
            return None

    def peek(self) -> dict[str, Any]:
        """``described`` and ``extra`` of the file, without its arrays; empty where there is none."""
        try:
            with self._open() as arrays:
                header = _header(arrays)
                versions = header["described"]["version"], header["described"]["rules"]
                return {**header["described"], **header["extra"]} if versions == (VERSION, RULES) else {}
        except Exception:  # noqa: BLE001  `load` will say what is wrong with it
            return {}

    def _open(self) -> Any:
        if self.file is None or not self.file.is_file():
            raise FileNotFoundError
        arrays = np.load(self.file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("not an .npz file")
        return arrays

    def store(self, cached: Cached) -> None:
        """Write the file under a temporary name, then rename it. Where that fails, there is no cache."""
        if self.file is None:
            return
        stats = cached.stats.copy()
        always_stale = [item.entry for item in cached.entries.findings if item.reason.startswith(UNREADABLE)]
        stats[always_stale] = -2
        header = {"described": _described(cached.described), "extra": cached.extra,
                  "findings": [list(item) for item in cached.entries.findings]}
        arrays = {name: getattr(cached.entries, name) for name in _ARRAYS} | cached.entries.objects.arrays()
        try:
            # not flushed to the disk: a damaged cache is found by its checksum
            with atomic_path(self.file) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, header=_as_bytes(json.dumps(header)), keys=_as_bytes("\0".join(cached.keys)),
                         stats=stats, **arrays)
        except OSError as error:
            logger.warning("%s: cannot be written (%s); nothing is cached", self.file, error.strerror or error)


def read_changed(read: Callable[..., Entries], columns: Sequence[Sequence[str]], cached: Cached | None,
                 keys: Sequence[str], stats: np.ndarray, description: str) -> Entries:
    """Entries of files: out of the cache, or read anew where they are new or have changed.

    ``columns`` are names of files, a row each; ``read`` takes a part of each column.
    """
    rows = cached.rows(keys, stats) if cached else np.full(len(keys), -1)
    new = np.flatnonzero(rows < 0)
    parts = [cached.entries] if cached else []
    rows[new] = np.arange(len(new)) + sum(map(len, parts))
    parts += map_chunks(read, [[column[row] for row in new.tolist()] for column in columns], description)
    return take(join(parts), rows) if parts else read(*columns)


def _described(described: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "rules": RULES, **described}


def _header(arrays: Any) -> dict[str, Any]:
    header = json.loads(_as_text(arrays["header"]))
    if header["described"]["format"] != FORMAT:
        raise ValueError(f"the format {header['described']['format']!r}; accepted: {FORMAT!r}")
    return header  # type: ignore[no-any-return]


def _validated(arrays: Any, header: dict[str, Any], described: dict[str, Any], classes: int | None) -> Cached:
    """The content, if all of it fits together."""
    columns = {name: arrays[name] for name in _ARRAYS}
    for name, column in _ARRAYS.items():
        column.check(name, columns[name])
    objects = objects_from(arrays)
    text, stats = _as_text(arrays["keys"]), arrays["stats"]
    keys = text.split("\0") if text else []
    findings = tuple(Finding(*item) for item in header["findings"])
    entries = Entries(**columns, objects=objects, findings=findings)
    count, offsets = len(entries), entries.offsets
    if stats.dtype != np.int64 or not len(keys) == len(stats) == count == len(entries.usable):
        raise ValueError("its rows do not fit together")
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(objects) or (np.diff(offsets) < 0).any():
        raise ValueError("its offsets do not fit together")
    if classes is not None:
        check_labels(objects.labels, classes)
    if any(item.entry not in range(-1, count) or not isinstance(item.reason, str) for item in findings):
        raise ValueError("its faults do not fit its images")
    return Cached(described, keys, stats, entries, header["extra"])


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raise `ValueError` for labels from nowhere."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError("its labels are of other classes")


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _as_text(array: np.ndarray) -> str:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"a text is {array.dtype} {array.shape}")
    return array.tobytes().decode("utf-8", "surrogateescape")
