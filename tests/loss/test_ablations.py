"""What each key of the paper's ablations changes (tables 6 and 7), and the parts that all share."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_batched import ANCHORS, STRIDES, batched_rows, gradients, make_output, make_targets

from yolov7.config import InputError
from yolov7.config.recipe import LossConfig
from yolov7.loss.candidates import Assignment, flat_rows, gather_predictions, row_index
from yolov7.loss.criterion import AUXILIARY_WEIGHT, Criterion, total_loss
from yolov7.model.heads.base import CONSTRAINED, FREE, decode_boxes
from yolov7.structures import HeadOutput

SIZE, COUNTS = (128, 160), (9, 3, 0, 14)
TARGETS = make_targets(4, COUNTS, SIZE, 3)
TARGETS = dataclasses.replace(TARGETS, boxes=TARGETS.boxes * 0.997)  # no centre on the border of a cell


@pytest.fixture
def output() -> HeadOutput:
    return make_output(4, 4, SIZE, 3, auxiliary=True)


def criterion(**changes: object) -> Criterion:
    return Criterion(LossConfig(**changes), ANCHORS, STRIDES, 3)  # type: ignore[arg-type]


def assign(own: Criterion, output: HeadOutput) -> tuple[Assignment, ...]:
    return own.assign(output, own.prepare(output, TARGETS))


def test_lead_guided_gives_both_heads_the_same_labels(output: HeadOutput) -> None:
    lead, auxiliary = assign(criterion(assignment="lead_guided"), output)
    assert auxiliary is lead
    alone, = assign(criterion(top_k=20), HeadOutput(output.levels))
    assert batched_rows(lead) == batched_rows(alone)


def test_coarse_to_fine_gives_the_auxiliary_head_more(output: HeadOutput) -> None:
    lead, auxiliary = assign(criterion(), output)
    guided, _ = assign(criterion(assignment="lead_guided"), output)
    assert batched_rows(lead) == batched_rows(guided)
    assert auxiliary.positive.sum() > lead.positive.sum()


def test_independent_labels_come_from_the_head_itself(output: HeadOutput) -> None:
    lead, auxiliary = assign(criterion(assignment="independent"), output)
    own, = assign(criterion(top_k=20), output.auxiliary[0])
    assert batched_rows(auxiliary) == batched_rows(own) != batched_rows(lead)


def test_free_decoding_changes_the_auxiliary_box_term_alone(output: HeadOutput) -> None:
    constrained, free = (criterion(aux_decode=decode)(output, TARGETS) for decode in ("constrained", "free"))
    assert constrained["box"] != free["box"] and constrained["classification"] == free["classification"]
    for one, other in zip(gradients(constrained, output)[:3], gradients(free, output)[:3], strict=True):
        assert torch.equal(one, other)  # of the lead head


def test_reach_of_the_decoders() -> None:
    logits = torch.tensor([[-40.0, -40, 0, 0], [40.0, 40, 0, 0]])
    for reach, low, high in ((CONSTRAINED, -0.5, 1.5), (FREE, -1.0, 2.0)):
        boxes = decode_boxes(logits, torch.zeros(2, 2), torch.ones(2), 1.0, reach)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        torch.testing.assert_close(centre, torch.tensor([[low, low], [high, high]]))


def test_an_auxiliary_head_that_equals_the_lead_head_adds_a_quarter(output: HeadOutput) -> None:
    twin = dataclasses.replace(output, auxiliary=(HeadOutput(output.levels),))
    both = criterion(assignment="lead_guided")(twin, TARGETS)
    alone = criterion(top_k=20)(HeadOutput(output.levels), TARGETS)
    torch.testing.assert_close(total_loss(both), (1 + AUXILIARY_WEIGHT) * total_loss(alone))


def test_default_number_of_positives(output: HeadOutput) -> None:
    lead = HeadOutput(output.levels)
    for config, head, top_k in (({}, lead, 10), ({}, output, 20), ({"top_k": 3}, lead, 3)):
        assignment = assign(criterion(**config), head)[0]
        assert assignment.positive.shape[0] == 4 * 16 * top_k  # images, padded objects, best candidates


def test_class_weights_are_one_for_each_class() -> None:
    with pytest.raises(InputError, match="class_weights: found 2 weights; accepted: one for each of the 3 classes"):
        criterion(class_weights=(1.0, 2.0))


def test_gathered_predictions_and_their_gradient() -> None:
    """The buffer of a level gets what autograd would add up, in the memory layout of the level."""
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(2, 6, 5, 3, 7, generator=generator).permute(0, 3, 1, 2, 4).requires_grad_()
    place = torch.stack([torch.randint(size, (40,), generator=generator) for size in level.shape[:4]])  # repeats some
    weights = torch.randn(40, 7, generator=generator)
    index, inside = row_index(level, *place), torch.ones(40, dtype=torch.bool)
    labels = torch.randint(2, (40,), generator=generator)
    gathered, plain = gather_predictions([level], [index], [inside], labels), level[tuple(place)]
    own = plain[:, 5:].gather(1, labels[:, None])[:, 0]
    for ours, theirs in zip(gathered[:3], (plain[:, :4], plain[:, 5:], own), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(gathered.objectness[0], level[..., 4])
    totals = [(boxes * weights[:, :4]).sum() + (classes * weights[:, 5:]).sum() + (one * weights[:, 4]).sum()
              + objectness.square().sum() for boxes, classes, one, objectness in
              ((*gathered[:3], gathered.objectness[0]), (plain[:, :4], plain[:, 5:], own, level[..., 4]))]
    (found,), (expected,) = (torch.autograd.grad(total, level) for total in totals)
    torch.testing.assert_close(found, expected)
    assert found.stride() == level.stride()
    assert flat_rows(level).data_ptr() == level.data_ptr()  # no copy
    double = level.detach().double().requires_grad_()
    torch.autograd.gradcheck(lambda x: gather_predictions([x], [index], [inside], labels)[:3], double)
