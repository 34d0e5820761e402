"""Box formats and the IoU family, against hand-made values and the golden pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov7.boxes import (
    area,
    clip,
    cxcywh_to_xyxy,
    intersection,
    paired_iou,
    pairwise_iou,
    xyxy_to_cxcywh,
)

GOLDEN = Path(__file__).parent / "golden" / "post" / "iou.npz"
MEASURES = ["IoU", "GIoU", "DIoU", "CIoU"]


@pytest.mark.parametrize("measure", MEASURES)
def test_golden_post_iou(measure: str) -> None:
    golden = np.load(GOLDEN)
    box1 = torch.from_numpy(golden["box1"]).requires_grad_()  # cxcywh
    box2 = torch.from_numpy(golden["box2"])

    values = paired_iou(cxcywh_to_xyxy(box1), cxcywh_to_xyxy(box2), kind=measure.lower())
    values.sum().backward()

    assert len(values) == 64
    np.testing.assert_allclose(values.detach(), golden[measure], rtol=1e-5, atol=1e-6)
    gradient = golden[f"{measure}_grad"]
    np.testing.assert_allclose(box1.grad, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("iou", 1 / 7), ("giou", 1 / 7 - 2 / 9), ("diou", 1 / 7 - 2 / 18), ("ciou", 1 / 7 - 2 / 18)],
)
def test_two_overlapping_squares(measure: str, expected: float) -> None:
    box1, box2 = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert paired_iou(box1, box2, measure).item() == pytest.approx(expected, abs=1e-6)


def test_ciou_punishes_another_aspect_and_holds_its_weight_constant() -> None:
    box1 = torch.tensor([[0.0, 0, 4, 2]], requires_grad=True)
    box2 = torch.tensor([[1.0, -1, 3, 3]])  # same centre, turned by a right angle
    ciou = paired_iou(box1, box2, "ciou")
    angle = np.arctan(0.5) - np.arctan(2.0)
    aspect = 4 / np.pi**2 * angle**2
    assert ciou.item() == pytest.approx(1 / 3 - aspect**2 / (aspect - 1 / 3 + 1), abs=1e-6)
    ciou.sum().backward()
    assert box1.grad is not None
    assert torch.isfinite(box1.grad).all()


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="'eiou' is not one of iou, giou, diou, ciou"):
        paired_iou(torch.zeros(1, 4), torch.zeros(1, 4), "eiou")


def test_boxes_without_area_have_finite_values_and_gradients() -> None:
    for measure in MEASURES:
        box = torch.zeros(3, 4, requires_grad=True)
        value = paired_iou(box, torch.zeros(3, 4), measure.lower())
        value.sum().backward()
        assert box.grad is not None
        assert torch.isfinite(value).all()
        assert torch.isfinite(box.grad).all()


def test_no_boxes_give_no_values() -> None:
    none = torch.zeros(0, 4)
    assert paired_iou(none, none, "ciou").shape == (0,)
    assert pairwise_iou(none, torch.zeros(5, 4)).shape == (0, 5)
    assert xyxy_to_cxcywh(cxcywh_to_xyxy(none)).shape == (0, 4)
    assert clip(none, 10, 10).shape == (0, 4)


def test_formats() -> None:
    corners = torch.tensor([10.0, 20, 40, 60])
    centre = torch.tensor([25.0, 40, 30, 40])
    assert torch.equal(xyxy_to_cxcywh(corners), centre)
    assert torch.equal(cxcywh_to_xyxy(centre), corners)


@given(st.lists(st.floats(-2000, 2000, width=32), min_size=4, max_size=4))
def test_formats_invert_each_other(values: list[float]) -> None:
    boxes = torch.tensor([values])
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, rtol=1e-5, atol=1e-3)


def test_clip_limits_x_by_width_and_y_by_height() -> None:
    boxes = torch.tensor([[-5.0, -6, 300, 250], [10, 20, 30, 40]])
    before = boxes.clone()
    assert clip(boxes, height=100, width=200).tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]
    assert torch.equal(boxes, before)


def test_area_and_intersection() -> None:
    box1 = torch.tensor([[0.0, 0, 4, 3], [0, 0, 1, 1]])
    box2 = torch.tensor([[2.0, 1, 6, 9], [1, 0, 2, 1]])  # the second pair only touches
    assert area(box1).tolist() == [12, 1]
    assert intersection(box1, box2).tolist() == [4, 0]


def test_pairwise_agrees_with_paired_and_has_no_epsilon() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 7, 2, generator=generator) * 50
    boxes = torch.cat((low, low + 1 + torch.rand(2, 7, 2, generator=generator) * 50), dim=-1)  # [B, 7, 4]
    table = pairwise_iou(boxes[:, :3], boxes)  # [B, 3, 7]
    assert table.shape == (2, 3, 7)
    assert torch.equal(table[:, range(3), range(3)], torch.ones(2, 3))
    torch.testing.assert_close(table[1, 2], paired_iou(boxes[1, 2].expand(7, 4), boxes[1]), rtol=1e-4, atol=1e-6)
    assert pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
