"""What an exported graph computes: logits of the levels, or boxes and scores; from floats or from bytes.

The outputs of a task follow those of a detector: columns row by row beside the boxes, then maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov7.inference.exported import ExportFacts
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Head, Predictions, check_names
from yolov7.structures import HeadOutput

ABOVE = 0.5  # a pixel of this probability is not yet one of the object


class _OfModel(nn.Module):
    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def maps(self, output: HeadOutput | Predictions) -> list[Tensor]:
        """A task's, in the order of their names."""
        return [output.maps[name].float() for name in self.model.head.map_names]


class Raw(_OfModel):
    """Images ``[B, 3, H, W]`` in 0..1 -> logits ``[B, A, h, w, X]`` of each level, then maps."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.model(images)
        return (*(level.contiguous() for level in output.levels), *self.maps(output))


class Decoded(_OfModel):
    """Images ``[B, 3, H, W]`` in 0..1 -> boxes ``[B, M, 4]`` xyxy pixels, scores ``[B, M, C]``, columns, maps.

    A score is class times objectness; with one class it is the objectness.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        decoded = self.model.decode(self.model(images))
        objectness = decoded.objectness[..., None]
        scores = objectness if self.model.num_classes == 1 else decoded.classes * objectness
        return (decoded.boxes, scores, *(column.float() for column in decoded.extra.values()), *self.maps(decoded))


class FromBytes(nn.Module):
    """Images uint8 ``[B, H, W, 3]``, letterboxed, for a network of floats."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.network(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
        return found


class MasksOf(nn.Module):
    """Boxes ``[B, N, 4]``, columns and maps of detections -> their masks ``[B, N, h, w]``.

    Float32 in 0..1 at the resolution that the head makes them in (``low``), or uint8, 0 and 1, of the size of the
    network input (``full``): 1 above 0.5.
    """

    def __init__(self, head: Head, facts: ExportFacts) -> None:
        super().__init__()
        self.make = head.make_masks  # without the weights of the head
        self.columns, self.maps, self.size = facts.columns, facts.maps, facts.masks

    def forward(self, boxes: Tensor, *others: Tensor) -> Tensor:
        columns, maps = others[: len(self.columns)], others[len(self.columns) :]
        full = self.size == "full"
        masks = self.make(boxes, dict(zip(self.columns, columns, strict=True)), dict(zip(self.maps, maps, strict=True)),
                          full)
        return (masks > ABOVE).to(torch.uint8) if full else masks


def make_graph(model: Detector, facts: ExportFacts) -> nn.Module:
    """The graph of a deployed model, up to NMS."""
    network = Raw(model) if facts.head == "raw" else Decoded(model)
    return (FromBytes(network) if facts.preprocess else network).eval()


def output_names(facts: ExportFacts) -> list[str]:
    """Names of the outputs of `make_graph`."""
    if facts.head == "raw":
        return [*(f"level{index}" for index in range(len(facts.strides))), *facts.maps]
    return ["boxes", "scores", *facts.columns, *facts.maps]


def column_names(head: Head) -> tuple[str, ...]:
    """The columns that the channels of a task become, in the order in which they are decoded."""
    if not head.channels.extra:
        return ()
    logits = {name: torch.zeros(1, head.channels.widths[name]) for name in head.channels.extra}
    columns = tuple(head.decode_columns(logits, torch.zeros(1, 2), torch.ones(1, 2), 1.0))
    check_names((*columns, *head.map_names), type(head))
    return columns
