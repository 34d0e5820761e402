"""The central data types, and the legend of the shape letters used in every comment.

| letter | meaning |
|---|---|
| B | images in a batch |
| H, W | height and width in pixels of the network input (or of an image, where said so) |
| L | pyramid levels (3 for P5 models, 4 for P6 models) |
| A | anchors per level (3) |
| C | classes |
| X | channels of a head, `yolov7.model.heads.base.Channels` names them |
| M | rows over all levels, ``sum(A * h * w)`` |
| N | objects, detections or candidates of one image |
| G | objects per image after padding |
| S | candidates of all images and levels of a batch |
| P | positives |

Boxes are ``xyxy`` float pixels of the network input wherever they cross a public boundary. "No objects" is
zero rows, never ``None``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ImageMeta:
    """The source of an image and its place in the network input.

    A native pixel ``x`` lies at ``x * gain[0] + pad[0]``, ``y`` at ``y * gain[1] + pad[1]``.
    """

    path: str
    image_id: int | str = 0
    size: tuple[int, int] = (0, 0)  # native height, width
    gain: tuple[float, float] = (1.0, 1.0)  # x, y
    pad: tuple[float, float] = (0.0, 0.0)  # left, top
    mosaic: bool = False  # made of several images, of which this is the first
    stretch: float = 1.0  # the width's true gain over the height's, where that is given for both axes


@dataclass(frozen=True)
class Targets:
    """The objects of a batch as a rectangle, so that the assigner needs no shape from the device.

    G is the largest number of objects in one image, rounded up to a multiple of 8 and at least 8: few distinct
    shapes, and a batch without objects takes the same path as any other. ``extra`` and ``maps`` are the fields that a
    task adds to boxes and labels.
    """

    boxes: Tensor  # float32 [B, G, 4] xyxy pixels of the network input, zero where not valid
    labels: Tensor  # int64 [B, G], zero where not valid
    valid: Tensor  # bool [B, G]
    counts: tuple[int, ...] = ()  # objects of each image, which stand first; () where unknown
    extra: dict[str, Tensor] = field(default_factory=dict)  # [B, G, ...], for each object
    maps: dict[str, Tensor] = field(default_factory=dict)  # [B, ...], for each image

    def map(self, change: Callable[[Tensor], Tensor]) -> Targets:
        """The same targets with every tensor changed, such as moved to a device."""
        return replace(self.map_objects(change), maps={name: change(value) for name, value in self.maps.items()})

    def map_objects(self, change: Callable[[Tensor], Tensor]) -> Targets:
        """The same targets with every tensor of one row for an object changed."""
        extra = {name: change(value) for name, value in self.extra.items()}
        return replace(self, boxes=change(self.boxes), labels=change(self.labels), valid=change(self.valid),
                       extra=extra)


@dataclass(frozen=True)
class Batch:
    """Images and targets of the loader for one step."""

    images: Tensor  # uint8 [B, 3, H, W] RGB
    targets: Targets
    metas: tuple[ImageMeta, ...]
    left_out: tuple[str, ...] = ()  # images that could not be read, with the reasons; an evaluation goes on without

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, for copies to the device without waiting (called by the loader)."""
        targets = self.targets.map(lambda tensor: tensor.pin_memory())
        return replace(self, images=self.images.pin_memory(), targets=targets)


@dataclass(frozen=True)
class HeadOutput:
    """Logits of the head, the same in training and evaluation mode.

    The channels X of the last axis are named by the head; for detection they are x, y, w, h, objectness and the
    classes, before the sigmoid. ``maps`` are outputs of a head for the whole image, such as prototypes of masks.
    """

    levels: tuple[Tensor, ...]  # L tensors [B, A, h, w, X], finest level first
    auxiliary: tuple[HeadOutput, ...] = ()  # at most one: the auxiliary head, same shapes
    maps: dict[str, Tensor] = field(default_factory=dict)  # name -> [B, ...]


@dataclass(frozen=True)
class Instances:
    """The objects found in one image, best first: a table of N rows, to which a task adds columns.

    ``instances[rows]`` (a mask, indices or a slice) selects rows of every column.
    """

    boxes: Tensor  # float32 [N, 4] xyxy pixels
    scores: Tensor  # float32 [N] in 0..1
    labels: Tensor  # int64 [N]
    names: tuple[str, ...] = field(default=(), repr=False)  # class names, where the model has them
    extra: dict[str, Any] = field(default_factory=dict)  # column -> a tensor [N, ...], or `Masks`, which act as one
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)  # arguments of the head in the model's YAML

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Tensor | slice) -> Instances:
        return self.map(lambda column: column[rows])

    def map(self, change: Callable[[Any], Any]) -> Instances:
        """The same instances with every column changed."""
        extra = {name: change(column) for name, column in self.extra.items()}
        return replace(self, boxes=change(self.boxes), scores=change(self.scores), labels=change(self.labels),
                       extra=extra)

    def to(self, device: torch.device | str) -> Instances:
        """The same instances on another device."""
        return self.map(lambda column: column.to(device))
