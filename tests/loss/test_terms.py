"""Terms, channels and an assigner of a task beside those of a detector."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_batched import ANCHORS, STRIDES, gradients, make_output, make_targets
from torch import Tensor
from torch.nn import functional as F

from yolov7.config.recipe import LossConfig
from yolov7.loss.assignment import every_candidate
from yolov7.loss.candidates import Assignment, Candidates
from yolov7.loss.criterion import DETECTION_TERMS, Criterion, total_loss
from yolov7.loss.terms import Matched, Prepared, Term
from yolov7.model.heads.base import Channels
from yolov7.structures import HeadOutput, Targets

SIZE, COUNTS, CLASSES = (96, 128), (5, 0, 9), 3
CHANNELS = Channels.of(CLASSES, {"angle": 1, "point": 2})


def angle_term(matched: Matched) -> Tensor:
    error = F.smooth_l1_loss(matched.logits("angle")[:, 0].float(), matched.target("angle"), reduction="none")
    return matched.mean(error)


def point_term(matched: Matched) -> Tensor:
    points = matched.in_cells(matched.target("point")[:, None])[:, 0]
    return matched.mean((matched.logits("point").float() - points).abs().sum(dim=1))


TERMS = (*DETECTION_TERMS, Term("angle", angle_term, 0.5), Term("point", point_term, 2.0, "pt"))


def make_batch(auxiliary: bool = False) -> tuple[HeadOutput, HeadOutput, Targets]:
    """An output with a task's channels, the same without them, and targets with a task's fields."""
    output = make_output(1, len(COUNTS), SIZE, CHANNELS.size - 5, auxiliary=auxiliary)
    heads = [HeadOutput(tuple(level[..., : 5 + CLASSES].detach().requires_grad_() for level in head.levels))
             for head in (output, *output.auxiliary)]
    plain = dataclasses.replace(heads[0], auxiliary=tuple(heads[1:]))
    targets = make_targets(1, COUNTS, SIZE, CLASSES)
    generator = torch.Generator().manual_seed(0)
    extra = {"angle": torch.rand(targets.labels.shape, generator=generator),
             "point": torch.rand(*targets.labels.shape, 2, generator=generator) * 90}
    return output, plain, dataclasses.replace(targets, extra=extra)


def criterion_of(config: LossConfig, terms: tuple[Term, ...] = TERMS) -> Criterion:
    return Criterion(config, ANCHORS, STRIDES, CLASSES, terms=terms, channels=CHANNELS)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_task_leaves_the_terms_of_a_detector_as_they_are(auxiliary: bool) -> None:
    output, plain, targets = make_batch(auxiliary)
    ours = criterion_of(LossConfig())(output, targets)
    theirs = Criterion(LossConfig(), ANCHORS, STRIDES, CLASSES)(plain, targets)
    assert list(ours) == [*theirs, "angle", "point"] and ours["angle"] > 0 and ours["point"] > 0
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=0)
    torch.testing.assert_close(total_loss(ours), total_loss(theirs) + ours["angle"] + ours["point"])
    shared = gradients({name: ours[name] for name in theirs}, output)
    for one, other in zip(shared, gradients(theirs, plain), strict=True):
        torch.testing.assert_close(one[..., : 5 + CLASSES], other, rtol=1e-5, atol=1e-9)
        assert not one[..., 5 + CLASSES :].any()


def test_terms_of_a_task_by_hand() -> None:
    """Level by level and positive by positive, with the gradient in the task's channels alone."""
    output, _, targets = make_batch()
    criterion = criterion_of(LossConfig())
    prepared = criterion.prepare(output, targets)
    losses = criterion.loss(output, prepared)
    assignment, = criterion.assign(output, prepared)
    angle, point = [], []
    for level, (logits, stride) in enumerate(zip(output.levels, STRIDES, strict=True)):
        errors = []
        for image, index, cell, gt_index in assignment.positives().tolist():
            if index == level:
                height, width = logits.shape[2:4]
                row, column = cell // width % height, cell % width
                own = logits[image, cell // (height * width), row, column]
                target = targets.extra["point"][image, gt_index] / stride - torch.tensor([column, row])
                errors.append((F.smooth_l1_loss(own[8], targets.extra["angle"][image, gt_index]),
                               (own[9:] - target).abs().sum()))
        if errors:
            angle.append(torch.stack([error for error, _ in errors]).mean())
            point.append(torch.stack([error for _, error in errors]).mean())
    torch.testing.assert_close(losses["angle"], 0.5 * torch.stack(angle).sum())
    torch.testing.assert_close(losses["point"], 2.0 * torch.stack(point).sum())
    own = {name: losses[name] for name in ("angle", "point")}
    by_hand = {"angle": 0.5 * torch.stack(angle).sum(), "point": 2.0 * torch.stack(point).sum()}
    for one, other in zip(gradients(own, output), gradients(by_hand, output), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
        assert not one[..., : 5 + CLASSES].any() and one[..., 5 + CLASSES :].any()


def test_gains_of_a_task() -> None:
    output, _, targets = make_batch(auxiliary=True)
    plain = criterion_of(LossConfig())(output, targets)
    changed = criterion_of(LossConfig(gains={"angle": 3.0, "box": 100.0}))(output, targets)
    torch.testing.assert_close(changed["angle"], 6 * plain["angle"])
    assert changed["point"] == plain["point"] and changed["box"] == plain["box"]  # its gain is loss.box


def test_a_task_without_objects() -> None:
    output, _, targets = make_batch()
    empty = dataclasses.replace(targets, valid=torch.zeros_like(targets.valid), counts=(0, 0, 0))
    losses = criterion_of(LossConfig())(output, empty)
    assert losses["angle"] == losses["point"] == 0 and torch.isfinite(total_loss(losses))
    assert all(torch.isfinite(gradient).all() for gradient in gradients(losses, output))


def test_maps_of_the_lead_head_reach_the_terms_of_both_heads() -> None:
    output, _, targets = make_batch(auxiliary=True)
    maps = {"mean": torch.rand(3, 4, 4)}
    seen: list[Tensor] = []

    def term(matched: Matched) -> Tensor:
        seen.append(matched.maps["mean"])
        return matched.mean(torch.ones_like(matched.ciou))

    criterion_of(LossConfig(), (Term("mean", term, 1.0),))(dataclasses.replace(output, maps=maps), targets)
    assert len(seen) == 2 and all(value is maps["mean"] for value in seen)


def test_an_assigner_of_its_own() -> None:
    output, _, targets = make_batch()

    def assigner(criterion: Criterion, output: HeadOutput, prepared: Prepared) -> tuple[Assignment, ...]:
        return (every_candidate(prepared.candidates),)

    ours = Criterion(LossConfig(), ANCHORS, STRIDES, CLASSES, channels=CHANNELS, assigner=assigner)(output, targets)
    theirs = Criterion(LossConfig(loss_ota=False), ANCHORS, STRIDES, CLASSES, channels=CHANNELS)(output, targets)
    assert ours == theirs


def test_candidates_are_changed_as_a_whole() -> None:
    output, _, targets = make_batch()
    candidates = criterion_of(LossConfig()).prepare(output, targets).candidates
    moved = candidates.map(lambda tensor: tensor.to("meta"))
    assert moved.counts == candidates.counts
    for field in dataclasses.fields(Candidates):
        before, after = getattr(candidates, field.name), getattr(moved, field.name)
        assert field.name == "counts" or (after.is_meta and (after.shape, after.dtype) == (before.shape, before.dtype))
