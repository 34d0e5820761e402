"""NMS with the columns of segmentation and pose, against the golden detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.model.heads.base import Predictions
from yolov7.structures import Instances

GOLDEN = Path(__file__).parents[1] / "golden"
SEG, POSE = (json.loads((GOLDEN / task / "post.json").read_text())["nms"] for task in ("seg", "pose"))


def clusters(r: np.random.RandomState, batch: int, rows: int, people: int, classes: int) -> tuple[np.ndarray, ...]:
    """Centres, sizes, objectness and the kinds that were picked, in the golden files' order of draws."""
    centres, sizes = r.uniform(40, 600, (batch, people, 2)), r.uniform(16, 200, (batch, people, 2))
    kinds = r.randint(classes, size=(batch, people)) if classes else np.zeros((batch, people), int)
    pick, image = r.randint(people, size=(batch, rows)), np.arange(batch)[:, None]
    centre = centres[image, pick] + 6 * r.standard_normal((batch, rows, 2))
    size = sizes[image, pick] * np.exp(0.15 * r.standard_normal((batch, rows, 2)))
    return centre, size, r.random_sample((batch, rows, 1)) ** 2, kinds[image, pick]


def seg_inputs(case: dict[str, Any]) -> Tensor:
    """``[B, N, 5 + C + masks]``."""
    r, shape = np.random.RandomState(case["seed"]), (case["batch"], case["boxes"])
    centre, size, objectness, kinds = clusters(r, *shape, 40, case["classes"])
    scores = 0.3 * r.random_sample((*shape, case["classes"]))
    np.put_along_axis(scores, kinds[..., None], r.uniform(0.5, 1.0, (*shape, 1)), axis=2)
    coefficients = r.standard_normal((*shape, case["masks"]))
    return torch.from_numpy(np.concatenate((centre, size, objectness, scores, coefficients), 2).astype(np.float32))


def pose_inputs(case: dict[str, Any]) -> Tensor:
    """``[B, N, 6 + 51]``."""
    r, shape = np.random.RandomState(case["seed"]), (case["batch"], case["boxes"])
    centre, size, objectness, _ = clusters(r, *shape, 20, 0)
    scores = r.uniform(0.3, 1.0, (*shape, 1))
    points = centre[:, :, None] + size[:, :, None] * r.uniform(-0.6, 0.6, (*shape, 17, 2))
    points = np.concatenate((points, r.random_sample((*shape, 17, 1))), axis=3).reshape(*shape, 51)
    return torch.from_numpy(np.concatenate((centre, size, objectness, scores, points), axis=2).astype(np.float32))


def check(found: Instances, column: Tensor, expected: np.ndarray) -> None:
    assert len(found) == len(expected)
    if len(expected):
        np.testing.assert_allclose(found.boxes, expected[:, :4], atol=1e-3)
        np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-6)
        assert found.labels.tolist() == expected[:, 5].astype(int).tolist()
        np.testing.assert_allclose(column, expected[:, 6:], atol=1e-3)


@pytest.mark.parametrize("name", SEG)
def test_golden_seg_post_nms(name: str) -> None:
    """The reference implementation multiplies the coefficients by the objectness, and so the logits of a mask."""
    case, golden = SEG[name], np.load(GOLDEN / "seg" / f"{name}.npz")
    only = case["only_classes"]
    options = NMSOptions(case["conf"], case["iou"], case["max_det"], case["multi_label"], case["agnostic"],
                         None if only is None else tuple(only), class_score=True)
    stop = 5 + case["classes"]
    for index, image in enumerate(seg_inputs(case)):
        coefficients = image[:, stop:] * image[:, 4:5]
        rows = Predictions(cxcywh_to_xyxy(image[:, :4]), image[:, 4], image[:, 5:stop], {"coefficients": coefficients})
        found = nms_image(rows, options)
        assert len(found) == case["counts"][index] and found.extra["coefficients"].shape[1:] == (case["masks"],)
        check(found, found.extra["coefficients"], golden[f"image{index}"])


@pytest.mark.parametrize("name", POSE)
def test_golden_pose_post_nms(name: str) -> None:
    case, golden = POSE[name], np.load(GOLDEN / "pose" / f"{name}.npz")
    options = NMSOptions(case["conf"], case["iou"], case["max_det"], class_score=True)
    for index, image in enumerate(pose_inputs(case)):
        rows = Predictions(cxcywh_to_xyxy(image[:, :4]), image[:, 4], image[:, 5:6],
                           {"keypoints": image[:, 6:].view(-1, 17, 3)})
        found = nms_image(rows, options)
        assert len(found) == case["counts"][index] and found.extra["keypoints"].shape[1:] == (17, 3)
        check(found, found.extra["keypoints"].flatten(1), golden[f"image{index}"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_score_of_one_class_is_the_objectness_unless_asked(multi_label: bool) -> None:
    rows = Predictions(torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]), torch.tensor([0.8, 0.5]),
                       torch.tensor([[0.5], [0.4]]))
    plain = nms_image(rows, NMSOptions(0.25, multi_label=multi_label))
    product = nms_image(rows, NMSOptions(0.25, multi_label=multi_label, class_score=True))
    assert plain.scores.tolist() == pytest.approx([0.8, 0.5])
    assert product.scores.tolist() == pytest.approx([0.4]) and product.labels.tolist() == [0]
