"""Key points behind NMS against the golden ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov7.inference.pose import finish_keypoints
from yolov7.structures import ImageMeta, Instances

GOLDEN = Path(__file__).parents[1] / "golden" / "pose"
CASES = json.loads((GOLDEN / "post.json").read_text())["native"]


@pytest.mark.parametrize("name", CASES)
def test_golden_pose_post_native(name: str) -> None:
    case, golden = CASES[name], np.load(GOLDEN / f"{name}.npz")
    boxes, points = (torch.from_numpy(golden[key]) for key in ("boxes", "key_points"))
    found = Instances(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.long),
                      extra={"keypoints": points.view(-1, 17, 3), "weight": torch.arange(len(boxes))})
    meta = ImageMeta("", 0, tuple(case["native"]), (case["gain"],) * 2, tuple(case["pad"]))
    native = finish_keypoints(found, {}, meta)
    np.testing.assert_allclose(native.boxes, golden["out_boxes"], atol=1e-4)
    np.testing.assert_allclose(native.extra["keypoints"].flatten(1), golden["out_key_points"], atol=1e-4)
    assert native.extra["weight"].tolist() == list(range(len(boxes)))


def test_both_axes_have_their_own_gain_and_nothing_is_an_ordinary_case() -> None:
    points = torch.tensor([[[10.0, 20.0, 0.5], [-3, 90, 0.1]]])
    found = Instances(torch.tensor([[0.0, 0, 40, 40]]), torch.ones(1), torch.zeros(1), extra={"keypoints": points})
    meta = ImageMeta("", 0, (30, 50), (2.0, 4.0), (2.0, 0.0))
    native = finish_keypoints(found, {}, meta)
    assert native.extra["keypoints"].tolist() == [[[4.0, 5.0, 0.5], [0.0, 22.5, pytest.approx(0.1)]]]
    assert finish_keypoints(found[:0], {}, meta).extra["keypoints"].shape == (0, 2, 3)
