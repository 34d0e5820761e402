"""The mask or key-point term in the cost of simOTA, against the simple one, pair by pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_task_loss import (
    KEYPOINT_CHANNELS,
    SimpleTask,
    criterion_of,
    keypoint_batch,
    mask_batch,
    mask_channels,
)
from test_batched import ANCHORS, STRIDES, batched_rows, simple_rows

from yolov7.config import InputError
from yolov7.config.recipe import LossConfig
from yolov7.loss import assignment as simota
from yolov7.loss.criterion import Criterion
from yolov7.loss.keypoints import KEYPOINT_TERMS
from yolov7.loss.masks import MASK_TERMS
from yolov7.structures import HeadOutput, Targets

MODES = ("coarse_to_fine", "lead_guided", "independent")


def batch_of(task: str, seed: int, counts: tuple[int, ...], **changes: Any) -> tuple[HeadOutput, Targets]:
    return mask_batch(seed, counts, (96, 128), **changes) if task == "mask" else keypoint_batch(
        seed, counts, (96, 128), **changes)


def criterion(task: str, **changes: Any) -> Criterion:
    terms, channels = (MASK_TERMS, mask_channels(4)) if task == "mask" else (KEYPOINT_TERMS, KEYPOINT_CHANNELS)
    return criterion_of(LossConfig(**changes), terms, channels)


@pytest.mark.parametrize("task", ["mask", "keypoints"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
       weight=st.sampled_from([0.5, 3.0, 30.0]), mode=st.sampled_from(MODES), auxiliary=st.booleans(),
       separate=st.booleans())
def test_assignment_with_a_task_cost(task: str, seed: int, counts: list[int], weight: float, mode: str,
                                     auxiliary: bool, separate: bool) -> None:
    """Without repetitions: those of equal cost may be taken either way."""
    changes = {"separate": separate, "unknown": separate} if task == "mask" else {}
    output, targets = batch_of(task, seed, tuple(counts), auxiliary=auxiliary, **changes)
    own = criterion(task, task_cost=weight, assignment=mode, deduplicate_candidates=True)
    found = own.assign(output, own.prepare(output, targets))
    expected = SimpleTask(own.config, output).assign(output, targets)
    for head, ours, theirs in zip((output, *output.auxiliary), found, expected, strict=True):
        assert batched_rows(ours) == simple_rows(theirs, head)


@pytest.mark.parametrize("task", ["mask", "keypoints"])
def test_a_task_cost_changes_what_is_chosen(task: str) -> None:
    output, targets = batch_of(task, 3, (9, 4))
    rows = []
    for weight in (0.0, 1e-9, 100.0):
        own = criterion(task, task_cost=weight)
        rows.append(batched_rows(own.assign(output, own.prepare(output, targets))[0]))
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize("task", ["mask", "keypoints"])
@pytest.mark.parametrize("budget", [1, 3000, 10**9])
def test_groups_and_chunks_change_nothing(task: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    output, targets = batch_of(task, 5, (3, 40, 0, 9))
    own = criterion(task, task_cost=3.0, deduplicate_candidates=True)
    whole = batched_rows(own.assign(output, own.prepare(output, targets))[0])
    monkeypatch.setitem(simota.MAX_PAIRS, "cpu", budget)
    assert batched_rows(own.assign(output, own.prepare(output, targets))[0]) == whole


@pytest.mark.parametrize("task", ["mask", "keypoints"])
def test_the_right_candidate_is_cheap(task: str) -> None:
    """One whose mask or points are perfect costs less than any other, for its object alone."""
    output, targets = batch_of(task, 7, (3,))
    own = criterion(task, task_cost=1.0)
    prepared = own.prepare(output, targets)
    term = own.terms[3]
    assert term.cost is not None
    count = prepared.candidates.cell.shape[1]
    rows = torch.randn(1, count, own.channels.size)
    if task == "mask":
        own_mask = (targets.maps["masks"] == 2).float() * 20 - 10
        output.maps["prototypes"].data[:, 0] = own_mask
        rows[..., -4] = 0
        rows[:, 0, -4:] = torch.tensor([1.0, 0, 0, 0])
    else:
        target = (targets.extra["keypoints"][0, 1, :, :2] / 8 + 0.5) / 2
        rows[:, 0, -15:].view(5, 3)[:, :2] = target
    pairs = simota.Pairs(slice(0, 1), slice(0, 3), rows, torch.zeros(1, count, 2, dtype=torch.int64),
                         torch.full((1, count), 8.0))
    cost = term.cost(own, output, prepared)(pairs)
    assert cost.shape == (1, 3, count) and (cost >= 0).all() and torch.isfinite(cost).all()
    assert cost[0, 1].argmin() == 0 and cost[0, 1, 0] < 1e-3
    assert cost[0, 0, 0] > 0.1 and cost[0, 2, 0] > 0.1


def test_where_there_is_nothing_to_weigh() -> None:
    with pytest.raises(InputError, match=r"loss\.task_cost: found 1\.0; accepted: 0 for a model without masks"):
        Criterion(LossConfig(task_cost=1.0), ANCHORS, STRIDES, 2)
    with pytest.raises(InputError, match=r"and for loss\.loss_ota=false"):
        criterion("mask", task_cost=1.0, loss_ota=False)
