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
from yolov7.model.heads.pose import PublishedPoseHead
from yolov7.structures import HeadOutput, Instances

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


def scored(scores: Tensor) -> Tensor:
    """The objectness as a head with `Head.class_score` has it."""
    return scores[:, 0] * scores[:, 1] if scores.shape[1] == 2 else scores[:, 0]


@pytest.mark.parametrize("name", SEG)
def test_golden_seg_post_nms(name: str) -> None:
    """The reference implementation multiplies the coefficients by the objectness, and so the logits of a mask."""
    case, golden = SEG[name], np.load(GOLDEN / "seg" / f"{name}.npz")
    only = case["only_classes"]
    options = NMSOptions(case["conf"], case["iou"], case["max_det"], case["multi_label"], case["agnostic"],
                         None if only is None else tuple(only))
    stop = 5 + case["classes"]
    for index, image in enumerate(seg_inputs(case)):
        coefficients = image[:, stop:] * image[:, 4:5]
        objectness = scored(image[:, 4:stop])
        rows = Predictions(cxcywh_to_xyxy(image[:, :4]), objectness, image[:, 5:stop], {"coefficients": coefficients})
        found = nms_image(rows, options)
        assert len(found) == case["counts"][index] and found.extra["coefficients"].shape[1:] == (case["masks"],)
        check(found, found.extra["coefficients"], golden[f"image{index}"])


@pytest.mark.parametrize("name", POSE)
def test_golden_pose_post_nms(name: str) -> None:
    case, golden = POSE[name], np.load(GOLDEN / "pose" / f"{name}.npz")
    options = NMSOptions(case["conf"], case["iou"], case["max_det"])
    for index, image in enumerate(pose_inputs(case)):
        rows = Predictions(cxcywh_to_xyxy(image[:, :4]), scored(image[:, 4:6]), image[:, 5:6],
                           {"keypoints": image[:, 6:].view(-1, 17, 3)})
        found = nms_image(rows, options)
        assert len(found) == case["counts"][index] and found.extra["keypoints"].shape[1:] == (17, 3)
        check(found, found.extra["keypoints"].flatten(1), golden[f"image{index}"])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("class_score", [False, True])
def test_the_score_of_one_class_is_the_objectness_unless_its_head_multiplies(multi_label: bool,
                                                                             class_score: bool) -> None:
    anchors = (((10.0, 10.0),),)
    head = PublishedPoseHead([8], [8], 1, anchors, keypoints=("nose",), class_score=class_score)
    logits = torch.zeros(1, 1, 1, 2, 9)  # objectness 0.8 and 0.5, class 0.5 and 0.4
    logits[..., 4], logits[..., 5] = torch.tensor([4.0, 1.0]).log(), torch.tensor([0.5, 0.4]).logit()
    output = HeadOutput((logits,))
    for rows in (head.decoder(output).images()[0], head.decoder.above(output, 0.25)[0]):
        found = nms_image(rows, NMSOptions(0.25, multi_label=multi_label))
        assert found.scores.tolist() == pytest.approx([0.4] if class_score else [0.8, 0.5])
        assert not found.labels.any() and rows.classes[:, 0].tolist() == pytest.approx([0.5, 0.4])
