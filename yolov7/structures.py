"""The central data types, and the legend of the shape letters used in every comment.

| letter | meaning |
|---|---|
| B | images in a batch |
| H, W | height and width in pixels of the network input (or of a picture, where said so) |
| L | pyramid levels (3 for P5 models, 4 for P6 models) |
| A | anchors per level (3) |
| C | classes |
| M | rows over all levels, ``sum(A * h * w)`` |
| N | objects, detections or slots of one image |
| G | objects per image after padding |
| K | slots of one level: neighbours (5) x A x G |
| P | positives |

Boxes are ``xyxy`` float pixels of the network input wherever they cross a public boundary. "No objects" is
zero rows, never ``None``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ImageMeta:
    """Where a picture came from and how it was placed in the network input.

    A native pixel ``x`` lies at ``x * gain[0] + pad[0]``, ``y`` at ``y * gain[1] + pad[1]``.
    """

    path: str
    image_id: int | str = 0
    size: tuple[int, int] = (0, 0)  # native height, width
    gain: tuple[float, float] = (1.0, 1.0)  # x, y
    pad: tuple[float, float] = (0.0, 0.0)  # left, top


@dataclass(frozen=True)
class Sample:
    """One picture with its objects, on the way from the disk to the batch.

    ``segments[i]`` outlines object ``i``: float32 ``[K, 2]`` pixels, zero rows where only its box is known.
    """

    image: np.ndarray  # uint8 [H, W, 3] RGB
    boxes: np.ndarray  # float32 [N, 4] xyxy pixels of `image`
    labels: np.ndarray  # int64 [N]
    segments: tuple[np.ndarray, ...]  # N outlines
    meta: ImageMeta


@dataclass(frozen=True)
class Targets:
    """The objects of a batch as a rectangle, so that the assigner needs no shape from the device.

    G is the largest number of objects in one image, rounded up to a multiple of 8 and at least 8: few distinct
    shapes, and a batch without objects takes the same path as any other.
    """

    boxes: Tensor  # float32 [B, G, 4] xyxy pixels of the network input, zero where not valid
    labels: Tensor  # int64 [B, G], zero where not valid
    valid: Tensor  # bool [B, G]

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device, copied without waiting where the memory is pinned."""
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.valid)))


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the engine."""

    images: Tensor  # uint8 [B, 3, H, W] RGB
    targets: Targets
    metas: tuple[ImageMeta, ...]

    def pin_memory(self) -> Batch:
        """The same batch in memory from which copies to the device need no waiting (called by the loader)."""
        targets = Targets(*(t.pin_memory() for t in (self.targets.boxes, self.targets.labels, self.targets.valid)))
        return Batch(self.images.pin_memory(), targets, self.metas)


@dataclass(frozen=True)
class HeadOutput:
    """Logits of the head, the same in training and evaluation mode.

    The last axis is (x, y, w, h, objectness, class 0 ... C-1), before the sigmoid.
    """

    levels: tuple[Tensor, ...]  # L tensors [B, A, h, w, 5 + C], finest level first
    auxiliary: tuple[HeadOutput, ...] = ()  # at most one: the auxiliary head, same shapes


@dataclass(frozen=True)
class Assignment:
    """Which prediction learns which object.

    Every (level, neighbour, anchor, object) has a fixed slot; ``slots = L x K`` in that order, so that the
    shape follows from the padded targets alone. Where two slots share a cell, the last one writes it.
    """

    cell: Tensor  # int64 [B, L, K], position ``(anchor * h + row) * w + column`` inside its level
    owner: Tensor  # int64 [B, L, K], index of the object in the padded targets
    positive: Tensor  # bool [B, L, K]

    def positives(self) -> Tensor:
        """The positives as rows (image, level, cell, owner): int64 ``[P, 4]``, for tests and pictures."""
        import torch

        image, level, slot = self.positive.nonzero(as_tuple=True)
        return torch.stack((image, level, self.cell[image, level, slot], self.owner[image, level, slot]), dim=1)


@dataclass(frozen=True)
class LossTerms:
    """The three terms of the loss, weighted by their gains: means, not yet times the batch size."""

    box: Tensor  # []
    objectness: Tensor  # []
    classification: Tensor  # []

    @property
    def total(self) -> Tensor:
        """Sum of the terms."""
        return self.box + self.objectness + self.classification


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first."""

    boxes: Tensor  # float32 [N, 4] xyxy pixels
    scores: Tensor  # float32 [N] in 0..1
    labels: Tensor  # int64 [N]
    names: tuple[str, ...] = field(default=(), repr=False)  # class names, where the model has them

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return replace(self, boxes=self.boxes.to(device), scores=self.scores.to(device), labels=self.labels.to(device))
