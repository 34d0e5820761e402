"""What an exported graph computes: logits of the levels, or boxes and scores; from floats or from bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov7.model.detector import Detector


class Raw(nn.Module):
    """Images ``[B, 3, H, W]`` in 0..1 -> logits ``[B, A, h, w, 5 + C]`` of each level."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(level.contiguous() for level in self.model(images).levels)


class Decoded(nn.Module):
    """Images ``[B, 3, H, W]`` in 0..1 -> boxes ``[B, M, 4]`` xyxy pixels, scores ``[B, M, C]``.

    A score is class times objectness; with one class it is the objectness.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        decoded = self.model.decode(self.model(images))
        objectness = decoded.objectness[..., None]
        return decoded.boxes, objectness if self.model.num_classes == 1 else decoded.classes * objectness


class FromBytes(nn.Module):
    """Pictures uint8 ``[B, H, W, 3]``, letterboxed, for a network of floats."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.network(pictures.permute(0, 3, 1, 2).to(torch.float32) / 255)
        return found


def make_form(model: Detector, head: str, preprocess: bool) -> nn.Module:
    """The graph of a deployed model: ``head`` is raw, or decoded (which a suppression may follow)."""
    network = Raw(model) if head == "raw" else Decoded(model)
    return (FromBytes(network) if preprocess else network).eval()


def output_names(head: str, levels: int) -> list[str]:
    """Names of the outputs of `make_form`."""
    return [f"level{index}" for index in range(levels)] if head == "raw" else ["boxes", "scores"]
