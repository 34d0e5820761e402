"""The key-point and visibility terms against the simple ones, and what holds for points of every kind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_task_loss import CLASSES, KEYPOINT_CHANNELS, POINTS, criterion_of, keypoint_batch, place_of, simple_losses
from test_batched import ANCHORS, STRIDES
from torch import Tensor

from yolov7.config.recipe import LossConfig
from yolov7.loss.criterion import DETECTION_TERMS, Criterion, Losses, total_loss
from yolov7.loss.keypoints import KEYPOINT_TERMS
from yolov7.model.heads.base import Channels
from yolov7.structures import HeadOutput, Targets

OWN = ("keypoints", "visibility")


def criterion(across: Any = None, **changes: Any) -> Criterion:
    made = criterion_of(LossConfig(**changes), KEYPOINT_TERMS, KEYPOINT_CHANNELS)
    made.across = across
    return made


def gradients(value: Tensor, output: HeadOutput) -> list[Tensor]:
    levels = [*output.levels, *(level for head in output.auxiliary for level in head.levels)]
    found = torch.autograd.grad(value, levels, allow_unused=True, retain_graph=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def assert_as_simple(own: Criterion, output: HeadOutput, targets: Targets) -> Losses:
    ours, theirs = own(output, targets), simple_losses(own, output, targets, "keypoints")
    for name in OWN:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
        for one, other in zip(gradients(ours[name], output), gradients(theirs[name], output), strict=True):
            # an error of 1e-6 in the exponent of a far point is the relative error of its gradient, times the exponent
            assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-10
    return ours


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
       size=st.sampled_from([(64, 64), (96, 160)]), scale=st.sampled_from([0.3, 1.0, 4.0]),
       labelled=st.sampled_from([0.0, 0.1, 0.6, 1.0]), ota=st.booleans(), focal=st.sampled_from([0.0, 1.5]),
       positive_weight=st.sampled_from([1.0, 1.8]), kind=st.sampled_from(["oks", "cauchy"]))
def test_keypoint_terms_equal_the_simple_ones(seed: int, counts: list[int], size: tuple[int, int], scale: float,
                                              labelled: float, ota: bool, focal: float, positive_weight: float,
                                              kind: str) -> None:
    output, targets = keypoint_batch(seed, tuple(counts), size, scale, labelled=labelled)
    own = criterion(loss_ota=ota, fl_gamma=focal, cls_pw=positive_weight, keypoint_loss=kind)
    assert_as_simple(own, output, targets)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
       assignment=st.sampled_from(["coarse_to_fine", "lead_guided", "independent"]), ota=st.booleans())
def test_keypoint_terms_with_auxiliary_head(seed: int, counts: list[int], assignment: str, ota: bool) -> None:
    output, targets = keypoint_batch(seed, tuple(counts), (96, 128), auxiliary=True)
    assert_as_simple(criterion(assignment=assignment, loss_ota=ota), output, targets)


def test_perfect_points_cost_nothing() -> None:
    """Also on the cell's left border, where the reference implementation takes a point for unlabelled."""
    output, targets = keypoint_batch(1, (4, 2), (96, 128))
    targets.extra["keypoints"][..., :2] = (targets.extra["keypoints"][..., :2] / 16).round() * 16
    own = criterion(loss_ota=False, deduplicate_candidates=True)
    rows = own.assign(output, own.prepare(output, targets))[0].positives().tolist()
    with torch.no_grad():
        for image, level, cell, index in rows:
            anchor, row, column = place_of(output.levels[level], cell)
            points = targets.extra["keypoints"][image, index, :, :2] / STRIDES[level]
            target = (points - torch.tensor([column, row]) + 0.5) / 2
            output.levels[level][image, anchor, row, column, 5 + CLASSES :].view(POINTS, 3)[:, :2] = target
    losses = own(output, targets)
    assert losses["keypoints"] == 0 and losses["visibility"] > 0


@pytest.mark.parametrize("ota", [False, True])
def test_no_point_is_labelled(ota: bool) -> None:
    output, targets = keypoint_batch(1, (4, 2), (96, 128), labelled=0.0)
    losses = assert_as_simple(criterion(loss_ota=ota), output, targets)
    assert losses["keypoints"] == 0 and losses["visibility"] > 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients(total_loss(losses), output))


@pytest.mark.parametrize("counts", [(0,), (0, 3)])
def test_images_without_objects(counts: tuple[int, ...]) -> None:
    output, targets = keypoint_batch(1, counts, (64, 96))
    losses = assert_as_simple(criterion(), output, targets)
    assert (losses["visibility"] > 0) == (sum(counts) > 0)


def test_points_that_are_not_labelled_may_lie_anywhere() -> None:
    output, targets = keypoint_batch(2, (4, 2), (96, 128))
    moved = targets.extra["keypoints"].clone()
    moved[..., :2] = torch.where(moved[..., 2:] > 0, moved[..., :2], 1e6)
    ours = criterion(loss_ota=False)(output, dataclasses.replace(targets, extra={"keypoints": moved}))
    theirs = criterion(loss_ota=False)(output, targets)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_occluded_points_are_labelled() -> None:
    output, targets = keypoint_batch(2, (4, 2), (96, 128))
    seen = targets.extra["keypoints"].clone()
    seen[..., 2] = torch.where(seen[..., 2] > 0, 2, 0)
    ours = criterion()(output, dataclasses.replace(targets, extra={"keypoints": seen}))
    assert all(torch.equal(ours[name], value) for name, value in criterion()(output, targets).items())


def test_two_processes_add_up_to_one() -> None:
    output, targets = keypoint_batch(5, (6, 0, 9, 2), (96, 128), auxiliary=True)
    whole = criterion()(output, targets)
    parts = []
    for images in (slice(0, 1), slice(1, 4)):
        heads = [HeadOutput(tuple(level[images] for level in head.levels)) for head in (output, *output.auxiliary)]
        cut = Targets(targets.boxes[images], targets.labels[images], targets.valid[images], targets.counts[images],
                      {"keypoints": targets.extra["keypoints"][images]})
        parts.append((HeadOutput(heads[0].levels, tuple(heads[1:])), cut))
    counted: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        counted.append(values)
        return values

    for own in parts:
        criterion(across=keep)(*own)
    assert [len(values) for values in counted] == [2 * 2 * 3 + 1] * 2  # positives and points, heads, levels; images
    losses = [criterion(across=lambda values: counted[0] + counted[1])(*own) for own in parts]
    for name, value in whole.items():
        torch.testing.assert_close(losses[0][name] + losses[1][name], value, rtol=1e-5, atol=1e-8)


def test_terms_of_the_detector_stay_as_they_are() -> None:
    output, targets = keypoint_batch(6, (6, 3), (96, 128))
    plain = Criterion(LossConfig(), ANCHORS, STRIDES, CLASSES, terms=DETECTION_TERMS, channels=KEYPOINT_CHANNELS)
    ours, theirs = criterion()(output, targets), plain(output, targets)
    assert list(ours) == [*theirs, *OWN] and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_class_is_not_trained() -> None:
    """The score is the objectness; visibility has the gain of the class term all the same."""
    output, targets = keypoint_batch(6, (6, 3), (96, 128))
    levels = tuple(level[..., 1:] for level in output.levels)  # one class less
    channels = dataclasses.replace(Channels.of(1, {"keypoints": 3 * POINTS}), facts=KEYPOINT_CHANNELS.facts)
    targets.labels.zero_()
    losses = Criterion(LossConfig(), ANCHORS, STRIDES, 1, terms=KEYPOINT_TERMS, channels=channels)(
        HeadOutput(levels), targets)
    assert losses["classification"] == 0 and losses["visibility"] > 0
    assert not any(gradient[..., 6].any() for gradient in gradients(total_loss(losses), output))


def test_gains() -> None:
    """That of the visibility follows the class term unless it is given; that of the points is 0.1."""
    output, targets = keypoint_batch(6, (6, 3), (96, 128))
    plain, wide, own = (criterion(**changes)(output, targets) for changes in (
        {}, {"cls": 0.9}, {"cls": 0.9, "gains": {"visibility": 0.6, "keypoints": 1.0}}))
    torch.testing.assert_close(wide["visibility"], 3 * plain["visibility"])
    torch.testing.assert_close(own["visibility"], 2 * plain["visibility"])
    assert wide["keypoints"] == plain["keypoints"]
    torch.testing.assert_close(own["keypoints"], 10 * plain["keypoints"])


def test_far_points_are_pulled_by_the_cauchy_loss_alone() -> None:
    """1 - OKS has no slope where nothing is near yet, which is everywhere when a network is new."""
    output, targets = keypoint_batch(3, (2,), (96, 128), labelled=1.0)
    targets.extra["keypoints"][..., :2] += 1000
    pulls = {}
    for kind in ("oks", "cauchy"):
        term = criterion(keypoint_loss=kind, loss_ota=False)(output, targets)["keypoints"]
        pulls[kind] = max(gradient.abs().max().item() for gradient in gradients(term, output))
    assert pulls["oks"] < 1e-12 and pulls["cauchy"] > 1e-5
