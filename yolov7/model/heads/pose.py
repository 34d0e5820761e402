"""The head of pose: key points for each prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yolov7.keypoints import COCO_PERSON, complete_layout
from yolov7.model.heads.base import Head, register_head


@register_head
class PoseHead(Head):
    """A detector whose predictions also have key points: x, y and the logit of their visibility, K times."""

    def __init__(self, *detector: Any, keypoints: tuple[str, ...] = COCO_PERSON.names,
                 limbs: tuple[tuple[int, ...], ...] = (), sigmas: tuple[float, ...] = ()) -> None:
        super().__init__(*detector, extra={"keypoints": 3 * len(keypoints)})  # type: ignore[misc]
        self.channels = replace(self.channels, facts={"sigmas": complete_layout(keypoints, limbs, (), sigmas).sigmas})

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        """``keypoints``: x, y in pixels of the network input, without bound, and visibility 0..1: ``[..., K, 3]``."""
        flat = logits["keypoints"].float()
        raw = flat.view(*flat.shape[:-1], flat.shape[-1] // 3, 3)  # also of zero rows
        points = (2 * raw[..., :2] - 0.5 + cells[..., None, :]) * stride
        return {"keypoints": torch.cat((points, raw[..., 2:].sigmoid()), dim=-1)}
