"""Box formats and the IoU family: pure tensor functions.

Boxes are ``[..., 4]`` float tensors, ``xyxy`` unless a name says otherwise. Units do not matter as long as both
boxes of a pair share them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 1e-7  # as in the reference implementation, whose numbers depend on it


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners -> centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Width times height: ``[..., 4]`` -> ``[...]``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, height: float, width: float) -> Tensor:
    """The part of each box that lies inside an image of this size (pixels)."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def mirror(boxes: Tensor, width: float) -> Tensor:
    """Boxes ``[..., 4]`` in the image mirrored left to right, whose width is ``width``."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((width - right, top, width - left, bottom), dim=-1)


def intersection(box1: Tensor, box2: Tensor) -> Tensor:
    """Area shared by broadcast pairs of boxes."""
    low = torch.maximum(box1[..., :2], box2[..., :2])
    high = torch.minimum(box1[..., 2:], box2[..., 2:])
    size = (high - low).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(box1: Tensor, box2: Tensor) -> Tensor:
    """IoU of every box of one set with every box of another: ``[..., G, 4]``, ``[..., N, 4]`` -> ``[..., G, N]``.

    Without an epsilon: two boxes without area give 0.
    """
    first, second = box1[..., :, None, :], box2[..., None, :, :]
    shared = intersection(first, second)
    union = area(first) + area(second) - shared
    return torch.where(union > 0, shared / union.where(union > 0, 1), 0.0)


def paired_iou(box1: Tensor, box2: Tensor, kind: str = "iou") -> Tensor:
    """IoU, GIoU, DIoU or CIoU of boxes pair by pair: two ``[..., 4]`` -> ``[...]``.

    ``kind`` is one of ``iou giou diou ciou``; ``box1`` is the prediction. The trade-off weight of CIoU is a
    constant for the gradient. Epsilons stand where the reference implementation has them.
    """
    width1, height1 = box1[..., 2] - box1[..., 0], box1[..., 3] - box1[..., 1] + EPSILON
    width2, height2 = box2[..., 2] - box2[..., 0], box2[..., 3] - box2[..., 1] + EPSILON
    shared = intersection(box1, box2)
    union = width1 * height1 + width2 * height2 - shared + EPSILON
    iou = shared / union
    if kind == "iou":
        return iou
    hull = torch.maximum(box1[..., 2:], box2[..., 2:]) - torch.minimum(box1[..., :2], box2[..., :2])
    if kind == "giou":
        hull_area = hull[..., 0] * hull[..., 1] + EPSILON
        return iou - (hull_area - union) / hull_area
    diagonal = hull.square().sum(-1) + EPSILON
    offset = (box2[..., :2] + box2[..., 2:] - box1[..., :2] - box1[..., 2:]) / 2
    distance = offset.square().sum(-1)
    if kind == "diou":
        return iou - distance / diagonal
    if kind != "ciou":
        raise ValueError(f"kind {kind!r} is not one of iou, giou, diou, ciou")
    angle = torch.atan(width2 / (height2 + EPSILON)) - torch.atan(width1 / (height1 + EPSILON))
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + 1 + EPSILON)
    return iou - (distance / diagonal + aspect * weight)
