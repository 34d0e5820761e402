"""Masks of the objects of one image, each kept as the pixels of its own window: 100 masks take little more than one.

A window is a rectangle of whole pixels of the image; outside of it a mask is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Masks:
    """A column of N masks: it is indexed, moved and pickled as a tensor of N rows is."""

    bits: Tensor  # bool [T]: the pixels of all windows, one window after the other, row by row
    windows: Tensor  # int64 [N, 4] xyxy pixels of the image; right and bottom are outside
    size: tuple[int, int]  # height and width of the image

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def counts(self) -> Tensor:
        """The pixels of each window: int64 ``[N]``."""
        return (self.windows[:, 2:] - self.windows[:, :2]).prod(1)

    def __getitem__(self, rows: Tensor | slice) -> Masks:
        """These masks: a slice, a mask ``[N]`` or indices."""
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().flatten()
        counts = self.counts
        starts = counts.cumsum(0) - counts
        counts, starts, windows = counts[rows], starts[rows], self.windows[rows]
        before = counts.cumsum(0) - counts
        every = torch.arange(int(counts.sum()), device=counts.device)
        places = torch.repeat_interleave(starts - before, counts) + every
        return Masks(self.bits[places], windows, self.size)

    def of(self, index: int) -> Tensor:
        """The pixels of one window: bool ``[h, w]``."""
        counts = self.counts
        start = int(counts[:index].sum())
        left, top, right, bottom = self.windows[index].tolist()
        return self.bits[start : start + (right - left) * (bottom - top)].view(bottom - top, right - left)

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
        """Window xyxy and pixels bool ``[h, w]`` of one mask after the other: views, on the CPU."""
        bits, start = self.bits.numpy(), 0
        for left, top, right, bottom in self.windows.tolist():
            stop = start + (right - left) * (bottom - top)
            yield (left, top, right, bottom), bits[start:stop].reshape(bottom - top, right - left)
            start = stop

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks(self.bits.to(device), self.windows.to(device), self.size)

    def dense(self) -> Tensor:
        """All masks in images of their own: bool ``[N, H, W]``."""
        whole = torch.zeros(len(self), *self.size, dtype=torch.bool)
        for row, ((left, top, right, bottom), pixels) in zip(whole, self.to("cpu"), strict=True):
            row[top:bottom, left:right] = torch.from_numpy(pixels)
        return whole.to(self.bits.device)


def masks_from(windows: list[tuple[int, int, int, int]], pixels: list[np.ndarray], size: tuple[int, int]) -> Masks:
    """Masks of windows xyxy with pixels bool ``[h, w]`` each, in an image of this height and width."""
    bits = np.concatenate([np.zeros(0, bool), *(part.reshape(-1).astype(bool) for part in pixels)])
    return Masks(torch.from_numpy(bits), torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), size)
