"""The terms of blended masks: golden numbers of the proposal, positives one by one, and the sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from yolov7.config import InputError
from yolov7.config.recipe import LossConfig
from yolov7.loss import blends
from yolov7.loss.candidates import Assignment, Gathered
from yolov7.loss.criterion import Criterion
from yolov7.loss.terms import Matched
from yolov7.masks import GRID
from yolov7.model.blending import blend
from yolov7.model.heads.base import FREE, Channels
from yolov7.structures import HeadOutput, Targets

GOLDEN = Path(__file__).parents[1] / "golden" / "mask"
CASES = json.loads((GOLDEN / "proposal.json").read_text())
ATTENTION, CLASSES = 980, 2


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
