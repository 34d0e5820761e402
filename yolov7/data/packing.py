"""Samples on their way to a device that makes their pixels: what is drawn, and the bytes that it takes.

A loader process reads files and draws; it decodes what the device cannot, and makes the pixels of a sample itself where
one of its changes is none of the device's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from yolov7.data.objects import Sample
from yolov7.data.picture import Canvas, Picture
from yolov7.data.pixel_changes import Blend, Cover, Flip, Lookup, Patch, PixelChange, ScaleHsv
from yolov7.data.render import Tile, mirror_image, visible_tiles
from yolov7.structures import Batch

ON_DEVICE = (Flip, Blend, ScaleHsv, Cover, Lookup)
Key = tuple[int, int, int]


class Piece(NamedTuple):
    """An array uint8 in a row of bytes."""

    start: int
    shape: tuple[int, ...]

    def of(self, row: Tensor, first: int = 0) -> Tensor:
        """The array: a view of bytes ``[n]``, which begin with those of the place ``first``."""
        start = self.start - first
        return row[start : start + math.prod(self.shape)].view(self.shape)


@dataclass(frozen=True)
class Layer:
    """Tiles of a canvas and how they are warped; it counts where its mask is not 0."""

    tiles: tuple[Tile, ...]  # those that are seen
    side: int
    matrix: np.ndarray  # float64 [3, 3]: canvas -> output
    mask: np.ndarray | Piece | None = None  # uint8 [H, W]


@dataclass(frozen=True)
class Packed:
    """A sample's pixels: layers and changes, or already made."""

    key: Key  # of the sample
    shape: tuple[int, int, int]
    layers: tuple[Layer, ...] = ()
    changes: tuple[Any, ...] = ()  # of a `Blend`, the partner is packed; a `Cover` has one patch
    pixels: np.ndarray | Piece | None = None  # uint8 [H, W, 3]
    images: dict[int, np.ndarray] = field(default_factory=dict)  # a JPEG's bytes [n], or pixels [h, w, 3]


@dataclass(frozen=True)
class PackedBatch(Batch):
    """A batch whose ``images`` are bytes ``[n]``, of which `yolov7.data.device_augment` makes those of the others.

    JPEG files come first, then what the device needs as it is.
    """

    pictures: tuple[Packed, ...] = ()
    files: dict[int, Piece] = field(default_factory=dict)  # of the images, by their index
    decoded: dict[int, Piece] = field(default_factory=dict)
    raw: int = 0  # where what is no file begins


# --- one sample ------------------------------------------------------------------------------------------------


def pack(sample: Sample, key: Key) -> Sample:
    """A drawn sample with what its pixels take. Raises `InputError` where an image cannot be read."""
    picture = sample.image
    assert isinstance(picture, Picture)
    if not all(_on_device(change) for change in picture.changes):
        return replace(sample, image=Packed(key, picture.shape, pixels=picture.pixels()))
    images: dict[int, np.ndarray] = {}
    packed = _packed(picture, key, images)
    return replace(sample, image=replace(packed, images=images))


def _on_device(change: PixelChange) -> bool:
    if isinstance(change, Blend):
        return isinstance(change.partner, Picture) and not change.partner.changes
    return isinstance(change, ON_DEVICE)


def _packed(picture: Picture, key: Key, images: dict[int, np.ndarray]) -> Packed:
    layers = _layers(picture.canvas)
    for index in sorted({tile.index for layer in layers for tile in layer.tiles}):
        if index not in images:
            images[index] = picture.reader.read_packed(index)
    changes = tuple(_packed_change(change, picture.shape, key, images) for change in picture.changes)
    return Packed(key, picture.shape, layers, changes)


def _layers(canvas: Canvas) -> tuple[Layer, ...]:
    seen = visible_tiles(canvas.tiles, canvas.side, canvas.warp)
    first = Layer(seen, canvas.side, canvas.warp.matrix)
    if not canvas.mirrored:
        return (first,)
    warp, mask = mirror_image(canvas.side, canvas.warp, canvas.mirrored)
    if not mask.any():
        return (first,)
    return first, Layer(visible_tiles(canvas.tiles, canvas.side, warp), canvas.side, warp.matrix, mask)


def _packed_change(change: PixelChange, shape: tuple[int, int, int], key: Key, images: dict[int, np.ndarray]) -> Any:
    if isinstance(change, Blend):
        assert isinstance(change.partner, Picture)
        return Blend(change.share, _packed(change.partner, key, images))
    return _joined(change, shape) if isinstance(change, Cover) else change


def _joined(cover: Cover, shape: tuple[int, int, int]) -> Cover:
    """All patches as one."""
    left = min(patch.x for patch in cover.patches)
    top = min(patch.y for patch in cover.patches)
    right = max(patch.x + patch.mask.shape[1] for patch in cover.patches)
    bottom = max(patch.y + patch.mask.shape[0] for patch in cover.patches)
    pixels = np.zeros((bottom - top, right - left, shape[2]), np.uint8)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for patch in cover.patches:
        height, width = patch.mask.shape
        place = np.s_[patch.y - top : patch.y - top + height, patch.x - left : patch.x - left + width]
        np.copyto(pixels[place], patch.pixels, where=patch.mask[..., None])
        mask[place] |= patch.mask
    return Cover((Patch(left, top, pixels, mask),))


# --- a batch ---------------------------------------------------------------------------------------------------


class BatchPacker:
    """The bytes of some packed samples, and where each finds its own: the fields of a `PackedBatch`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._arrays: list[np.ndarray] = []  # uint8 [n], one behind the other
        self.length = 0  # bytes of all
        packed = [sample.image for sample in samples if isinstance(sample.image, Packed)]
        images = {index: array for one in packed for index, array in one.images.items()}
        self.files = {index: self._add(array) for index, array in images.items() if array.ndim == 1}
        self.raw = self.length
        self.decoded = {index: self._add(array) for index, array in images.items() if array.ndim == 3}
        self.pictures = tuple(self._placed(one) for one in packed)

    def write(self, out: np.ndarray | None) -> np.ndarray:
        """All of them, uint8 ``[n]``, in memory of that length."""
        joined: np.ndarray = np.concatenate(self._arrays or [np.zeros(0, np.uint8)], out=out)
        return joined

    def _placed(self, packed: Packed) -> Packed:
        layers = tuple(layer if layer.mask is None else replace(layer, mask=self._add(layer.mask))
                       for layer in packed.layers)
        changes = tuple(self._placed_change(change) for change in packed.changes)
        pixels = None if packed.pixels is None else self._add(packed.pixels)
        return replace(packed, layers=layers, changes=changes, pixels=pixels, images={})

    def _placed_change(self, change: Any) -> Any:
        if isinstance(change, Blend):
            return replace(change, partner=self._placed(change.partner))
        if isinstance(change, Cover):
            (patch,) = change.patches
            return Cover((patch._replace(pixels=self._add(patch.pixels), mask=self._add(patch.mask)),))
        return change

    def _add(self, array: Any) -> Piece:
        """Where an array will stand."""
        piece = Piece(self.length, array.shape)
        self._arrays.append(array.reshape(-1))
        self.length += array.size
        return piece
