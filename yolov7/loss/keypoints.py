"""The key-point terms of pose (docs/reference.md, Mask and key-point terms)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolov7.boxes import area
from yolov7.loss.assignment import PairCost, Pairs
from yolov7.loss.candidates import Assignment
from yolov7.loss.criterion import DETECTION_TERMS, Criterion, bce
from yolov7.loss.terms import Matched, Prepared, Term
from yolov7.structures import HeadOutput

EPSILON = 1e-9  # of the scale of a distance, as in the reference implementation


def _oks_error(distance: Tensor) -> Tensor:
    return 1 - torch.exp(-distance)


# of a squared distance in units of its scale
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {"oks": _oks_error, "cauchy": torch.log1p}


def keypoint_term(matched: Matched) -> Tensor:
    """Errors of the predicted points: the mean over the labelled points of each level, summed.

    An error is 1 - the similarity ``exp(-d / (4 A sigma^2))`` of the squared distance d and the box's area A, or with
    ``loss.keypoint_loss: cauchy`` ``log(1 + d / (4 A sigma^2))``.
    """
    truth, raw = matched.target("keypoints"), _points(matched)  # [S, K, 3] each
    distance = (2 * raw[..., :2] - 0.5 - matched.in_cells(truth[..., :2])).square().sum(dim=-1)  # [S, K], cells
    boxes = matched.targets.boxes[matched.assignment.image, matched.assignment.gt_index]
    # in cells of the level, and at least a pixel; any number where nothing is positive
    cells = area(boxes).clamp(min=1) / matched.stride().clamp(min=1).square()
    scales = cells[:, None] * _scales(matched.channels.facts["sigmas"], raw) + EPSILON
    errors = ERRORS[matched.config.keypoint_loss](distance / scales)
    labelled = matched.counts["keypoints"]
    weight = torch.stack([mask / count for mask, count in zip(matched.inside, labelled.unbind(), strict=True)]).sum(0)
    return (torch.where(truth[..., 2] > 0, errors, 0.0).sum(dim=1) * weight).sum()


def visibility_term(matched: Matched) -> Tensor:
    """BCE of the visibility of every point, labelled or not, with the positive weight and focus of the class term."""
    config, labelled = matched.config, (matched.target("keypoints")[..., 2] > 0).float()
    return matched.mean(bce(_points(matched)[..., 2], labelled, config, config.cls_pw).mean(dim=1))


def labelled_points(prepared: Prepared, assignment: Assignment) -> Tensor:
    """The labelled points of each candidate's object: int64 ``[S]``."""
    counts = (prepared.targets.extra["keypoints"][..., 2] > 0).sum(dim=-1)
    return counts[assignment.image, assignment.gt_index]


def _points(matched: Matched) -> Tensor:
    """The logits of x, y and visibility: float32 ``[S, K, 3]``."""
    flat = matched.logits("keypoints").float()
    return flat.view(len(flat), -1, 3)


def _scales(sigmas: tuple[float, ...], like: Tensor) -> Tensor:
    """``4 sigma^2`` of each point: ``[K]``."""
    values = [like.new_full((), 4 * sigma**2) for sigma in sigmas]  # filled on the device: nothing is copied there
    return torch.stack(values)


def keypoint_cost(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> PairCost:
    """The mean error of each candidate's points at the labelled points of each object."""
    targets, where = prepared.targets, criterion.channels.slice("keypoints")
    sigmas, of_distance = criterion.channels.facts["sigmas"], ERRORS[criterion.config.keypoint_loss]

    def cost(pairs: Pairs) -> Tensor:
        own = (pairs.images, pairs.objects)
        truth, sizes = targets.extra["keypoints"][own], area(targets.boxes[own]).clamp(min=1)  # [B, G, K, 3], [B, G]
        raw = pairs.rows[..., where]
        raw = raw.reshape(*raw.shape[:2], -1, 3)  # [B, N, K, 3]
        found = (2 * raw[..., :2] - 0.5 + pairs.cells[:, :, None]) * pairs.strides[..., None, None]
        labelled = truth[..., 2] > 0
        total = sizes.new_zeros(*sizes.shape, raw.shape[1])
        for point, sigma in enumerate(sigmas):
            x, y = (found[:, None, :, point, axis] - truth[:, :, None, point, axis] for axis in (0, 1))  # [B, G, N]
            distance = x.square_().add_(y.square_())
            error = of_distance(distance / (sizes * (4 * sigma**2) + EPSILON)[..., None])
            total += torch.where(labelled[:, :, point, None], error, 0.0)
        return total / labelled.sum(dim=-1).clamp(min=1)[..., None]

    return cost


KEYPOINT_TERMS = (
    *DETECTION_TERMS,
    Term("keypoints", keypoint_term, 0.1, "kpt", count=labelled_points, cost=keypoint_cost,
         keys=("keypoint_loss",)),
    Term("visibility", visibility_term, lambda config: config.cls, "kptv", replaceable=True))
