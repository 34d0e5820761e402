"""simOTA: the candidates that learn, chosen by cost (paper, section 4.2; spec of assignment and loss, section 4).

Read it beside the paper: every object takes as many of its cheapest candidates as its best IoUs add up to; a
candidate wanted by several goes to the cheapest of them. This is the plain form, picture by picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.boxes import pairwise_iou
from yolov7.loss.candidates import Candidates
from yolov7.model.anchors import decode_boxes
from yolov7.structures import Assignment, HeadOutput, Targets

IOU_COST = 3.0  # weight of the IoU term in the cost
LARGEST = 1 - 6e-8  # largest probability below 1 in float32: keeps log(1 - u) finite


def gather_level(logits: Tensor, cell: Tensor) -> Tensor:
    """Rows of a level ``[B, A, h, w, X]`` at cells ``[B, K]``: ``[B, K, X]``."""
    rows = logits.flatten(1, 3)
    return rows.gather(1, cell[..., None].expand(-1, -1, rows.shape[-1]))


def cell_column_row(cell: Tensor, height: int, width: int) -> Tensor:
    """Column and row of cells: ``[...]`` -> ``[..., 2]``."""
    return torch.stack((cell % width, cell // width % height), dim=-1)


@torch.no_grad()
def assign(output: HeadOutput, targets: Targets, candidates: Candidates, anchors: Tensor, strides: Sequence[int],
           top_k: int = 10) -> Assignment:
    """Match candidates to objects, each image by itself; ``anchors`` is ``[L, A, 2]`` in pixels.

    ``top_k`` is how many of an object's best IoUs are added up for its number of positives: 10, or 20 beside an
    auxiliary head. All candidates of an image compete for all of its objects.
    """
    logits, boxes = _candidate_predictions(output, candidates, anchors, strides)  # [B, L, K, 5 + C], [B, L, K, 4]
    owner, positive = candidates.owner.clone(), torch.zeros_like(candidates.valid)
    for image in range(len(logits)):
        slots, objects = candidates.valid[image], targets.valid[image]
        cost, iou = matching_cost(
            logits[image][slots], boxes[image][slots], targets.boxes[image][objects], targets.labels[image][objects]
        )
        matched = match(cost, iou, top_k)  # [N], -1 where not positive
        object_index = objects.nonzero()[:, 0]
        positive[image][slots] = matched >= 0
        owner[image][slots] = torch.cat((object_index, object_index.new_zeros(1)))[matched]
    return Assignment(candidates.cell, owner, positive)


def _candidate_predictions(output: HeadOutput, candidates: Candidates, anchors: Tensor,
                           strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    all_logits, all_boxes = [], []
    for index, (level, stride) in enumerate(zip(output.levels, strides, strict=True)):
        height, width = level.shape[2:4]
        cell = candidates.cell[:, index]
        logits = gather_level(level, cell).float()  # half precision would move near-ties
        cell_anchors = anchors[index][cell // (height * width)]
        all_boxes.append(decode_boxes(logits[..., :4], cell_column_row(cell, height, width), cell_anchors, stride))
        all_logits.append(logits)
    return torch.stack(all_logits, dim=1), torch.stack(all_boxes, dim=1)


def matching_cost(logits: Tensor, boxes: Tensor, object_boxes: Tensor, object_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cost and IoU ``[G, N]`` of predictions ``[N, 5 + C]``, ``[N, 4]`` for objects ``[G, 4]``, ``[G]`` of one image.

    Cost = BCE of ``sqrt(class * objectness)`` against the object's class, summed over classes, - 3 ln(IoU).
    """
    iou = pairwise_iou(object_boxes, boxes)
    log_score = (F.logsigmoid(logits[:, 5:]) + F.logsigmoid(logits[:, 4:5])) / 2  # [N, C], ln u
    log_rest = torch.log1p(-log_score.exp().clamp(max=LARGEST))  # ln(1 - u), finite for saturated logits
    one_hot = F.one_hot(object_labels, logits.shape[1] - 5)[:, None].to(logits.dtype)  # [G, 1, C]
    class_cost = -(one_hot * log_score + (1 - one_hot) * log_rest).sum(dim=-1)
    return class_cost - IOU_COST * (iou + 1e-8).log(), iou


def match(cost: Tensor, iou: Tensor, top_k: int) -> Tensor:
    """The object of every candidate, -1 for none: costs and IoUs ``[G, N]`` -> int64 ``[N]``.

    Equal costs: the lower slot is taken first; between objects, the first one wins.
    """
    wanted = _dynamic_k(iou, top_k)  # [G]
    rank = cost.sort(dim=1, stable=True).indices.argsort(dim=1)  # [G, N]
    marked = rank < wanted[:, None]
    if not len(cost):
        return torch.full((cost.shape[1],), -1, device=cost.device)
    first_marker = marked.int().argmax(dim=0)
    cheapest = cost.argmin(dim=0)  # over all objects, also those that did not mark it
    marks = marked.sum(dim=0)
    return torch.where(marks == 0, -1, torch.where(marks == 1, first_marker, cheapest))


def _dynamic_k(iou: Tensor, top_k: int) -> Tensor:
    best = iou.topk(min(top_k, iou.shape[1]), dim=1).values
    return best.sum(dim=1).long().clamp(min=1)
