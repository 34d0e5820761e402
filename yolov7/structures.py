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
| S | slots of all images and levels of a batch |
| P | positives |

Boxes are ``xyxy`` float pixels of the network input wherever they cross a public boundary. "No objects" is
zero rows, never ``None``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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
    mosaic: bool = False  # made of several pictures, of which this is the first


@dataclass(frozen=True)
class Sample:
    """One picture with its objects, on the way from the disk to the batch.

    ``segments[i]`` outlines object ``i``: float32 ``[K, 2]`` pixels, zero rows where only its box is known.
    """

    image: np.ndarray  # uint8 [H, W, 3] RGB
    boxes: np.ndarray  # float32 [N, 4] xyxy pixels of `image`
    labels: np.ndarray  # int64 [N]
    segments: tuple[np.ndarray, ...]  # N outlines
    keypoints: np.ndarray  # float32 [N, K, 3] x, y, visibility (0: unknown); K is 0 where the data set has none
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
    counts: tuple[int, ...] = ()  # objects of each image, which stand first; () where unknown

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device, copied without waiting where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Targets:
        """The same targets in memory from which copies to the device need no waiting."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        return Targets(change(self.boxes), change(self.labels), change(self.valid), self.counts)


@dataclass(frozen=True)
class Batch:
    """What the loader hands to the engine."""

    images: Tensor  # uint8 [B, 3, H, W] RGB
    targets: Targets
    metas: tuple[ImageMeta, ...]

    def pin_memory(self) -> Batch:
        """The same batch in memory from which copies to the device need no waiting (called by the loader)."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.metas)


@dataclass(frozen=True)
class HeadOutput:
    """Logits of the head, the same in training and evaluation mode.

    The last axis is (x, y, w, h, objectness, class 0 ... C-1), before the sigmoid.
    """

    levels: tuple[Tensor, ...]  # L tensors [B, A, h, w, 5 + C], finest level first
    auxiliary: tuple[HeadOutput, ...] = ()  # at most one: the auxiliary head, same shapes


@dataclass(frozen=True)
class Assignment:
    """Which prediction learns which object: S slots in a row, of all images and levels.

    S follows from lengths that the host knows; `positive` says which slots count. A cell that several positives
    share is written by the one with the highest `order`.
    """

    image: Tensor  # int64 [S]
    level: Tensor  # int64 [S]
    cell: Tensor  # int64 [S], position ``(anchor * h + row) * w + column`` inside its level
    owner: Tensor  # int64 [S], index of the object in the padded targets
    order: Tensor  # int64 [S], place among its image's candidates: by level, neighbour, anchor, object
    positive: Tensor  # bool [S]

    def positives(self) -> Tensor:
        """The positives as rows (image, level, cell, owner): int64 ``[P, 4]``, for tests and pictures."""
        import torch

        return torch.stack((self.image, self.level, self.cell, self.owner), dim=1)[self.positive]


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

    def plus(self, other: LossTerms, weight: float) -> LossTerms:
        """These terms and, weighted, those of another head."""
        return LossTerms(self.box + weight * other.box, self.objectness + weight * other.objectness,
                         self.classification + weight * other.classification)


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
