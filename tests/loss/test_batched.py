"""The batched assignment and loss against the simple ones, on random batches."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_loss import Positives, SimpleCriterion

from yolov7.config.recipe import LossConfig
from yolov7.loss import assignment as simota
from yolov7.loss.candidates import Assignment
from yolov7.loss.criterion import Criterion, Losses, total_loss
from yolov7.structures import HeadOutput, Targets

STRIDES = (8, 16, 32)
ANCHORS = torch.tensor([[[12.0, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]],
                        [[142, 110], [192, 243], [459, 401]]])


def make_output(seed: int, batch: int, size: tuple[int, int], classes: int, scale: float = 1.0,
                auxiliary: bool = False, dtype: torch.dtype = torch.float32) -> HeadOutput:
    generator = torch.Generator().manual_seed(seed)
    heads = []
    for _ in range(1 + auxiliary):
        levels = tuple((scale * torch.randn(batch, 3, size[0] // s, size[1] // s, 5 + classes, generator=generator))
                       .to(dtype).requires_grad_() for s in STRIDES)
        heads.append(HeadOutput(levels))
    return dataclasses.replace(heads[0], auxiliary=tuple(heads[1:]))


def make_targets(seed: int, counts: tuple[int, ...], size: tuple[int, int], classes: int, padding: int = 0,
                 exact: bool = False) -> Targets:
    """Random objects, some without area, some as large as the image; ``exact`` puts centres on cell borders."""
    generator = torch.Generator().manual_seed(seed)
    width = max(8, -(-max(counts, default=0) // 8) * 8) + padding
    height_width = torch.tensor([size[1], size[0]], dtype=torch.float32)
    centre = torch.rand(len(counts), width, 2, generator=generator) * height_width
    if exact:
        centre = (centre / 16).round() * 16
    side = torch.exp(torch.rand(len(counts), width, 2, generator=generator) * 4) * 4
    kind = torch.rand(len(counts), width, 1, generator=generator)
    side = torch.where(kind < 0.05, 0.0, torch.where(kind > 0.95, height_width, side))
    low = (centre - side / 2).clamp(min=0)
    boxes = torch.cat((low, torch.minimum(centre + side / 2, height_width)), dim=-1)
    valid = torch.arange(width) < torch.tensor(counts, dtype=torch.long)[:, None]
    labels = torch.randint(classes, (len(counts), width), generator=generator)
    return Targets(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, labels, 0), valid, counts)


def both(config: LossConfig, classes: int) -> tuple[Criterion, SimpleCriterion]:
    return Criterion(config, ANCHORS, STRIDES, classes), SimpleCriterion(config, ANCHORS, STRIDES)


def batched_rows(assignment: Assignment) -> Counter:
    return Counter(map(tuple, assignment.positives().tolist()))


def simple_rows(levels: list[Positives], output: HeadOutput) -> Counter:
    found: Counter = Counter()
    for index, (level, logits) in enumerate(zip(levels, output.levels, strict=True)):
        height, width = logits.shape[2:4]
        cell = (level.anchor * height + level.row) * width + level.column
        found.update((image, index, c, gt_index) for image, c, gt_index in
                     zip(level.image.tolist(), cell.tolist(), level.gt_index.tolist(), strict=True))
    return found


def gradients(losses: Losses, output: HeadOutput) -> list[torch.Tensor]:
    levels = [*output.levels, *(level for head in output.auxiliary for level in head.levels)]
    return list(torch.autograd.grad(total_loss(losses), levels))


def assert_equal_losses(config: LossConfig, output: HeadOutput, targets: Targets, classes: int) -> None:
    batched, simple = both(config, classes)
    assignments, expected = batched.assign(output, batched.prepare(output, targets)), simple.assign(output, targets)
    for head, ours, theirs in zip((output, *output.auxiliary), assignments, expected, strict=True):
        assert batched_rows(ours) == simple_rows(theirs, head)
    ours, theirs = batched(output, targets), simple(output, targets)
    for name in ("box", "objectness", "classification"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
    for one, other in zip(gradients(ours, output), gradients(theirs, output), strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max() + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
       size=st.sampled_from([(64, 64), (96, 160), (160, 64)]), classes=st.sampled_from([1, 2, 80]),
       scale=st.sampled_from([0.3, 1.0, 4.0]), exact=st.booleans(), deduplicate=st.booleans(), ota=st.booleans())
def test_batched_equals_simple(seed: int, counts: list[int], size: tuple[int, int], classes: int, scale: float,
                               exact: bool, deduplicate: bool, ota: bool) -> None:
    config = LossConfig(deduplicate_candidates=deduplicate, loss_ota=ota)
    output = make_output(seed, len(counts), size, classes, scale)
    assert_equal_losses(config, output, make_targets(seed, tuple(counts), size, classes, exact=exact), classes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
       size=st.sampled_from([(64, 64), (96, 160)]),
       assignment=st.sampled_from(["coarse_to_fine", "lead_guided", "independent"]),
       decode=st.sampled_from(["constrained", "free"]), top_k=st.sampled_from([0, 1, 5]), deduplicate=st.booleans(),
       exact=st.booleans())
def test_batched_equals_simple_with_auxiliary_head(seed: int, counts: list[int], size: tuple[int, int],
                                                   assignment: str, decode: str, top_k: int,
                                                   deduplicate: bool, exact: bool) -> None:
    config = LossConfig(assignment=assignment, aux_decode=decode, top_k=top_k,  # type: ignore[arg-type]
                        deduplicate_candidates=deduplicate)
    output = make_output(seed, len(counts), size, 3, auxiliary=True)
    assert_equal_losses(config, output, make_targets(seed, tuple(counts), size, 3, exact=exact), 3)


@pytest.mark.parametrize("config", [
    LossConfig(fl_gamma=1.5), LossConfig(label_smoothing=0.1), LossConfig(cls_pw=2.0, obj_pw=0.5), LossConfig(gr=0.5),
    LossConfig(class_weights=(0.5, 1.0, 3.0)), LossConfig(anchor_t=2.0),
], ids=["focal", "smoothing", "positive weights", "gr", "class weights", "anchor_t"])
def test_options_of_the_terms(config: LossConfig) -> None:
    output = make_output(1, 3, (96, 128), 3)
    assert_equal_losses(config, output, make_targets(1, (5, 0, 9), (96, 128), 3), 3)


# --- symmetries ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_order_of_images_and_of_objects_does_not_matter(seed: int, data: st.DataObject) -> None:
    counts, size = (7, 3, 0), (96, 96)
    output, targets = make_output(seed, 3, size, 4), make_targets(seed, counts, size, 4)
    criterion = both(LossConfig(), 4)[0]
    plain = batched_rows(criterion.assign(output, criterion.prepare(output, targets))[0])
    images = data.draw(st.permutations(range(3)))
    objects = data.draw(st.permutations(range(7)))
    order = torch.tensor([*objects, 7])
    turned = Targets(targets.boxes[images][:, order], targets.labels[images][:, order], targets.valid[images][:, order])
    permuted = HeadOutput(tuple(level[images] for level in output.levels))
    found = criterion.assign(permuted, criterion.prepare(permuted, turned))[0]
    back = Counter()
    for row, times in batched_rows(found).items():
        back[(images[row[0]], row[1], row[2], int(order[row[3]]))] += times
    assert back == plain or len(set(plain)) < sum(plain.values())  # repetitions are ties


@pytest.mark.parametrize("auxiliary", [False, True])
def test_padding_changes_nothing(auxiliary: bool) -> None:
    counts, size = (11, 2), (96, 128)
    output = make_output(3, 2, size, 5, auxiliary=auxiliary)
    criterion = both(LossConfig(), 5)[0]
    narrow = make_targets(3, counts, size, 5)
    wide = Targets(*(torch.nn.functional.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, 24])
                     for tensor in (narrow.boxes, narrow.labels, narrow.valid)))
    first, second = criterion(output, narrow), criterion(output, wide)
    assert torch.equal(total_loss(first), total_loss(second))
    for ours, theirs in zip(gradients(first, output), gradients(second, output), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("budget", [1, 5000, 60000, 10**9])
@pytest.mark.parametrize("coarse", [False, True])
def test_groups_and_chunks_change_nothing(budget: int, coarse: bool) -> None:
    counts, size = (3, 40, 0, 9), (128, 160)
    output, targets = make_output(5, 4, size, 3, auxiliary=coarse), make_targets(5, counts, size, 3)
    prepared = criterion_of(coarse).prepare(output, targets)
    matching = simota.Matching(ANCHORS, torch.tensor(STRIDES, dtype=torch.float32))
    passes = ("fine", "valid") if coarse else ("fine",)
    whole = simota.assign(output, prepared.targets, prepared.candidates, matching, passes)
    matching = dataclasses.replace(matching, max_pairs=budget)
    parts = simota.assign(output, prepared.targets, prepared.candidates, matching, passes)
    for one, other in zip(whole, parts, strict=True):
        assert batched_rows(one) == batched_rows(other) and sum(batched_rows(one).values()) > 40


def criterion_of(coarse: bool) -> Criterion:
    return both(LossConfig(assignment="coarse_to_fine" if coarse else "lead_guided"), 3)[0]


def test_groups_keep_crowded_images_apart() -> None:
    size = (64, 64)
    targets, output = make_targets(0, (4, 5, 100, 6, 7), size, 2), make_output(0, 5, size, 2)
    candidates = both(LossConfig(), 2)[0].prepare(output, targets).candidates
    count, counts = candidates.cell.shape[1], candidates.counts
    assert max(counts) <= count < max(counts) + 64
    assert list(simota._groups(targets, candidates, 10**9)) == [(0, 5, 104, count)]
    budget = 2 * 7 * max(counts[:2] + counts[3:])
    assert budget < 100 * counts[2]
    assert list(simota._groups(targets, candidates, budget)) == [
        (0, 2, 5, max(counts[:2])), (2, 3, 100, counts[2]), (3, 5, 7, max(counts[3:]))]
    unknown = dataclasses.replace(targets, counts=())
    assert [group[2] for group in simota._groups(unknown, candidates, budget)] == [104] * 5
