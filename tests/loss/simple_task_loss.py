"""The terms of segmentation and pose positive by positive, and their costs pair by pair: the oracles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from simple_loss import Positives, SimpleCriterion
from test_batched import ANCHORS, STRIDES, make_output, make_targets
from torch import Tensor
from torch.nn import functional as F

from yolov7.config.recipe import LossConfig
from yolov7.keypoints import COCO_PERSON
from yolov7.loss.criterion import AUXILIARY_WEIGHT, Criterion, Losses
from yolov7.loss.masks import GRID
from yolov7.loss.terms import Term
from yolov7.model.heads.base import Channels
from yolov7.structures import HeadOutput, Targets

CLASSES = 2
POINTS = 5
SIGMAS = COCO_PERSON.sigmas[:POINTS]
KEYPOINT_CHANNELS = dataclasses.replace(Channels.of(CLASSES, {"keypoints": 3 * POINTS}), facts={"sigmas": SIGMAS})
Rows = list[list[int]]  # (image, level, cell, gt_index)


def mask_channels(masks: int) -> Channels:
    return Channels.of(CLASSES, {"coefficients": masks})


def criterion_of(config: LossConfig, terms: Sequence[Term], channels: Channels) -> Criterion:
    return Criterion(config, ANCHORS, STRIDES, CLASSES, terms=terms, channels=channels)


# --- random batches ----------------------------------------------------------------------------------------------


def mask_batch(seed: int, counts: tuple[int, ...], size: tuple[int, int], masks: int = 4, scale: float = 1.0,
               auxiliary: bool = False, separate: bool = False, ratio: int = 4,
               unknown: bool = False) -> tuple[HeadOutput, Targets]:
    """Logits, prototypes, objects and their masks (noise), of ``1 / ratio`` of the input's size."""
    generator = torch.Generator().manual_seed(seed + 1)
    output = make_output(seed, len(counts), size, mask_channels(masks).size - 5, scale, auxiliary)
    prototypes = scale * torch.randn(len(counts), masks, size[0] // 4, size[1] // 4, generator=generator)
    output = dataclasses.replace(output, maps={"prototypes": prototypes.requires_grad_()})
    targets = make_targets(seed, counts, size, CLASSES)
    height, width = size[0] // ratio, size[1] // ratio
    if separate:
        shape = (*targets.labels.shape, height, width)
        targets.extra["masks"] = torch.randint(2, shape, generator=generator, dtype=torch.uint8)
    else:
        highest = torch.tensor(counts)[:, None, None] + 1
        noise = torch.rand(len(counts), height, width, generator=generator)
        targets.maps["masks"] = (noise * highest).int()
    if unknown:
        targets.extra["has_mask"] = torch.rand(targets.labels.shape, generator=generator) > 0.5
    return output, targets


def keypoint_batch(seed: int, counts: tuple[int, ...], size: tuple[int, int], scale: float = 1.0,
                   auxiliary: bool = False, labelled: float = 0.6) -> tuple[HeadOutput, Targets]:
    """Logits, objects and their points, some beyond the image and some not labelled."""
    generator = torch.Generator().manual_seed(seed + 1)
    output = make_output(seed, len(counts), size, KEYPOINT_CHANNELS.size - 5, scale, auxiliary)
    targets = make_targets(seed, counts, size, CLASSES)
    shape = (*targets.labels.shape, POINTS)
    points = (torch.rand(*shape, 2, generator=generator) * 1.4 - 0.2) * torch.tensor([size[1], size[0]])
    chosen = torch.rand(shape, generator=generator)
    visible = torch.where(chosen < labelled, torch.randint(1, 3, shape, generator=generator), 0)
    targets.extra["keypoints"] = torch.cat((points, visible[..., None]), dim=-1)
    return output, targets


# --- terms -------------------------------------------------------------------------------------------------------


def place_of(logits: Tensor, cell: int) -> tuple[int, int, int]:
    """Anchor, row and column."""
    height, width = logits.shape[2:4]
    return cell // (height * width), cell // width % height, cell % width


def object_mask(targets: Targets, image: int, index: int, grid: tuple[int, int]) -> Tensor:
    """The mask of one object at the size of the prototypes."""
    if "masks" in targets.extra:
        own = targets.extra["masks"][image, index].float()
        return F.interpolate(own[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    own = (targets.maps["masks"][image] == index + 1).float()
    return F.interpolate(own[None, None], grid, mode="nearest-exact")[0, 0]


def is_known(targets: Targets, image: int, index: int) -> bool:
    return "has_mask" not in targets.extra or bool(targets.extra["has_mask"][image, index])


def simple_mask(output: HeadOutput, targets: Targets, rows: Rows, prototypes: Tensor, images: int) -> Tensor:
    """The mask term of one head, for ``images`` of the whole batch, before its gain."""
    grid = (prototypes.shape[2], prototypes.shape[3])
    size = (output.levels[0].shape[2] * STRIDES[0], output.levels[0].shape[3] * STRIDES[0])
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for image, level, cell, index in rows:
        if not is_known(targets, image, index):
            continue
        logits = output.levels[level]
        coefficients = logits[(image, *place_of(logits, cell))][5 + CLASSES :].float()
        mask = torch.einsum("c,chw->hw", coefficients, prototypes[image].float())
        loss = F.binary_cross_entropy_with_logits(mask, object_mask(targets, image, index, grid), reduction="none")
        x1, y1, x2, y2 = targets.boxes[image, index].tolist()
        across, down = grid[1] / size[1], grid[0] / size[0]
        inside = (x >= x1 * across) & (x < x2 * across) & (y >= y1 * down) & (y < y2 * down)
        share = max((x2 - x1) * (y2 - y1), 1) / (size[0] * size[1])
        groups.setdefault((image, level), []).append((loss * inside).sum() / (grid[0] * grid[1]) / share)
    total = prototypes.sum() * 0
    for losses in groups.values():
        total = total + torch.stack(losses).mean()
    return total / images


def simple_keypoints(output: HeadOutput, targets: Targets, rows: Rows, config: LossConfig) -> tuple[Tensor, Tensor]:
    """The key-point and the visibility term of one head, level by level."""
    points, visibility = output.levels[0].sum() * 0, output.levels[0].sum() * 0
    for level, (logits, stride) in enumerate(zip(output.levels, STRIDES, strict=True)):
        errors, crosses = [], []
        for image, own_level, cell, index in rows:
            if own_level != level:
                continue
            anchor, row, column = place_of(logits, cell)
            found = logits[image, anchor, row, column, 5 + CLASSES :].view(POINTS, 3).float()
            x1, y1, x2, y2 = (targets.boxes[image, index] / stride).tolist()
            cells = max((x2 - x1) * (y2 - y1), 1 / stride**2)
            for sigma, (x, y, v), own in zip(SIGMAS, targets.extra["keypoints"][image, index], found, strict=True):
                dx, dy = 2 * own[0] - 0.5 - (x / stride - column), 2 * own[1] - 0.5 - (y / stride - row)
                if v > 0:
                    errors.append(keypoint_error((dx**2 + dy**2) / (cells * 4 * sigma**2 + 1e-9), config))
                crosses.append(SimpleCriterion(config, ANCHORS, STRIDES).bce(own[2], (v > 0).float(), config.cls_pw))
        if errors:
            points = points + torch.stack(errors).mean()
        if crosses:
            visibility = visibility + torch.stack(crosses).mean()
    return points, visibility


def simple_losses(criterion: Criterion, output: HeadOutput, targets: Targets, task: str) -> Losses:
    """The terms of a task over the positives that the criterion assigns, with their gains."""
    config = criterion.config
    total: Losses = {}
    assignments = criterion.assign(output, criterion.prepare(output, targets))
    for head, assignment, weight in zip((output, *output.auxiliary), assignments, (1.0, AUXILIARY_WEIGHT),
                                        strict=False):
        rows = assignment.positives().tolist()
        if task == "mask":
            values = {"mask": config.box * simple_mask(head, targets, rows, output.maps["prototypes"],
                                                       len(targets.labels))}
        else:
            points, visibility = simple_keypoints(head, targets, rows, config)
            values = {"keypoints": 0.1 * points, "visibility": config.cls * visibility}
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + weight * value
    return total


# --- costs -------------------------------------------------------------------------------------------------------


class SimpleTask(SimpleCriterion):
    """The assignment with a task's cost, object by object and candidate by candidate."""

    scores_end = 5 + CLASSES

    def __init__(self, config: LossConfig, output: HeadOutput) -> None:
        super().__init__(config, ANCHORS, STRIDES)
        self.prototypes = output.maps.get("prototypes")
        self.size = (output.levels[0].shape[2] * STRIDES[0], output.levels[0].shape[3] * STRIDES[0])

    def task_cost(self, targets: Targets, image: int, objects: Tensor, candidates: list[Positives],
                  logits: Tensor) -> Tensor:
        cells = [(stride, column, row) for level, stride in zip(candidates, STRIDES, strict=True)
                 for column, row in level.corner().tolist()]
        cost = torch.zeros(len(objects), len(logits))
        for place, index in enumerate(objects.tolist()):
            for candidate, (stride, column, row) in enumerate(cells):
                own = logits[candidate, 5 + CLASSES :]
                cost[place, candidate] = self.mask_cost(targets, image, index, own) if self.prototypes is not None \
                    else keypoint_cost(targets, image, index, own, (stride, column, row), self.config)
        return self.config.task_cost * cost

    def mask_cost(self, targets: Targets, image: int, index: int, coefficients: Tensor) -> float:
        assert self.prototypes is not None
        grid = (self.prototypes.shape[2], self.prototypes.shape[3])
        box = targets.boxes[image, index]
        x1, x2 = (box[[0, 2]] * (grid[1] / self.size[1])).ceil().clamp(0, grid[1]).int().tolist()
        y1, y2 = (box[[1, 3]] * (grid[0] / self.size[0])).ceil().clamp(0, grid[0]).int().tolist()
        if x1 >= x2 or y1 >= y2 or not is_known(targets, image, index):
            return 0.0
        x = torch.tensor([x1 + int((x2 - x1) * (step + 0.5) / GRID) for step in range(GRID)])
        y = torch.tensor([y1 + int((y2 - y1) * (step + 0.5) / GRID) for step in range(GRID)])
        mask = torch.einsum("c,cyx->yx", coefficients, self.prototypes[image][:, y][:, :, x])
        truth = object_mask(targets, image, index, grid)[y][:, x]
        return F.binary_cross_entropy_with_logits(mask, truth).item()


def keypoint_error(distance: Tensor, config: LossConfig) -> Tensor:
    """Of a squared distance over its scale."""
    return 1 - torch.exp(-distance) if config.keypoint_loss == "oks" else torch.log(1 + distance)


def keypoint_cost(targets: Targets, image: int, index: int, found: Tensor, place: tuple[int, int, int],
                  config: LossConfig) -> float:
    stride, column, row = place
    x1, y1, x2, y2 = targets.boxes[image, index].tolist()
    errors = []
    for sigma, (x, y, v), own in zip(SIGMAS, targets.extra["keypoints"][image, index], found.view(POINTS, 3),
                                     strict=True):
        if v > 0:
            dx, dy = (2 * own[0] - 0.5 + column) * stride - x, (2 * own[1] - 0.5 + row) * stride - y
            scale = max((x2 - x1) * (y2 - y1), 1) * 4 * sigma**2
            errors.append(keypoint_error((dx**2 + dy**2) / scale, config))
    return torch.stack(errors).mean().item() if errors else 0.0


