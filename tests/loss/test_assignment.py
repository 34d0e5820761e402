"""Candidates and matching by hand-made cases (docs/reference.md, Worked examples)."""

from __future__ import annotations

import pytest
import torch
from simple_loss import match

from yolov7.boxes import cxcywh_to_xyxy, paired_iou, pairwise_iou
from yolov7.config.recipe import LossConfig
from yolov7.loss.candidates import find_candidates
from yolov7.loss.criterion import Criterion, scale_gains, total_loss
from yolov7.model.heads.base import decode_boxes
from yolov7.structures import HeadOutput, Targets

ANCHORS = torch.tensor([[[12.0, 16.0]]])


def one_level(cells: int = 20, classes: int = 2, batch: int = 1, anchors: int = 1) -> HeadOutput:
    torch.manual_seed(0)
    return HeadOutput((torch.randn(batch, anchors, cells, cells, 5 + classes, requires_grad=True),))


def one_target(x: float, y: float, width: float = 12.0, height: float = 16.0) -> Targets:
    """A target with its centre in cells of stride 8, its size in pixels."""
    boxes = torch.zeros(1, 8, 4)
    boxes[0, 0] = cxcywh_to_xyxy(torch.tensor([x * 8, y * 8, width, height], dtype=torch.float64)).float()
    valid = torch.zeros(1, 8, dtype=torch.bool)
    valid[0, 0] = True
    return Targets(boxes, torch.zeros(1, 8, dtype=torch.int64), valid)


def cells_of(targets: Targets, offset: float) -> list[tuple[int, int]]:
    found = find_candidates(targets, [(1, 20, 20)], ANCHORS, (8,), offset=offset)
    return [(cell % 20, cell // 20) for cell in found.cell[found.valid].tolist()]


def test_decode_at_zero_logits() -> None:
    box = decode_boxes(torch.zeros(4), torch.tensor([3.0, 5.0]), torch.tensor([12.0, 16.0]), 8)
    assert box.tolist() == [22, 36, 34, 52]  # centre (28, 44), size (12, 16)


@pytest.mark.parametrize(("centre", "offset", "cells"), [
    ((5.3, 7.8), 0.5, [(5, 7), (4, 7), (5, 8)]),
    ((5.3, 7.8), 1.0, [(5, 7), (4, 7), (5, 6), (6, 7), (5, 8)]),
    ((0.3, 19.7), 0.5, [(0, 19)]),  # at the border: no neighbour
    ((5.5, 5.5), 0.5, [(5, 5)]),
    ((5.0, 5.5), 0.5, [(5, 5), (4, 5), (5, 5)]),  # an exact integer repeats its own cell
])
def test_candidate_cells(centre: tuple[float, float], offset: float, cells: list[tuple[int, int]]) -> None:
    assert cells_of(one_target(*centre), offset) == cells


@pytest.mark.parametrize("deduplicate", [False, True])
def test_an_auxiliary_head_leaves_the_fine_cells_as_they_are(deduplicate: bool) -> None:
    """On a cell border the fine pass has the centre's own cell once more for each axis, unless it is deduplicated."""
    for centre in ((5.0, 5.5), (5.5, 5.0), (5.0, 5.0), (5.3, 7.8), (1.0, 19.0), (10.0, 10.0)):
        sizes, targets = [(1, 20, 20)], one_target(*centre)
        alone = find_candidates(targets, sizes, ANCHORS, (8,), offset=0.5, deduplicate=deduplicate)
        shared = find_candidates(targets, sizes, ANCHORS, (8,), offset=1.0, deduplicate=deduplicate)
        assert shared.cell[shared.fine].tolist() == alone.cell[alone.valid].tolist()
        assert shared.valid.sum() == 5 - sum(value in (1.0, 19.0) for value in centre)


@pytest.mark.parametrize(("size", "count"), [((10.0, 10.0), 0), ((10.1, 10.0), 1), ((0.0, 10.0), 0), ((0.0, 0.0), 0)])
def test_anchor_gate_is_strict(size: tuple[float, float], count: int) -> None:
    targets = one_target(5.5, 5.5, *size)
    found = find_candidates(targets, [(1, 20, 20)], torch.tensor([[[40.0, 28.0]]]), (8,))
    assert found.valid.sum() == count and found.counts == (count,)


def test_match_takes_the_cheapest_and_resolves_conflicts() -> None:
    cost = torch.tensor([[1.0, 2.0, 3.0, 9.0], [5.0, 1.5, 9.0, 4.0]])
    iou = torch.tensor([[0.9, 0.8, 0.7, 0.0], [0.9, 0.9, 0.3, 0.0]])  # k = 2 and 2
    assert match(cost, iou, top_k=10).tolist() == [0, 1, -1, 1]


def test_match_breaks_ties_by_the_lower_candidate() -> None:
    assert match(torch.ones(1, 4), torch.full((1, 4), 0.5), top_k=4).tolist() == [0, 0, -1, -1]
    assert match(torch.ones(2, 1), torch.ones(2, 1), top_k=10).tolist() == [0]


def test_match_without_objects_or_candidates() -> None:
    assert match(torch.zeros(0, 3), torch.zeros(0, 3), 10).tolist() == [-1, -1, -1]
    assert match(torch.zeros(2, 0), torch.zeros(2, 0), 10).tolist() == []


def test_no_object_leaves_the_objectness_term_alone() -> None:
    targets = Targets(torch.zeros(1, 8, 4), torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.bool))
    output = one_level()
    losses = Criterion(LossConfig(), ANCHORS, (8,), 2)(output, targets)
    assert losses["box"] == 0 and losses["classification"] == 0 and losses["objectness"] > 0
    total_loss(losses).backward()
    assert output.levels[0].grad[..., :4].abs().sum() == 0


@pytest.mark.parametrize("logit", [40.0, -40.0, 1e4, -1e4])
def test_saturated_logits_stay_finite(logit: float) -> None:
    level = torch.full((1, 1, 20, 20, 7), logit, requires_grad=True)
    losses = Criterion(LossConfig(), ANCHORS, (8,), 2)(HeadOutput((level,)), one_target(5.3, 7.8))
    total_loss(losses).backward()
    assert torch.isfinite(total_loss(losses)) and torch.isfinite(level.grad).all()


def test_loss_keeps_its_configuration() -> None:
    config = LossConfig()
    gains = scale_gains(config, 4, 80, 1280)
    assert (gains.box, gains.cls, gains.obj) == pytest.approx((0.0375, 0.225, 2.1))
    custom = scale_gains(config, 3, 3, 640)
    assert (custom.box, custom.cls, custom.obj) == pytest.approx((0.05, 0.01125, 0.7))
    assert config == LossConfig()


def test_iou_of_boxes_without_area() -> None:
    boxes = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2]])
    assert pairwise_iou(boxes, boxes).tolist() == [[0, 0], [0, 1]]
    with pytest.raises(ValueError, match="kind 'siou' is not one of"):
        paired_iou(boxes, boxes, "siou")


def test_training_on_a_box_makes_it_fit() -> None:
    """Assignment and loss together pull a prediction to its object."""
    targets = one_target(5.3, 7.8)
    level = torch.zeros(1, 1, 20, 20, 7, requires_grad=True)
    criterion = Criterion(LossConfig(), ANCHORS, (8,), 2)
    optimizer = torch.optim.Adam([level], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        total_loss(criterion(HeadOutput((level,)), targets)).backward()
        optimizer.step()
    cell = level[0, 0, 7, 5].detach()
    box = decode_boxes(cell[:4], torch.tensor([5.0, 7.0]), torch.tensor([12.0, 16.0]), 8)
    assert pairwise_iou(box[None], targets.boxes[0, :1]).item() > 0.95
    assert cell[5] > cell[6]
