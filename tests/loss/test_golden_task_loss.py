"""Losses and gradients of segmentation and pose against the numbers of the reference implementation."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.config.recipe import LossConfig
from yolov7.keypoints import COCO_PERSON
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.loss.keypoints import KEYPOINT_TERMS
from yolov7.loss.masks import MASK_TERMS
from yolov7.model.heads.base import Channels
from yolov7.structures import HeadOutput, Targets

SUMMARY = {task: json.loads((GOLDEN / task / "loss.json").read_text()) for task in ("seg", "pose")}
SEG, POSE = (SUMMARY[task]["cases"] for task in ("seg", "pose"))
# of boxes: predicted ones of a fraction of a cell are sensitive to where the epsilons of the CIoU stand, which here are
# those of the detector
TINY_BOXES = {"confident": 1e-4, "far_off": 1e-4}


def golden_levels(task: str, case: dict, channels: int, arrays: dict) -> tuple[torch.Tensor, ...]:
    levels = []
    for index, stride in enumerate(SUMMARY[task]["strides"][: case["levels"]]):
        random = np.random.RandomState(case["prediction_seed"] + index)
        shape = (case["batch"], 3, case["height"] // stride, case["width"] // stride, channels)
        values = (case["prediction_scale"] * random.standard_normal(shape)).astype(np.float32)
        if f"edit{index}_index" in arrays:
            values.reshape(-1)[arrays[f"edit{index}_index"]] = arrays[f"edit{index}_value"]
        levels.append(torch.from_numpy(values).requires_grad_())
    return tuple(levels)


def padded(rows: np.ndarray, case: dict) -> tuple[Targets, np.ndarray, np.ndarray]:
    """Rows (image, class, cx, cy, w, h, ...; normalised) as padded targets, and where each row is in them."""
    image = rows[:, 0].astype(int)
    index = np.array([int((image[:row] == image[row]).sum()) for row in range(len(rows))], int)
    width = int(np.bincount(image, minlength=1).max()) + 3  # odd on purpose
    scale = torch.tensor([case["width"], case["height"]] * 2, dtype=torch.float64)
    boxes = torch.zeros(case["batch"], width, 4)
    labels = torch.zeros(case["batch"], width, dtype=torch.int64)
    valid = torch.zeros(case["batch"], width, dtype=torch.bool)
    boxes[image, index] = cxcywh_to_xyxy(torch.from_numpy(rows[:, 2:6]).double() * scale).float()
    labels[image, index] = torch.from_numpy(rows[:, 1]).long()
    valid[image, index] = True
    return Targets(boxes, labels, valid), image, index


def criterion_of(task: str, case: dict) -> Criterion:
    hyp = dict(case["hyp"])
    gains = {"keypoints": hyp.pop("kpt")} if task == "pose" else {}
    config = LossConfig(**hyp, gains=gains, loss_ota=False)
    levels, classes = case["levels"], case["classes"]
    anchors = torch.tensor(SUMMARY[task]["anchors_px"][str(levels)], dtype=torch.float32).view(levels, 3, 2)
    channels = Channels.of(classes, {"coefficients": case["masks"]}) if task == "seg" else Channels(
        Channels.of(classes, {"keypoints": 3 * case["key_points"]}).widths, {"sigmas": COCO_PERSON.sigmas})
    terms = MASK_TERMS if task == "seg" else KEYPOINT_TERMS
    return Criterion(config, anchors, SUMMARY[task]["strides"][:levels], classes, terms=terms, channels=channels)


def check(case: dict, arrays: dict, output: HeadOutput, losses: dict, names: dict[str, str],
          boxes: float) -> None:
    total = total_loss(losses)
    ours = {**{theirs: losses[name].item() for theirs, name in names.items()}, "total": total.item(),
            "loss": total.item() * case["batch"]}
    np.testing.assert_allclose(list(ours.values()), [case[name] for name in ours], rtol=1e-5, atol=1e-9)
    (total * case["batch"]).backward()
    gradients = {f"grad{index}": level.grad for index, level in enumerate(output.levels)}
    gradients |= {f"grad_{name}": value.grad for name, value in output.maps.items()}
    for name, gradient in gradients.items():
        found = torch.zeros(()) if gradient is None else gradient
        assert found.norm().item() == pytest.approx(case[f"{name}_norm"], rel=2e-5, abs=1e-12)
        if name in arrays:
            error, largest = np.abs(found.numpy() - arrays[name]), np.abs(arrays[name]).max()
            assert error[..., :4].max() <= boxes * largest and error[..., 4:].max() <= 1e-5 * largest


def check_positives(case: dict, arrays: dict, criterion: Criterion, output: HeadOutput, targets: Targets) -> None:
    """Image, anchor, row, column and index of the target row: a multiset for each level."""
    rows = {key: row for row, key in enumerate(zip(*padded(arrays["targets"], case)[1:], strict=True))}
    assignment, = criterion.assign(output, criterion.prepare(output, targets))
    found: list[Counter] = [Counter() for _ in output.levels]
    for image, level, cell, gt_index in assignment.positives().tolist():
        height, width = output.levels[level].shape[2:4]
        place = (image, cell // (height * width), cell // width % height, cell % width)
        found[level][(*place, rows[image, gt_index])] += 1
    for index, ours in enumerate(found):
        assert ours == Counter(map(tuple, arrays[f"positives{index}"].astype(int).tolist()))


@pytest.mark.parametrize("name", SEG)
def test_golden_loss_seg(name: str) -> None:
    case, arrays = SEG[name], dict(np.load(GOLDEN / "seg" / f"loss_{name}.npz"))
    levels = golden_levels("seg", case, 5 + case["classes"] + case["masks"], arrays)
    random = np.random.RandomState(case["prototype_seed"])
    shape = (case["batch"], case["masks"], case["height"] // 4, case["width"] // 4)
    prototypes = torch.from_numpy((case["prototype_scale"] * random.standard_normal(shape)).astype(np.float32))
    output = HeadOutput(levels, maps={"prototypes": prototypes.requires_grad_()})
    targets, image, index = padded(arrays["targets"], case)
    masks = torch.from_numpy(arrays["masks"])
    if case["overlap"]:
        targets.maps["masks"] = masks
    else:
        separate = torch.zeros(*targets.labels.shape, *masks.shape[1:], dtype=torch.uint8)
        separate[image, index] = masks
        targets.extra["masks"] = separate
    criterion = criterion_of("seg", case)
    check_positives(case, arrays, criterion, output, targets)
    losses = criterion(output, targets)
    names = {"box": "box", "obj": "objectness", "cls": "classification", "seg": "mask"}
    check(case, arrays, output, losses, names, TINY_BOXES.get(name, 1e-5))


@pytest.mark.parametrize("name", POSE)
def test_golden_loss_pose(name: str) -> None:
    case, arrays = POSE[name], dict(np.load(GOLDEN / "pose" / f"loss_{name}.npz"))
    output = HeadOutput(golden_levels("pose", case, 5 + case["classes"] + 3 * case["key_points"], arrays))
    targets, image, index = padded(arrays["targets"], case)
    points = torch.from_numpy(arrays["targets"][:, 6:]).view(-1, case["key_points"], 2)
    labelled = (points[..., :1] != 0).float() * 2
    keypoints = torch.zeros(*targets.labels.shape, case["key_points"], 3)
    pixels = (points.double() * torch.tensor([case["width"], case["height"]])).float()
    keypoints[image, index] = torch.cat((pixels, labelled), dim=-1)
    targets.extra["keypoints"] = keypoints
    criterion = criterion_of("pose", case)
    check_positives(case, arrays, criterion, output, targets)
    losses = criterion(output, targets)
    names = {"box": "box", "obj": "objectness", "cls": "classification", "kpt": "keypoints", "kptv": "visibility"}
    check(case, arrays, output, losses, names, TINY_BOXES.get(name, 1e-5))
