"""Windows of an epoch: which tar files are at hand at the same time, and what samples may be made of them.

The tar files are shuffled, some at a time are a window; the images of a window are shuffled, and other images of a
mosaic, mix-up and pasted objects come from the same window. All of it follows from seed, epoch and the list of files.
A window of all files is a data set as any other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.mirror import Ahead, Mirror, fetch, mirror_of
from yolov7.data.objects import starts_of
from yolov7.data.tar_members import file_of_member


@dataclass(frozen=True)
class EpochWindows:
    """The windows of one epoch."""

    order: np.ndarray  # int64 [I]: the images, window by window
    window_of: np.ndarray  # int64 [I]: of each image
    images: list[np.ndarray]  # of each window, ascending
    files: list[np.ndarray]  # of each window: numbers of its tar files

    def partners(self, index: int) -> np.ndarray:
        """The images that one may be mixed with, itself among them."""
        return self.images[int(self.window_of[index])]


class Windows:
    """The windows of every epoch of a data set in ``files``, of which image i is in the ``file_of[i]``-th."""

    def __init__(self, files: Sequence[str], file_of: np.ndarray, size: int, seed: int) -> None:
        self.files, self.file_of, self.size, self.seed = files, file_of, size, seed
        self._latest: dict[int, EpochWindows] = {}

    @cached_property
    def _images_of(self) -> tuple[np.ndarray, np.ndarray]:
        """Images by their files, and where those of each file begin."""
        return np.argsort(self.file_of, kind="stable"), starts_of(np.bincount(self.file_of, minlength=len(self.files)))

    def of_epoch(self, epoch: int) -> EpochWindows:
        """Those of one epoch; of two epochs they are remembered."""
        if epoch not in self._latest:
            if len(self._latest) > 1:
                del self._latest[min(self._latest)]
            self._latest[epoch] = self._drawn(np.random.default_rng([self.seed, epoch]))
        return self._latest[epoch]

    def following(self, epoch: int, window: int) -> list[str]:
        """The tar files of a window, then those of the next one, which may be of the next epoch."""
        now = self.of_epoch(epoch).files
        after = now[window + 1] if window + 1 < len(now) else self.of_epoch(epoch + 1).files[0]
        return [self.files[number] for number in (*now[window].tolist(), *after.tolist())]

    def _drawn(self, rng: np.random.Generator) -> EpochWindows:
        count = len(self.file_of)
        if self.size >= len(self.files):  # as if there were no files
            everything = np.arange(count)
            return EpochWindows(rng.permutation(count), np.zeros(count, np.int64), [everything],
                                [np.arange(len(self.files))])
        rows, starts = self._images_of
        shuffled = rng.permutation(len(self.files))
        files = [shuffled[first : first + self.size] for first in range(0, len(shuffled), self.size)]
        images = [np.sort(np.concatenate([rows[starts[file] : starts[file + 1]] for file in window]))
                  for window in files]
        window_of = np.empty(count, np.int64)
        for number, members in enumerate(images):
            window_of[members] = number
        return EpochWindows(np.concatenate([rng.permutation(members) for members in images]), window_of, images, files)


def windows_of(image_set: ImageSet, size: int, seed: int) -> Windows:
    """The windows of ``size`` tar files each; raises `InputError` for a data set that is not in tar files."""
    files = [file_of_member(path) for path in image_set.paths]
    if "" in files:
        raise InputError(f"--shard-window: {image_set.paths[files.index('')]} is in no tar file; accepted: data sets "
                         "that `yolov7 data shard` has written; or leave the flag out")
    names, file_of = np.unique(files, return_inverse=True)
    return Windows(names.tolist(), file_of, size, seed)


class LookAhead:
    """Has the tar files of a window, and of the next one, fetched where they are on a server."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._seen = (-1, -1)
        mirror = mirror_of(windows.files[0])
        self._ahead = Ahead(mirror) if mirror else None

    def at(self, epoch: int, window: int) -> None:
        """A sample of this window is being made."""
        if self._ahead is None or self._seen == (epoch, window) or self._ahead.is_busy:
            return
        self._seen = epoch, window
        files = self._windows.following(epoch, window)
        first = os.getpid() % len(files)  # processes do not begin with the same file
        self._ahead.fetch([*files[first:], *files[:first]])


def fetch_first(windows: Windows | None, val_set: ImageSet, epoch: int, place: int) -> None:
    """Fetch the tar files that a run begins with, where they are on a server.

    They are those of the window that the image at this ``place`` of the epoch is in, and those that are evaluated on.
    """
    mirror = mirror_of(file_of_member(val_set.paths[0]))
    if mirror is None:
        return
    files = []
    if windows is not None:
        found = windows.of_epoch(epoch)
        window = found.files[int(found.window_of[found.order[min(place, len(found.order) - 1)]])]
        files = [windows.files[number] for number in window.tolist()]
    fetch(mirror, [*files, *map(file_of_member, val_set.paths)], "what the run begins with")


def check_room(train_set: ImageSet | None, val_set: ImageSet, window: int) -> None:
    """Raise `InputError` where tar files of a server that are read at the same time have no room on the disk."""
    mirror = mirror_of(file_of_member(val_set.paths[0]))
    if mirror is None:
        return
    needed, what = sum(_file_sizes(mirror, val_set)), "the split to evaluate on"
    if train_set is not None:
        needed += sum(_file_sizes(mirror, train_set)[: 2 * window or None])
        what += f" and two windows of {window} tar files" if window else " and all of the training split"
    mirror.check_room(needed, what)


def _file_sizes(mirror: Mirror, image_set: ImageSet) -> list[int]:
    """Bytes of the tar files of a split, the largest first."""
    folder = os.path.dirname(mirror.name_of(file_of_member(image_set.paths[0])))
    sizes = (length for name, (length, _) in mirror.files.items() if os.path.dirname(name) == folder)
    return sorted(sizes, reverse=True)
