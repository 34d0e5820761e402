"""Loss, gradients and assignments against the numbers of the reference implementation."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from golden_numbers import GOLDEN

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.config.recipe import LossConfig
from yolov7.loss.candidates import Assignment
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.structures import HeadOutput, Targets

SUMMARY = json.loads((GOLDEN / "loss" / "summary.json").read_text())
CASES = SUMMARY["cases"]


def golden_output(case: dict) -> HeadOutput:
    levels = []
    strides = SUMMARY["strides"][str(case["levels"])]
    for index, stride in enumerate(strides * (2 if case["kind"] == "aux" else 1)):
        random = np.random.RandomState(case["prediction_seed"] + index)
        shape = (case["batch"], 3, case["height"] // stride, case["width"] // stride, case["classes"] + 5)
        values = (case["prediction_scale"] * random.standard_normal(shape)).astype(np.float32)
        levels.append(torch.from_numpy(values).requires_grad_())
    lead, auxiliary = tuple(levels[: len(strides)]), tuple(levels[len(strides) :])
    return HeadOutput(lead, (HeadOutput(auxiliary),) if auxiliary else ())


def all_levels(output: HeadOutput) -> list[torch.Tensor]:
    return [*output.levels, *(level for head in output.auxiliary for level in head.levels)]


def padded_targets(rows: np.ndarray, case: dict) -> Targets:
    """Rows (image, class, cx, cy, w, h; normalised) -> padded pixels. Pads to an odd width on purpose."""
    counts = np.bincount(rows[:, 0].astype(int), minlength=case["batch"])
    width = int(counts.max()) + 3
    boxes = torch.zeros(case["batch"], width, 4)
    labels = torch.zeros(case["batch"], width, dtype=torch.int64)
    valid = torch.zeros(case["batch"], width, dtype=torch.bool)
    scale = torch.tensor([case["width"], case["height"]] * 2, dtype=torch.float64)
    for image, count in enumerate(counts):
        own = torch.from_numpy(rows[rows[:, 0] == image])
        boxes[image, :count] = cxcywh_to_xyxy(own[:, 2:].double() * scale).float()
        labels[image, :count] = own[:, 1].long()
        valid[image, :count] = True
    return Targets(boxes, labels, valid)


def criterion_of(case: dict) -> Criterion:
    config = LossConfig(**case["hyp"], loss_ota=case["kind"] != "plain")
    anchors = torch.tensor(SUMMARY["anchors_px"][str(case["levels"])], dtype=torch.float32).view(case["levels"], 3, 2)
    return Criterion(config, anchors, SUMMARY["strides"][str(case["levels"])], case["classes"])


def assigned_rows(assignment: Assignment, output: HeadOutput, rows: np.ndarray) -> list[Counter]:
    """Per level a multiset of (image, anchor, row, column, index of the target row)."""
    own = [np.flatnonzero(rows[:, 0] == image) for image in range(len(output.levels[0]))]
    result = [Counter() for _ in output.levels]
    for image, level, cell, gt_index in assignment.positives().tolist():
        height, width = output.levels[level].shape[2:4]
        position = (cell // (height * width), cell // width % height, cell % width)
        result[level][(image, *position, int(own[image][gt_index]))] += 1
    return result


@pytest.mark.parametrize("name", CASES)
def test_golden_loss(name: str) -> None:
    case, golden = CASES[name], np.load(GOLDEN / "loss" / f"{name}.npz")
    output, criterion = golden_output(case), criterion_of(case)
    losses = criterion(output, padded_targets(golden["targets"], case))
    total = total_loss(losses)
    ours = [losses["box"], losses["objectness"], losses["classification"], total, total * case["batch"]]
    np.testing.assert_allclose([t.item() for t in ours], [case[k] for k in ("box", "obj", "cls", "total", "loss")],
                               rtol=1e-5, atol=1e-9)
    (total * case["batch"]).backward()
    for index, level in enumerate(all_levels(output)):
        assert level.grad is not None
        assert level.grad.norm().item() == pytest.approx(case[f"grad{index}_norm"], rel=1e-4)
        if f"grad{index}" in golden:
            expected = golden[f"grad{index}"]
            assert np.abs(level.grad.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["kind"] != "plain"])
def test_golden_loss_assignment(name: str) -> None:
    case, golden = CASES[name], np.load(GOLDEN / "loss" / f"{name}.npz")
    output, rows = golden_output(case), golden["targets"]
    index_of = {row.tobytes(): index for index, row in enumerate(rows)}
    criterion = criterion_of(case)
    assignments = criterion.assign(output, criterion.prepare(output, padded_targets(rows, case)))
    for head, assignment in zip(("lead", "aux"), assignments, strict=False):
        for level, found in enumerate(assigned_rows(assignment, output, rows)):
            expected = Counter(
                (*map(int, position), index_of[target.astype(rows.dtype).tobytes()])
                for position, target in zip(golden[f"{head}{level}"], golden[f"{head}{level}_target"], strict=True)
            )
            assert found == expected, f"{head}, level {level}"
