"""Decoded pictures of a split in one block of bytes that all loader processes share: ``--cache ram | disk``."""

from __future__ import annotations

import hashlib
import logging
import mmap
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.label_cache import cache_folder
from yolov7.data.scan import available_cores

logger = logging.getLogger(__name__)

MOST_OF_MEMORY = 0.9  # of what is free
_GIB, _MIB = 2**30, 2**20
_IN_FLIGHT = 64  # pictures that are decoded and not yet stored


class PictureCache:
    """Pictures of known shapes, one behind the other; filled when it is made, with the memory stated before.

    In memory it is shared with the processes that are forked later; on the disk it is a file in the data set's cache
    folder, mapped, and used again as long as no picture has changed. A picture that cannot be read is left out.
    Raises `InputError` where there is too little room.
    """

    def __init__(
        self, image_set: ImageSet, shapes: np.ndarray, place: str, load: Callable[[int], np.ndarray]
    ) -> None:
        self.shapes = shapes  # int32 [I, 2] height, width of the stored pictures
        self.offsets = np.concatenate(([0], np.cumsum(shapes.prod(1, dtype=np.int64) * 3)))
        count = len(shapes)
        size = int(self.offsets[-1]) + count  # behind the pixels one byte a picture: whether it is there
        if place == "ram":
            self._memory = _shared_memory(size, f"--cache ram, {image_set.split}")
            self._fill(load)
            return
        file = _cache_file(image_set, shapes)
        if not file.is_file() or file.stat().st_size != size:
            self._write(file, size, load, f"--cache disk, {image_set.split}")
        logger.info("--cache disk: %d pictures of %s in %s (%s)", count, image_set.split, file, size_text(size))
        self._memory = np.memmap(file, np.uint8, "r")

    def get(self, index: int) -> np.ndarray | None:
        """Pixels uint8 ``[h, w, 3]``, not to be written to, or nothing."""
        if not self._memory[self.offsets[-1] + index]:
            return None
        first, last = self.offsets[index], self.offsets[index + 1]
        height, width = self.shapes[index].tolist()
        return self._memory[first:last].reshape(height, width, 3)

    def _fill(self, load: Callable[[int], np.ndarray]) -> None:
        count = len(self.shapes)

        def store(index: int) -> None:
            try:
                picture = load(index)
            except InputError:  # said when a sample needs it
                return
            self._memory[self.offsets[index] : self.offsets[index + 1]] = picture.reshape(-1)
            self._memory[self.offsets[-1] + index] = 1

        progress = tqdm(total=count, desc="decode", unit="picture", leave=False, disable=None)
        with ThreadPoolExecutor(available_cores()) as pool, progress:  # OpenCV lets other threads run meanwhile
            indices = iter(range(count))
            while chunk := list(islice(indices, _IN_FLIGHT)):
                for _ in pool.map(store, chunk):
                    progress.update()

    def _write(self, file: Path, size: int, load: Callable[[int], np.ndarray], what: str) -> None:
        free = shutil.disk_usage(file.parent).free
        _check_room(size, free, f"{what}: {file.parent}", "a smaller --img-size needs less")
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            self._memory = np.memmap(temporary, np.uint8, "w+", shape=(size,))
            self._fill(load)
            self._memory.flush()
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        source = file.name.rpartition("_")[0]
        for outdated in file.parent.glob(f"{source}_*.pixels"):
            if outdated != file:
                outdated.unlink(missing_ok=True)


def _shared_memory(size: int, what: str) -> np.ndarray:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise InputError(f"{what}: this system cannot share memory with loader processes; accepted here: --cache disk")
    _check_room(size, int(MOST_OF_MEMORY * free_memory()), what, "--cache disk and a smaller --img-size need less")
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def _check_room(size: int, free: int, what: str, advice: str) -> None:
    text = f"{what}: the decoded pictures need {size_text(size)}, {size_text(free)} are free"
    if size > free:
        raise InputError(f"{text}; {advice}")
    logger.info("%s", text)


def size_text(size: int) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.1f} MiB"


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _number_in("/proc/meminfo", "MemAvailable:") * 1024 or total
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return min(free, max(limit - used, 0)) if limit else free


def _number_in(file: str, key: str = "") -> int:
    """The number behind a word in a file of the kernel; 0 where there is none."""
    try:
        words = Path(file).read_text(encoding="ascii").split()
    except OSError:
        return 0
    place = words.index(key) + 1 if key in words else 0
    return int(words[place]) if words and words[place].isdigit() else 0


def _cache_file(image_set: ImageSet, shapes: np.ndarray) -> Path:
    """One file for a split and size, its name a fingerprint of every picture."""
    near = Path(os.path.commonpath([os.path.dirname(path) for path in image_set.paths]))
    folder = cache_folder(near)
    if folder is None:
        raise InputError(f"--cache disk: no folder can be written to, neither beside {near} nor in the user's cache "
                         "folder; $YOLOV7_CACHE_DIR names one")
    content = hashlib.sha256(shapes.tobytes())
    for path in image_set.paths:
        stat = os.stat(path)
        entry = f"{os.path.relpath(path, near)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
        content.update(entry.encode("utf-8", "surrogateescape"))
    source = hashlib.sha256(f"{near}\0{image_set.split}\0{shapes.max()}".encode()).hexdigest()[:8]
    return folder / f"{image_set.split}_{shapes.max()}_{source}_{content.hexdigest()[:16]}.pixels"
