"""The terms of blended masks: golden numbers of the proposal, positives one by one, and the sample."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_task_loss import CLASSES, criterion_of, is_known, place_of
from test_batched import make_output, make_targets
from torch import Tensor
from torch.nn import functional as F

from yolov7.config import InputError
from yolov7.config.recipe import LossConfig
from yolov7.loss import blends
from yolov7.loss.candidates import Assignment, Gathered
from yolov7.loss.criterion import Criterion
from yolov7.loss.terms import Matched
from yolov7.masks import GRID
from yolov7.model.heads.base import FREE, Channels
from yolov7.structures import HeadOutput, Targets

GOLDEN = Path(__file__).parents[1] / "golden" / "mask"
CASES = json.loads((GOLDEN / "proposal.json").read_text())
ATTENTION = 980
CHANNELS = replace(Channels.of(CLASSES, {"attention": ATTENTION, "mask_iou": 1}, FREE), facts={"attention": 14})
KEY = (0, 3, 5, 0)


def golden_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], Tensor, Tensor]:
    """The case, its arrays, the maps ``[B, 5, h, w]`` and the attention ``[P, 980]``."""
    case, arrays = CASES[name], dict(np.load(GOLDEN / f"proposal_{name}.npz"))
    r = np.random.RandomState(case["seed"])
    maps = 2 * r.standard_normal((case["batch"], 5, case["height"] // 4, case["width"] // 4))
    attention = r.standard_normal((case["positives"], ATTENTION))
    return case, arrays, *(torch.from_numpy(values.astype(np.float32)).requires_grad_() for values in (maps, attention))


def matched_of(case: dict[str, Any], arrays: dict[str, np.ndarray], maps: Tensor, attention: Tensor) -> Matched:
    """What the terms see of a golden case: every positive is an object of its own."""
    batch, count, room = case["batch"], case["positives"], max(case["positives"], 1)
    image = torch.from_numpy(arrays["image"]).long()
    boxes, grids = torch.zeros(batch, room, 4), torch.zeros(batch, room, GRID * GRID // 8, dtype=torch.uint8)
    boxes[image, torch.arange(count)] = torch.from_numpy(arrays["boxes"])
    bits = np.unpackbits(arrays["target"])[: count * GRID * GRID].reshape(count, GRID * GRID)
    grids[image, torch.arange(count)] = torch.from_numpy(np.packbits(bits, axis=1))
    height, width = maps.shape[2:]
    semantic = np.unpackbits(arrays["semantic_target"])[: batch * height * width].reshape(batch, height, width)
    known = torch.ones(batch, room, dtype=torch.bool)
    targets = Targets(boxes, torch.zeros(batch, room, dtype=torch.int64), known,
                      extra={"grids": grids, "has_mask": known},
                      maps={"semantic": torch.from_numpy(semantic.astype(np.int8))})
    place = torch.arange(count)
    level = torch.from_numpy(arrays["level"]).long()
    assignment = Assignment(image, level, place, place, place, torch.ones(count, dtype=torch.bool))
    counts = torch.stack([(level == index).sum() for index in range(case["levels"])]).clamp(min=1)
    rest = torch.cat((torch.zeros(count, CLASSES), attention), dim=1)
    nothing = torch.zeros(count)
    draws = {"mask_draws": torch.arange(1, blends.DRAWS + 1), "mask_rows": torch.arange(32)}
    return Matched(LossConfig(mask_pw=case["mask_pw"]), Channels.of(CLASSES, {"attention": ATTENTION}),
                   Gathered(nothing, rest, nothing, []), targets, assignment, nothing.long(), [], [], (8, 16, 32),
                   nothing, nothing, [], torch.ones(()), torch.ones(1),
                   {"bases": maps[:, :4], "semantic": maps[:, 4:]}, (case["height"], case["width"]), draws,
                   {"mask": counts})


@pytest.mark.parametrize("name", CASES)
def test_golden_mask_loss(name: str) -> None:
    case, arrays, maps, attention = golden_case(name)
    matched = matched_of(case, arrays, maps, attention)
    mask, semantic = blends.mask_term(matched), blends.semantic_term(matched)
    total = case["batch"] * (0.05 * mask + blends.SEMANTIC_SHARE * 0.05 * semantic)
    total.backward()
    for found, key in ((mask, "mask"), (semantic, "semantic"), (total, "total")):
        assert float(found.detach()) == pytest.approx(case[key], rel=1e-5, abs=1e-7), key
    for found, key in ((maps.grad, "grad_maps"), (attention.grad.flatten()[:: case["attention_step"]],
                                                  "grad_attention")):
        expected = arrays[key]
        assert np.abs(found.numpy() - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=0), key


# --- positive by positive ------------------------------------------------------------------------------------------


def criterion(across: Any = None, **changes: Any) -> Criterion:
    made = criterion_of(LossConfig(**changes), blends.MASK_IOU_TERMS, CHANNELS)
    made.across = across
    return made


def batch(seed: int, counts: tuple[int, ...], size: tuple[int, int], unknown: bool = False, scale: float = 1.0,
          auxiliary: bool = False) -> tuple[HeadOutput, Targets]:
    """Logits, maps, objects and their grids (noise)."""
    generator = torch.Generator().manual_seed(seed + 1)
    output = make_output(seed, len(counts), size, CHANNELS.size - 5, scale, auxiliary)
    shape = (len(counts), 1, size[0] // 4, size[1] // 4)
    maps = {"bases": torch.randn(len(counts), 4, *shape[2:], generator=generator).requires_grad_(),
            "semantic": torch.randn(shape, generator=generator).requires_grad_()}
    targets = make_targets(seed, counts, size, CLASSES)
    known = torch.ones(targets.labels.shape, dtype=torch.bool)
    if unknown:
        known = torch.rand(known.shape, generator=generator) > 0.5
    targets.extra["has_mask"] = known
    bits = torch.randint(256, (*targets.labels.shape, GRID * GRID // 8), generator=generator)
    targets.extra["grids"] = bits.to(torch.uint8)
    targets.maps["semantic"] = torch.randint(-1, 2, (len(counts), *shape[2:]), generator=generator).to(torch.int8)
    return HeadOutput(output.levels, output.auxiliary, maps), targets


def simple_logits(maps: Tensor, box: Tensor, attention: Tensor) -> Tensor:
    """One mask, of maps ``[5, h, w]``, by torch's own sampling."""
    height, width = maps.shape[1:]
    steps = (torch.arange(GRID) + 0.5) / GRID
    x, y = (box[axis] + (box[axis + 2] - box[axis]) * steps for axis in (0, 1))  # pixels
    places = torch.stack(torch.meshgrid(2 * x / (4 * width) - 1, 2 * y / (4 * height) - 1, indexing="xy"), dim=-1)
    sampled = F.grid_sample(maps[None], places[None], padding_mode="border", align_corners=False)[0]
    weights = F.interpolate(attention.view(1, 5, 14, 14), scale_factor=4, mode="bilinear")[0].softmax(0)
    return (weights * sampled).sum(0)


def grid_of(targets: Targets, image: int, index: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(targets.extra["grids"][image, index].numpy()).reshape(GRID, GRID)).float()


def simple_terms(own: Criterion, output: HeadOutput, targets: Targets, rows: list[list[int]]) -> dict[str, Tensor]:
    """Terms over positives (image, level, cell, gt_index) which all learn masks."""
    maps = torch.cat((output.maps["bases"], output.maps["semantic"]), dim=1)
    masks, qualities = output.levels[0].sum() * 0, output.levels[0].sum() * 0
    for level, logits in enumerate(output.levels):
        errors, crosses = [], []
        for image, own_level, cell, index in rows:
            if own_level == level and is_known(targets, image, index):
                channels = logits[(image, *place_of(logits, cell))][5 + CLASSES :]
                mask = simple_logits(maps[image], targets.boxes[image, index], channels[:ATTENTION])
                truth = grid_of(targets, image, index)
                weight = torch.where(truth > 0, own.config.mask_pw, 1.0)
                errors.append((F.binary_cross_entropy_with_logits(mask, truth, reduction="none") * weight).mean())
                found, there = mask.detach() > 0, truth > 0
                iou = (found & there).sum() / (found | there).sum().clamp(min=1)
                crosses.append(F.binary_cross_entropy_with_logits(channels[ATTENTION], iou))
        if errors:
            masks, qualities = masks + torch.stack(errors).mean(), qualities + torch.stack(crosses).mean()
    truth = targets.maps["semantic"]
    cells = F.binary_cross_entropy_with_logits(output.maps["semantic"][:, 0], (truth > 0).float(), reduction="none")
    semantic = (cells * (truth >= 0)).mean()
    return {"mask": 0.05 * masks, "semantic": 0.015 * semantic, "mask_iou": 0.05 * qualities}


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 3), min_size=1, max_size=2), ota=st.booleans(),
       size=st.sampled_from([(64, 64), (64, 96)]), unknown=st.booleans(), weight=st.sampled_from([1.0, 2.5]))
def test_terms_equal_those_of_each_positive(seed: int, counts: list[int], ota: bool, size: tuple[int, int],
                                            unknown: bool, weight: float) -> None:
    output, targets = batch(seed, tuple(counts), size, unknown)
    own = criterion(loss_ota=ota, mask_pw=weight)
    prepared = own.prepare(output, targets, KEY)
    rows = own.assign(output, prepared)[0].positives().tolist()
    ours, theirs = own.loss(output, prepared), simple_terms(own, output, targets, rows)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-7)
    inputs = [*output.levels, *output.maps.values()]
    for one, other in zip(*(torch.autograd.grad(sum(losses[name] for name in theirs), inputs, allow_unused=True)
                            for losses in (ours, theirs)), strict=True):
        if other is not None:
            assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-9


def test_the_terms_of_processes_add_up() -> None:
    output, targets = batch(3, (2, 1), (64, 96), unknown=True)
    whole = criterion()(output, targets)
    parts = [(HeadOutput(tuple(level[i : i + 1] for level in output.levels),
                         maps={name: value[i : i + 1] for name, value in output.maps.items()}),
              Targets(targets.boxes[i : i + 1], targets.labels[i : i + 1], targets.valid[i : i + 1],
                      targets.counts[i : i + 1], {name: value[i : i + 1] for name, value in targets.extra.items()},
                      {name: value[i : i + 1] for name, value in targets.maps.items()})) for i in range(2)]
    counted: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        counted.append(values.clone())
        return values

    for part in parts:
        criterion(across=keep)(*part)
    losses = [criterion(across=lambda values: counted[0] + counted[1])(*part) for part in parts]
    for name, value in whole.items():
        torch.testing.assert_close(losses[0][name] + losses[1][name], value, rtol=1e-5, atol=1e-8)


# --- the sample ----------------------------------------------------------------------------------------------------


def sample_of(output: HeadOutput, targets: Targets, key: tuple[int, ...]) -> tuple[blends.Sample, Assignment]:
    own = criterion(loss_ota=False)
    prepared = own.prepare(output, targets, key)
    assignment = own.assign(output, prepared)[0]
    return blends.take_sample(targets, prepared.tables, assignment), assignment


def test_a_sample_is_a_function_of_the_key_and_each_positive_is_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blends, "OF_IMAGE", 5)
    monkeypatch.setattr(blends, "OF_BATCH", 8)
    output, targets = batch(1, (4, 2, 0, 3), (64, 96))
    seen: dict[int, int] = {}
    runs = 600
    for epoch in range(runs):
        sample, assignment = sample_of(output, targets, (0, epoch, 1, 0))
        rows = sample.rows[sample.used]
        assert len(rows) == len(set(rows.tolist())) <= 8 and assignment.positive[rows].all()
        assert torch.bincount(assignment.image[rows], minlength=4).max() <= 5
        for row in rows.tolist():
            seen[row] = seen.get(row, 0) + 1
    again, _ = sample_of(output, targets, (0, runs - 1, 1, 0))
    assert torch.equal(again.rows, sample.rows) and torch.equal(again.numbers, sample.numbers)
    positives = assignment.positive.nonzero().flatten().tolist()
    assert set(seen) == set(positives)
    for image in range(4):
        own = [seen[row] for row in positives if int(assignment.image[row]) == image]
        if own:  # a binomial count: five deviations
            mean = np.mean(own)
            assert max(abs(count - mean) for count in own) < 5 * np.sqrt(mean) + 1


def test_with_fewer_positives_than_room_all_of_them_learn() -> None:
    output, targets = batch(2, (1, 0), (64, 64))
    sample, assignment = sample_of(output, targets, KEY)
    assert sorted(sample.rows[sample.used].tolist()) == assignment.positive.nonzero().flatten().tolist()


def test_boxes_that_move_take_their_masks_along() -> None:
    """In half of the sample, each side by at most a share; the truth is that of the pixels, wherever the box is."""
    boxes = torch.tensor([[10.0, 20.0, 66.0, 132.0]]).expand(400, 4)
    truth = torch.zeros(400, GRID, GRID)
    truth[:, 14:42, 14:42] = 1  # pixels 24 to 52 and 48 to 104
    numbers = torch.rand(5, 400, generator=torch.Generator().manual_seed(0))
    moved, grids = blends._moved(boxes, truth, 0.1, numbers)
    sides = torch.tensor([56.0, 112.0, 56.0, 112.0])
    changes = (moved - boxes).abs() / sides
    still = (changes == 0).all(1)
    assert 150 < int(still.sum()) < 250 and torch.equal(still, numbers[0] >= 0.5)
    assert changes.max() <= 0.1 and changes[~still].max() > 0.09
    assert torch.equal(grids[still], truth[still])
    for box, grid in zip(moved[~still][:20], grids[~still][:20], strict=True):
        x, y = (box[axis] + (box[axis + 2] - box[axis]) * (torch.arange(GRID) + 0.5) / GRID for axis in (0, 1))
        near = ((x - 24).abs() < 1.2) | ((x - 52).abs() < 1.2), ((y - 48).abs() < 2.3) | ((y - 104).abs() < 2.3)
        expected = ((y > 48) & (y < 104))[:, None] & ((x > 24) & (x < 52))
        sure = ~(near[1][:, None] | near[0])
        assert torch.equal(grid.bool()[sure], expected[sure])
    output, targets = batch(4, (3,), (64, 96))
    plain, jittered = (criterion(mask_jitter=share)(output, targets)["mask"] for share in (0.0, 0.2))
    assert plain != jittered and jittered.isfinite()


def test_nothing_to_learn_is_no_loss() -> None:
    output, targets = batch(5, (0, 0), (64, 64))
    losses = criterion()(output, targets)
    assert losses["mask"] == losses["mask_iou"] == 0 and losses["semantic"] > 0
    sum(losses.values()).backward()
    assert all(level.grad.isfinite().all() for level in output.levels)


def test_the_semantic_gain_follows_that_of_masks_unless_it_is_given() -> None:
    output, targets = batch(6, (2,), (64, 64))
    plain, more, own = (criterion(gains=gains)(output, targets)["semantic"] for gains in (
        {}, {"mask": 0.1}, {"mask": 0.1, "semantic": 0.015}))
    torch.testing.assert_close(torch.stack((more, own)), torch.stack((2 * plain, plain)))


@pytest.mark.parametrize(("key", "value", "model"), [("mask_jitter", 0.1, "yolov7-mask"),
                                                     ("keypoint_loss", "cauchy", "yolov7-tiny-pose")])
def test_options_that_no_term_reads_are_refused(key: str, value: Any, model: str) -> None:
    with pytest.raises(InputError, match=f"loss.{key}: found {value}; no term of this model's loss reads it; "
                                         f"accepted: .*, or a model like {model}"):
        criterion_of(LossConfig(**{key: value}), (), Channels.of(CLASSES, {}))


def test_centres_reach_as_far_in_assignment_and_box_loss_as_the_channels_say() -> None:
    output, targets = batch(7, (3, 2), (64, 96))
    near = criterion_of(LossConfig(), blends.MASK_IOU_TERMS, Channels.of(CLASSES, {"attention": ATTENTION,
                                                                                   "mask_iou": 1}))
    assert near(output, targets)["box"] != criterion()(output, targets)["box"]
