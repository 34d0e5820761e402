"""Images of a split at the size at which they are used: from their files, or from one block of bytes.

All loader processes share the block.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from yolov7.config import InputError, atomic_path
from yolov7.config.messages import size_text
from yolov7.data.image_set import ImageSet
from yolov7.data.images import (
    common_jpeg_size,
    load_for_warp,
    load_image,
    read_image_file,
    resize_long_side,
    resized_shape,
)
from yolov7.data.label_cache import cache_folder
from yolov7.data.objects import starts_of
from yolov7.data.scan import fingerprints
from yolov7.runtime.device import available_cores
from yolov7.runtime.memory import free_memory
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

MAX_SHARE_OF_MEMORY = 0.9  # of what is free
_IN_FLIGHT = 64  # images that are decoded and not yet stored


class ImageCache:
    """Images of known shapes, one behind the other; filled when it is made, with the memory stated before.

    In memory it is shared with the processes that are forked later; on the disk it is a file in the data set's cache
    folder, mapped, and used again as long as no image has changed. An image that cannot be read is left out.
    Raises `InputError` where there is too little room.
    """

    def __init__(self, image_set: ImageSet, shapes: np.ndarray, place: str, load: Callable[[int], np.ndarray]) -> None:
        self.shapes = shapes  # int32 [I, 2] height, width of the stored images
        self.offsets = starts_of(shapes.prod(1, dtype=np.int64) * 3)
        count = len(shapes)
        size = int(self.offsets[-1]) + count  # behind the pixels one byte an image: whether it is there
        if place == "ram":
            self._memory = _shared_memory(size, f"--cache ram, {image_set.split}")
            self._fill(load)
            return
        file = _cache_file(image_set, shapes)
        if not file.is_file() or file.stat().st_size != size:
            self._write(file, size, load, f"--cache disk, {image_set.split}")
        logger.info("--cache disk: %d images of %s in %s (%s)", count, image_set.split, file, size_text(size))
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
                image = load(index)
            except InputError:  # said when a sample needs it
                return
            self._memory[self.offsets[index] : self.offsets[index + 1]] = image.reshape(-1)
            self._memory[self.offsets[-1] + index] = 1

        progress = Progress[int](description="decode", total=count, unit="images")
        with ThreadPoolExecutor(available_cores()) as pool, progress:  # OpenCV lets other threads run meanwhile
            indices = iter(range(count))
            while chunk := list(islice(indices, _IN_FLIGHT)):
                for _ in pool.map(store, chunk):
                    progress.update()

    def _write(self, file: Path, size: int, load: Callable[[int], np.ndarray], what: str) -> None:
        free = shutil.disk_usage(file.parent).free
        _check_room(size, free, f"{what}: {file.parent}", "a smaller --img-size needs less")
        with atomic_path(file) as temporary:
            self._memory = np.memmap(temporary, np.uint8, "w+", shape=(size,))
            self._fill(load)
            self._memory.flush()
        source = file.name.rpartition("_")[0]
        for outdated in file.parent.glob(f"{source}_*.pixels"):
            if outdated != file:
                outdated.unlink(missing_ok=True)


def _shared_memory(size: int, what: str) -> np.ndarray:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise InputError(f"{what}: this system cannot share memory with loader processes; accepted here: --cache disk")
    free = int(MAX_SHARE_OF_MEMORY * free_memory(torch.device("cpu")))
    _check_room(size, free, what, "--cache disk and a smaller --img-size need less")
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def _check_room(size: int, free: int, what: str, advice: str) -> None:
    text = f"{what}: the decoded images need {size_text(size)}, {size_text(free)} are free"
    if size > free:
        raise InputError(f"{text}; {advice}")
    logger.info("%s", text)


def _cache_file(image_set: ImageSet, shapes: np.ndarray) -> Path:
    """One file for a split and size, its name a fingerprint of every image."""
    near = Path(os.path.commonpath([os.path.dirname(path) for path in image_set.paths]))
    folder = cache_folder(near)
    if folder is None:
        raise InputError(f"--cache disk: no folder can be written to, neither beside {near} nor in the user's cache "
                         "folder; $YOLOV7_CACHE_DIR names one")
    content = hashlib.sha256(shapes.tobytes())
    for path, (size, changed) in zip(image_set.paths, fingerprints(image_set.paths).tolist(), strict=True):
        entry = f"{os.path.relpath(path, near)}\0{size}\0{changed}\0"
        content.update(entry.encode("utf-8", "surrogateescape"))
    place = f"{near}\0{image_set.split}\0{shapes.max()}".encode("utf-8", "surrogateescape")
    source = hashlib.sha256(place).hexdigest()[:8]
    return folder / f"{image_set.split}_{shapes.max()}_{source}_{content.hexdigest()[:16]}.pixels"


class ImageReader:
    """Reads the images of a set with a long side of ``size`` pixels (see `resize_long_side`)."""

    def __init__(self, image_set: ImageSet, size: int, training: bool, cache: str = "off") -> None:
        self.image_set, self.size, self.training = image_set, size, training
        native = image_set.sizes.tolist()
        self.shapes = np.array([resized_shape(height, width, size, training) for height, width in native], np.int32)
        self._ratios = (self.shapes / image_set.sizes)[:, ::-1]
        self._cache = ImageCache(image_set, self.shapes, cache, self._load) if cache != "off" else None

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of an image at that size, known without reading it."""
        height, width = self.shapes[index].tolist()
        return height, width

    def ratio(self, index: int | Sequence[int]) -> np.ndarray:
        """From native pixels to that size, x and y: ``[2]``, or ``[n, 2]`` for n images."""
        ratio: np.ndarray = self._ratios[index]
        return ratio

    def read(self, index: int) -> np.ndarray:
        """Pixels uint8 ``[h, w, 3]`` RGB, not to be written to. Raises `InputError` where they cannot be read."""
        cached = self._cache.get(index) if self._cache else None
        return self._load(index) if cached is None else cached

    def read_for_warp(self, index: int) -> np.ndarray:
        """The same with three or four channels, the last of any value; valid until this thread reads again."""
        cached = self._cache.get(index) if self._cache else None
        return self._load(index, for_warp=True) if cached is None else cached

    def read_packed(self, index: int) -> np.ndarray:
        """The file of an image, uint8 ``[n]``, where any decoder of JPEG can read it; else `read`'s pixels.

        Only the header of such a file has been looked at.
        """
        cached = self._cache.get(index) if self._cache else None
        if cached is not None:
            return cached
        path, (height, width) = self.image_set.paths[index], self.image_set.sizes[index].tolist()
        content = read_image_file(path)
        if common_jpeg_size(content) != (width, height):
            return self._load(index)
        return np.frombuffer(content, np.uint8)

    def _load(self, index: int, for_warp: bool = False) -> np.ndarray:
        path, (height, width) = self.image_set.paths[index], self.image_set.sizes[index].tolist()
        native = load_for_warp(path) if for_warp else load_image(path)
        if native.shape[:2] != (height, width):
            raise InputError(f"{path}: is {native.shape[1]} x {native.shape[0]} px, but was {width} x {height} px when "
                             "the data set was opened")
        return resize_long_side(native, self.size, self.training)
