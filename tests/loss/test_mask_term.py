"""The mask term against the simple one, and what holds for masks of every kind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_task_loss import CLASSES, criterion_of, mask_batch, mask_channels, simple_losses, simple_mask
from test_batched import ANCHORS, STRIDES, make_targets
from torch import Tensor
from torch.nn import functional as F

from yolov7.config.recipe import LossConfig
from yolov7.loss import masks
from yolov7.loss.criterion import DETECTION_TERMS, Criterion, Losses, total_loss
from yolov7.loss.masks import MASK_TERMS, PIECE, windows_of
from yolov7.structures import HeadOutput, Targets


def criterion(masks: int = 4, across: Any = None, **changes: Any) -> Criterion:
    made = criterion_of(LossConfig(**changes), MASK_TERMS, mask_channels(masks))
    made.across = across
    return made


def gradients(losses: Losses, output: HeadOutput) -> list[Tensor]:
    levels = [*output.levels, *(level for head in output.auxiliary for level in head.levels)]
    found = torch.autograd.grad(losses["mask"], [*levels, output.maps["prototypes"]], allow_unused=True,
                                retain_graph=True)
    return [torch.zeros(()) if value is None else value for value in found]


def assert_as_simple(own: Criterion, output: HeadOutput, targets: Targets) -> Losses:
    ours, theirs = own(output, targets), simple_losses(own, output, targets, "mask")
    torch.testing.assert_close(ours["mask"], theirs["mask"], rtol=1e-5, atol=1e-8)
    for one, other in zip(gradients(ours, output), gradients(theirs, output), strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max() + 1e-10
    return ours


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
       size=st.sampled_from([(64, 64), (96, 160), (160, 64)]), masks=st.sampled_from([1, 4, 32]),
       scale=st.sampled_from([0.3, 1.0, 3.0]), separate=st.booleans(), ratio=st.sampled_from([1, 2, 4, 8]),
       unknown=st.booleans(), ota=st.booleans())
def test_mask_term_equals_the_simple_one(seed: int, counts: list[int], size: tuple[int, int], masks: int, scale: float,
                                         separate: bool, ratio: int, unknown: bool, ota: bool) -> None:
    output, targets = mask_batch(seed, tuple(counts), size, masks, scale, separate=separate, ratio=ratio,
                                 unknown=unknown)
    assert_as_simple(criterion(masks, loss_ota=ota), output, targets)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
       assignment=st.sampled_from(["coarse_to_fine", "lead_guided", "independent"]), ota=st.booleans(),
       top_k=st.sampled_from([0, 1, 3]))
def test_mask_term_with_auxiliary_head(seed: int, counts: list[int], assignment: str, ota: bool, top_k: int) -> None:
    output, targets = mask_batch(seed, tuple(counts), (96, 128), auxiliary=True)
    assert_as_simple(criterion(assignment=assignment, loss_ota=ota, top_k=top_k), output, targets)


@pytest.mark.parametrize("ota", [False, True])
def test_more_than_255_objects(ota: bool) -> None:
    output, targets = mask_batch(0, (300, 3), (96, 96))
    targets.maps["masks"] = torch.arange(2 * 24 * 24).view(2, 24, 24) % 301
    assert assert_as_simple(criterion(loss_ota=ota), output, targets)["mask"] > 0


def test_an_object_whose_mask_has_no_cell_counts_as_background_all_over() -> None:
    output, targets = mask_batch(3, (6,), (96, 96))
    targets.maps["masks"].zero_()
    counted = assert_as_simple(criterion(loss_ota=False), output, targets)["mask"]
    unknown = dataclasses.replace(targets, extra={"has_mask": torch.zeros_like(targets.valid)})
    assert counted > 0 and criterion(loss_ota=False)(output, unknown)["mask"] == 0


def test_unknown_masks_do_not_thin_the_mean_of_the_others() -> None:
    """An image with two objects of which one has no mask: the same as the mean over the other one's positives."""
    output, targets = mask_batch(3, (2,), (96, 96))
    known = torch.zeros_like(targets.valid)
    known[0, 0] = True
    partly = criterion(loss_ota=False)(output, dataclasses.replace(targets, extra={"has_mask": known}))
    alone = dataclasses.replace(targets, valid=targets.valid & known, counts=(1,))
    torch.testing.assert_close(partly["mask"], criterion(loss_ota=False)(output, alone)["mask"])


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 4)])
def test_images_without_objects(counts: tuple[int, ...]) -> None:
    output, targets = mask_batch(1, counts, (64, 96))
    losses = assert_as_simple(criterion(), output, targets)
    assert (losses["mask"] > 0) == (sum(counts) > 0)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(losses, output))


def test_boxes_without_a_cell_and_beyond_the_image() -> None:
    boxes = torch.tensor([[[5.0, 5, 7.9, 7.9], [9, 9, 9.001, 9.001], [0, 0, 96, 64], [90, 60, 200, 200],
                           [-50, -50, 4, 4], [0, 30, 96, 30.5], [20, 20, 44, 44], [95.9, 63.9, 96, 64]]])
    output, targets = mask_batch(1, (8,), (64, 96))
    targets = dataclasses.replace(targets, boxes=boxes)
    losses = assert_as_simple(criterion(loss_ota=False), output, targets)
    assert torch.isfinite(losses["mask"])
    assert windows_of(boxes, (64, 96), (16, 24))[0].tolist() == [
        [2, 2, 2, 2], [3, 3, 3, 3], [0, 0, 24, 16], [23, 15, 24, 16], [0, 0, 1, 1], [0, 8, 24, 8], [5, 5, 11, 11],
        [24, 16, 24, 16]]


def test_tiny_boxes_weigh_as_one_pixel() -> None:
    """0.1 x 0.1 px around a cell: without a limit it would weigh a hundred times as much."""
    output, targets = mask_batch(1, (1,), (64, 64))
    targets.boxes[0, 0] = torch.tensor([15.95, 15.95, 16.05, 16.05])
    tables = masks.mask_tables(own := criterion(anchor_t=1e6, loss_ota=False), output, own.prepare(output, targets))
    assert tables["mask_pieces"][0].tolist() == [0, 0, 4, 4, 1, 1]
    assert 0 < assert_as_simple(own, output, targets)["mask"] < 0.05 * 3 * 16 * 10


@pytest.mark.parametrize("step", [1, 3, 10**6])
def test_the_number_of_pieces_taken_together_does_not_matter(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    output, targets = mask_batch(2, (30, 0, 7), (128, 160))
    whole = criterion()(output, targets)
    monkeypatch.setitem(masks.PIECES_AT_A_TIME, "cpu", step)
    parts = criterion()(output, targets)
    torch.testing.assert_close(whole["mask"], parts["mask"], rtol=1e-5, atol=0)
    for one, other in zip(gradients(whole, output), gradients(parts, output), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


def test_pieces_cover_each_window_once() -> None:
    output, targets = mask_batch(2, (9, 0, 4), (128, 160))
    own = criterion()
    pieces = own.prepare(output, targets).tables["mask_pieces"]
    cell, inside = masks._cells_of_pieces(pieces, targets.labels.shape[1], (32, 40))
    assert pieces.shape[0] % masks.PIECES_STEP == 0 and cell.shape == inside.shape == (len(pieces), PIECE)
    windows = windows_of(targets.boxes, (128, 160), (32, 40)).view(-1, 4)
    for row, (left, top, right, bottom) in enumerate(windows.tolist()):
        image = row // targets.labels.shape[1]
        expected = [(image * 32 + y) * 40 + x for y in range(top, bottom) for x in range(left, right)]
        assert cell[pieces[:, 0] == row][inside[pieces[:, 0] == row]].tolist() == expected


def test_positives_beyond_the_places_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count neither in the sum nor in the mean: the first ones of an object stay."""
    output, targets = mask_batch(4, (3, 2), (96, 96))
    own = criterion(top_k=10)
    monkeypatch.setattr(masks, "SPARE_PLACES", -9)  # room for one
    prepared = own.prepare(output, targets)
    rows = own.assign(output, prepared)[0].positives().tolist()
    first = [row for index, row in enumerate(rows) if all(row[::3] != other[::3] for other in rows[:index])]
    assert len(first) < len(rows)
    expected = 0.05 * simple_mask(output, targets, first, output.maps["prototypes"], 2)
    torch.testing.assert_close(own.loss(output, prepared)["mask"], expected, rtol=1e-5, atol=1e-8)


def test_two_processes_add_up_to_one() -> None:
    output, targets = mask_batch(5, (6, 0, 9, 2), (96, 128))
    whole = criterion()(output, targets)
    parts = []
    for images in (slice(0, 1), slice(1, 4)):
        levels = tuple(level[images] for level in output.levels)
        cut = Targets(targets.boxes[images], targets.labels[images], targets.valid[images], targets.counts[images],
                      maps={"masks": targets.maps["masks"][images]})
        parts.append((HeadOutput(levels, maps={"prototypes": output.maps["prototypes"][images]}), cut))
    counted: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        counted.append(values)
        return values

    for own in parts:
        criterion(across=keep)(*own)
    losses = [criterion(across=lambda values: counted[0] + counted[1])(*own) for own in parts]
    for name, value in whole.items():
        torch.testing.assert_close(losses[0][name] + losses[1][name], value, rtol=1e-5, atol=1e-8)
    summed = torch.autograd.grad(total_loss(losses[0]) + total_loss(losses[1]), output.maps["prototypes"])
    torch.testing.assert_close(summed, torch.autograd.grad(total_loss(whole), output.maps["prototypes"]))


def test_terms_of_the_detector_stay_as_they_are() -> None:
    output, targets = mask_batch(6, (6, 3), (96, 128))
    plain = Criterion(LossConfig(), ANCHORS, STRIDES, CLASSES, terms=DETECTION_TERMS, channels=mask_channels(4))
    ours, theirs = criterion()(output, targets), plain(output, targets)
    assert list(ours) == [*theirs, "mask"] and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_gain_follows_that_of_the_boxes_unless_it_is_given() -> None:
    output, targets = mask_batch(6, (6, 3), (96, 128))
    plain, wide, own = (criterion(**changes)(output, targets)["mask"] for changes in (
        {}, {"box": 0.1}, {"box": 0.1, "gains": {"mask": 0.2}}))
    torch.testing.assert_close(torch.stack((wide, own)), torch.stack((2 * plain, 4 * plain)))


def test_values_without_gradients_are_the_same() -> None:
    output, targets = mask_batch(6, (6, 3), (96, 128))
    with torch.no_grad():
        value = criterion()(output, targets)["mask"]
    assert not value.requires_grad and value == criterion()(output, targets)["mask"]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prototypes_of_half_precision(dtype: torch.dtype, channels_last: bool) -> None:
    output, targets = mask_batch(6, (6, 3), (96, 128))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    half = output.maps["prototypes"].detach().to(dtype, memory_format=layout).requires_grad_()
    rounded = half.detach().float().requires_grad_()
    mine, same = (dataclasses.replace(output, maps={"prototypes": value}) for value in (half, rounded))
    losses, expected = criterion()(mine, targets), criterion()(same, targets)
    assert torch.equal(losses["mask"], expected["mask"])
    gradient, = torch.autograd.grad(losses["mask"], half)
    wanted, = torch.autograd.grad(expected["mask"], rounded)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.float(), wanted, rtol=1e-2, atol=1e-6)


def test_gradient_of_the_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(1, 2, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    coefficients = torch.randn(3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    slots, place = torch.tensor([[0, 2]]), torch.tensor([0, 0, 1])
    pieces = torch.tensor([[0, 0, 1, 0, 3, 9]])
    cell, inside = masks._cells_of_pieces(pieces, 1, (4, 5))
    truth = torch.rand(1, PIECE, generator=generator, dtype=torch.float64)
    torch.autograd.gradcheck(lambda a, b: masks._MaskLoss.apply(True, a, b, weight, slots, place, pieces[:, 0], cell,
                                                                inside, truth), (prototypes, coefficients))


def test_bce_of_large_logits_is_exact() -> None:
    logits = torch.tensor([-20.0, -12, -1, 0, 1, 12, 20])
    for truth in (torch.zeros(7), torch.ones(7), torch.full((7,), 0.25)):
        expected = F.binary_cross_entropy_with_logits(logits.double(), truth.double(), reduction="none").float()
        torch.testing.assert_close(masks._bce(logits, truth), expected, rtol=1e-6, atol=0)


def test_a_crowded_image_needs_no_map_of_each_object() -> None:
    """2,000 objects at 640 px: the list of pieces is what grows."""
    output, targets = mask_batch(0, (2000,), (640, 640), masks=8)
    pieces = criterion(8).prepare(output, targets).tables["mask_pieces"]
    cells = windows_of(targets.boxes, (640, 640), (160, 160))
    areas = (cells[..., 2:] - cells[..., :2]).prod(-1)
    assert len(pieces) <= areas.sum() / PIECE + 2000 + masks.PIECES_STEP
    assert torch.isfinite(criterion(8)(output, targets)["mask"])


def test_index_maps_of_another_size_take_the_nearest_cell() -> None:
    targets = make_targets(0, (1,), (32, 32), 1)
    targets.maps["masks"] = torch.arange(64).view(1, 8, 8)
    assert masks._maps(targets, (4, 4))[0, 0].tolist() == [9, 11, 13, 15]
    assert masks._maps(targets, (16, 16))[0, 0, :4].tolist() == [0, 0, 1, 1]
    assert masks._maps(targets, (8, 8)) is targets.maps["masks"]
