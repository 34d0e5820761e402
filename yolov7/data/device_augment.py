"""The pixels of training batches on a device (`--augment-device`): decoded, composed and changed there as drawn.

Files that are JPEG are decoded by torchvision (nvJPEG on CUDA), everything else comes as pixels. The geometry and the
objects are those of the loader processes, to the bit; pixels differ by rounding, and by the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from yolov7.config import InputError, reason_of
from yolov7.data.device_changes import BY_KIND
from yolov7.data.device_letterbox import resize
from yolov7.data.device_render import Tiles, render_layers
from yolov7.data.image_cache import ImageReader
from yolov7.data.images import ImageError, decode_content, encode_image
from yolov7.data.packing import Key, Packed, PackedBatch, Piece
from yolov7.data.pixel_changes import Blend, Cover
from yolov7.structures import Batch

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # said to be removed some day
    decode_jpeg = None  # type: ignore[assignment]

Ready = tuple[Batch, "torch.cuda.Event | None"]
MAX_DECODED = 1 << 29  # bytes of pixels that are decoded at once


class DeviceAugmenter:
    """Makes the images of packed batches.

    A sample of which a file cannot be decoded takes its whole batch with it: ``remake`` gives the batch of these keys
    as the loader processes would have made it.
    """

    def __init__(self, reader: ImageReader, device: torch.device,
                 remake: Callable[[Sequence[Key]], Batch]) -> None:
        self._reader, self._device, self._remake = reader, device, remake
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._latest: Batch | None = None

    def ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, of which a thread makes the next one meanwhile, on CUDA beside what the device does."""
        with ThreadPoolExecutor(1) as pool:
            pending: Future[Ready] | None = None
            for batch in batches:
                following = pool.submit(self._ready, batch)
                if pending is not None:
                    yield _when_ready(pending.result())
                pending = following
            if pending is not None:
                yield _when_ready(pending.result())

    def _ready(self, batch: Batch) -> Ready:
        if self._stream is None:
            return self(batch), None
        self._latest = batch  # whose bytes the device may still read
        with torch.cuda.stream(self._stream):
            return self(batch), self._stream.record_event()

    def __call__(self, batch: Batch) -> Batch:
        """A batch whose images are uint8 ``[B, 3, H, W]`` on the device; one that has them stays as it is."""
        if not isinstance(batch, PackedBatch):
            return batch
        raw = batch.images[batch.raw :].to(self._device, non_blocking=True)

        def bytes_of(piece: Piece) -> Tensor:
            return piece.of(raw, batch.raw)

        try:
            tiles = self._tiles(batch, bytes_of)
        except ImageError:
            remade = self._remake([picture.key for picture in batch.pictures])
            return replace(remade, images=remade.images.to(self._device))
        images = _made(batch.pictures, tiles, bytes_of)
        given = {item.name: getattr(batch, item.name) for item in fields(Batch)}
        return Batch(**given | {"images": images.contiguous(memory_format=torch.channels_last)})

    def _tiles(self, batch: PackedBatch, bytes_of: Callable[[Piece], Tensor]) -> Tiles:
        """The images of a batch at the size of tiles. Raises `ImageError` where one cannot be decoded."""
        planes: list[Tensor] = []
        places: dict[int, int] = {}
        length = 0
        pixels = ((index, bytes_of(piece).permute(2, 0, 1)) for index, piece in batch.decoded.items())
        for index, image in (*self._decoded(batch), *pixels):
            places[index] = length
            planes.append(self._fitted(image, index).reshape(-1))
            length += len(planes[-1])
        return Tiles(torch.cat(planes) if planes else torch.zeros(1, dtype=torch.uint8, device=self._device), places)

    def _fitted(self, image: Tensor, index: int) -> Tensor:
        shape = self._reader.shape(index)
        return image if image.shape[1:] == shape else resize(image.permute(1, 2, 0), shape).permute(2, 0, 1)

    def _decoded(self, batch: PackedBatch) -> Iterator[tuple[int, Tensor]]:
        """Images uint8 ``[3, h, w]`` of the files, some at once."""
        waiting: list[int] = []
        room = MAX_DECODED
        for index in batch.files:
            needed = 3 * int(self._reader.image_set.sizes[index].prod())
            if waiting and needed > room:
                yield from zip(waiting, self._decode(batch, waiting), strict=True)
                waiting, room = [], MAX_DECODED
            waiting.append(index)
            room -= needed
        yield from zip(waiting, self._decode(batch, waiting), strict=True)

    def _decode(self, batch: PackedBatch, indices: Sequence[int]) -> list[Tensor]:
        if not indices:
            return []
        files = [batch.files[index].of(batch.images) for index in indices]
        decoded = self._by_decoder_of_device(files)
        shapes = [tuple(self._reader.image_set.sizes[index].tolist()) for index in indices]
        if [image.shape[1:] for image in decoded] == shapes:
            return decoded
        return [torch.from_numpy(decode_content(file.numpy().tobytes())).to(self._device).permute(2, 0, 1)
                for file in files]

    def _by_decoder_of_device(self, files: list[Tensor]) -> list[Tensor]:
        """Nothing where one of them is damaged, or of a kind that this decoder does not know."""
        try:
            return [] if decode_jpeg is None else list(decode_jpeg(files, ImageReadMode.RGB, self._device))
        except RuntimeError:
            return []


def _when_ready(ready: Ready) -> Batch:
    """The batch for whatever the device is told from now on."""
    batch, event = ready
    if event is not None:
        stream = torch.cuda.current_stream(batch.images.device)
        stream.wait_event(event)
        batch.images.record_stream(stream)
    return batch


def check_decoder(device: torch.device) -> None:
    """Raise `InputError` where images cannot be decoded on a device."""
    if device.type != "cuda":
        raise InputError(f"--augment-device cuda: this run is on {device}; leave the flag out")
    content = encode_image(np.zeros((16, 16, 3), np.uint8), ".jpg")
    try:
        decode_jpeg([torch.frombuffer(bytearray(content), dtype=torch.uint8)], ImageReadMode.RGB, device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"--augment-device cuda: torchvision {torchvision.__version__} cannot decode JPEG on {device} "
                         f"({reason_of(error)}); its wheels for CUDA can, or leave the flag out") from None


# --- pixels ----------------------------------------------------------------------------------------------------


def _made(pictures: Sequence[Packed], tiles: Tiles, bytes_of: Callable[[Any], Tensor]) -> Tensor:
    """The images of the pictures, of one size: uint8 ``[B, 3, H, W]``."""
    blends = [change for picture in pictures for change in picture.changes if isinstance(change, Blend)]
    made = _layered([*pictures, *(blend.partner for blend in blends)], tiles, bytes_of)
    images, partners = made[: len(pictures)], iter(made[len(pictures) :])
    waiting = {row: [_with_tensors(change, partners, bytes_of) for change in picture.changes]
               for row, picture in enumerate(pictures) if picture.changes}
    while waiting:
        kind = type(next(iter(waiting.values()))[0])  # of all whose next change is of the kind of the first one's
        rows = [row for row, changes in waiting.items() if isinstance(changes[0], kind)]
        changes = [waiting[row].pop(0) for row in rows]
        own = torch.tensor(rows, device=images.device)
        images[own] = BY_KIND[kind](images[own], changes)
        waiting = {row: changes for row, changes in waiting.items() if changes}
    return images


def _with_tensors(change: Any, partners: Iterator[Tensor], bytes_of: Callable[[Any], Tensor]) -> Any:
    """A change with tensors of the device in the place of arrays."""
    if isinstance(change, Blend):
        return replace(change, partner=next(partners))
    if isinstance(change, Cover):
        return Cover(tuple(patch._replace(pixels=bytes_of(patch.pixels), mask=bytes_of(patch.mask))
                           for patch in change.patches))
    return change


def _layered(pictures: Sequence[Packed], tiles: Tiles, bytes_of: Callable[[Any], Tensor]) -> Tensor:
    """The canvases of pictures, with what is pasted mirrored; or their pixels."""
    size = pictures[0].shape[:2]
    first = [picture.layers[0] for picture in pictures if picture.layers]
    rows = [row for row, picture in enumerate(pictures) if picture.layers]
    images = torch.empty(len(pictures), 3, *size, dtype=torch.uint8, device=tiles.pixels.device)
    images[torch.tensor(rows, dtype=torch.int64, device=images.device)] = render_layers(first, size, tiles)
    later = [(row, layer) for row, picture in enumerate(pictures) for layer in picture.layers[1:]]
    if later:
        above = render_layers([layer for _, layer in later], size, tiles)
        masks = torch.stack([bytes_of(layer.mask) for _, layer in later])[:, None] > 0
        own = torch.tensor([row for row, _ in later], device=images.device)
        images[own] = torch.where(masks, above, images[own])
    for row, picture in enumerate(pictures):
        if picture.pixels is not None:
            images[row] = bytes_of(picture.pixels).permute(2, 0, 1)
    return images
