"""Masks by blending after the network: golden numbers, and what must hold of any."""

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

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.config import InputError
from yolov7.inference.blended import finish_blended, paste, select_all, select_kept, select_without
from yolov7.inference.nms import NMSOptions
from yolov7.masks import GRID
from yolov7.model.blending import blend, mask_scores, paste_grids, pool, sample_grids
from yolov7.model.heads.base import Predictions
from yolov7.structures import ImageMeta, Instances

GOLDEN = Path(__file__).parents[1] / "golden" / "mask"
CASES = json.loads((GOLDEN / "post.json").read_text())
WIDTH = 980  # of the attention


def maps_of(r: np.random.RandomState, height: int, width: int) -> Tensor:
    """``[5, h, w]`` at stride 4, as the golden files draw them."""
    coarse = torch.from_numpy((2 * r.standard_normal((1, 5, height // 16, width // 16))).astype(np.float32))
    return F.interpolate(coarse, size=(height // 4, width // 4), mode="bilinear", align_corners=False)[0]


def named(maps: Tensor) -> dict[str, Tensor]:
    return {"bases": maps[:4], "semantic": maps[4:]}


def blended(maps: Tensor, boxes: Tensor, attention: Tensor) -> Tensor:
    """Logits ``[N, GRID, GRID]``."""
    return blend(attention, pool(maps[None], boxes, torch.zeros(len(boxes), dtype=torch.int64), 4))


@pytest.mark.parametrize("name", CASES["blend"])
def test_golden_mask_post_blend(name: str) -> None:
    case, golden = CASES["blend"][name], np.load(GOLDEN / f"blend_{name}.npz")
    r = np.random.RandomState(case["seed"])
    maps = maps_of(r, case["height"], case["width"])
    attention = torch.from_numpy(r.standard_normal((case["objects"], WIDTH)).astype(np.float32))
    boxes = torch.from_numpy(golden["boxes"])
    image = torch.zeros(len(boxes), dtype=torch.int64)
    for pooled in (pool(maps[None], boxes, image, 4), sample_grids(maps[None], boxes[None], 4)[0]):
        np.testing.assert_allclose(pooled.flatten()[:: case["step_pooled"]], golden["pooled"], atol=2e-5)
    logits = blended(maps, boxes, attention)
    np.testing.assert_allclose(logits.flatten()[:: case["step_logits"]], golden["logits"], atol=2e-5)
    np.testing.assert_allclose(mask_scores(logits.sigmoid()), golden["score"], rtol=1e-5)
    size = case["height"], case["width"]
    rows = Predictions(boxes, torch.ones(len(boxes)), torch.eye(len(boxes)), {"attention": attention}, named(maps))
    found = select_without(rows, NMSOptions())
    assert torch.equal(found.boxes, boxes) and list(found.extra) == ["grids"]
    masks = finish_blended(found, rows.maps, ImageMeta("", size=size)).extra["masks"]
    apart = masks.dense().numpy() != golden["pasted"].astype(bool)
    assert apart.sum(axis=(1, 2)).max() <= 3
    assert np.abs(masks.area.numpy() - case["areas"]).max() <= 3
    dense = paste_grids(logits.sigmoid()[None], boxes[None], size, 1)[0] >= 0.5
    assert (dense.numpy() != golden["pasted"].astype(bool)).sum(axis=(1, 2)).max() <= 3


def nms_inputs(case: dict[str, Any]) -> list[Predictions]:
    r, shape = np.random.RandomState(case["seed"]), (case["batch"], case["boxes"])
    height, width, classes, image = case["height"], case["width"], case["classes"], np.arange(case["batch"])[:, None]
    centres = r.uniform([20, 20], [width - 20, height - 20], (case["batch"], 12, 2))
    sizes, kinds = r.uniform(16, 90, (case["batch"], 12, 2)), r.randint(classes, size=(case["batch"], 12))
    pick = r.randint(12, size=shape)
    centre = centres[image, pick] + 3 * r.standard_normal((*shape, 2))
    size = sizes[image, pick] * np.exp(0.15 * r.standard_normal((*shape, 2)))
    objectness, scores = r.random_sample((*shape, 1)) ** 0.5, 0.3 * r.random_sample((*shape, classes))
    np.put_along_axis(scores, kinds[image, pick][..., None], r.uniform(0.6, 1.0, (*shape, 1)), axis=2)
    attention = r.standard_normal((*shape, WIDTH))
    parts = [torch.from_numpy(np.asarray(part, np.float32)) for part in (centre, size, objectness, scores, attention)]
    boxes = cxcywh_to_xyxy(torch.cat(parts[:2], dim=2))
    maps = [named(maps_of(r, height, width)) for _ in range(case["batch"])]
    return [Predictions(boxes[i], parts[2][i, :, 0], parts[3][i], {"attention": parts[4][i]}, maps[i])
            for i in range(case["batch"])]


def options_of(case: dict[str, Any]) -> NMSOptions:
    return NMSOptions(case["conf"], case["iou"], multi_label=True, agnostic=case["agnostic"])


@pytest.mark.parametrize("name", CASES["nms"])
def test_golden_mask_post_nms(name: str) -> None:
    case, golden = CASES["nms"][name], np.load(GOLDEN / f"{name}.npz")
    for index, rows in enumerate(nms_inputs(case)):
        found, expected = select_all(rows, options_of(case)), golden[f"image{index}"]
        assert len(found) == case["counts"][index] == len(expected)
        np.testing.assert_allclose(found.boxes, expected[:, :4], atol=1e-3)
        np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
        assert found.labels.tolist() == expected[:, 5].astype(int).tolist()
        masks = found.extra["grids"]
        np.testing.assert_allclose(masks.flatten(1)[:, :: case["step_masks"]], golden[f"masks{index}"], atol=1e-5)
        np.testing.assert_allclose(mask_scores(masks), golden[f"score{index}"], rtol=1e-5)


# --- what must hold of any -----------------------------------------------------------------------------------------


def bilinear(values: np.ndarray, y: float, x: float) -> float:
    """A sample as the definition of ROI-align has it."""
    height, width = values.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = values[top, left] * (1 - (x - left)) + values[top, right] * (x - left)
    lower = values[below, left] * (1 - (x - left)) + values[below, right] * (x - left)
    return float(upper * (1 - (y - top)) + lower * (y - top))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), reach=st.sampled_from([1.0, 3.0]))
def test_maps_are_sampled_by_the_formula_wherever_the_box_lies(seed: int, reach: float) -> None:
    r = np.random.RandomState(seed)
    height, width = r.randint(1, 9, 2)
    maps = torch.from_numpy(r.standard_normal((1, 2, height, width)).astype(np.float32))
    corners = r.uniform(-4 * reach, 4 * (max(height, width) + reach), (3, 2, 2))
    boxes = torch.from_numpy(np.concatenate((corners.min(1), corners.max(1)), axis=1).astype(np.float32))
    image = torch.zeros(3, dtype=torch.int64)
    found = pool(maps, boxes, image, 4)
    torch.testing.assert_close(sample_grids(maps, boxes[None], 4)[0], found, atol=2e-4, rtol=0)
    for row, (x1, y1, x2, y2) in enumerate(boxes.double().tolist()):
        for y, x in ((0, 0), (GRID - 1, GRID - 1), *r.randint(GRID, size=(6, 2)).tolist()):
            place = (y1 + (y + 0.5) * (y2 - y1) / GRID) / 4 - 0.5, (x1 + (x + 0.5) * (x2 - x1) / GRID) / 4 - 0.5
            if all(min(abs(p + 1), abs(p - side)) > 1e-4 for p, side in zip(place, (height, width), strict=True)):
                assert float(found[row, 0, y, x]) == pytest.approx(bilinear(maps[0, 0].numpy(), *place), abs=2e-4)


def test_equal_attention_gives_the_mean_of_the_maps() -> None:
    maps = torch.randn(5, 20, 24)
    boxes = torch.tensor([[8.0, 10.0, 60.0, 70.0]])
    pooled = pool(maps[None], boxes, torch.zeros(1, dtype=torch.int64), 4)
    torch.testing.assert_close(blend(torch.full((1, WIDTH), 3.0), pooled), pooled.mean(1))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_mask_of_ones_fills_the_pixels_whose_centres_lie_in_the_box(seed: int) -> None:
    r = np.random.RandomState(seed)
    low, sides = r.uniform(-20, 60, 2), r.uniform(0, GRID, 2)
    box = np.concatenate((low, low + sides))
    masks = paste(torch.ones(1, GRID, GRID), box[None], (64, 48))
    y, x = np.mgrid[:64, :48] + 0.5
    expected = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    apart = masks.dense()[0].numpy() != expected
    # where both shares at a corner are below 0.71, the value is below one half
    assert not (apart & ~expected).any() and apart.sum() <= 4


def test_boxes_without_area_and_none_at_all() -> None:
    masks = paste(torch.ones(3, GRID, GRID), np.array([[5, 5, 5, 9], [7.0, 7, 3, 3], [900, 900, 990, 990]]), (20, 20))
    assert len(masks) == 3 and not masks.area.any()
    empty = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64),
                      extra={"grids": torch.zeros(0, GRID, GRID)})
    found = finish_blended(empty, named(torch.zeros(5, 8, 8)), ImageMeta("", size=(32, 32)))
    assert len(found) == len(found.extra["masks"]) == 0 and list(found.extra) == ["masks"]


def rows_of(seed: int, count: int = 40) -> Predictions:
    case = {"seed": seed, "batch": 1, "boxes": count, "height": 160, "width": 192, "classes": 3}
    return nms_inputs(case)[0]


def test_the_scores_of_what_nms_keeps_count_the_masks() -> None:
    rows, options = rows_of(3), NMSOptions(0.1, 0.5, 7)
    plain, found = select_kept(rows, NMSOptions(0.0, 0.5)), select_kept(rows, options)
    assert len(found) == 7 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.scores.tolist() == plain.scores[:7].tolist()  # the order of the mask scores decides who stays
    exact = select_all(rows, NMSOptions(0.0, 1.0))  # nothing is suppressed
    cheap = select_kept(rows, NMSOptions(0.0, 1.0))
    torch.testing.assert_close(cheap.scores, exact.scores)
    assert torch.equal(cheap.boxes, exact.boxes)
    nothing = [select(rows, NMSOptions(1.0)) for select in (select_all, select_kept, select_without)]
    assert all(len(each) == 0 and each.extra["grids"].shape == (0, GRID, GRID) for each in nothing)
    assert (select_all(rows, options).scores > 0.1).all() and (found.scores > 0.1).all()


def test_predicted_quality_takes_the_place_of_the_masks_own() -> None:
    rows = rows_of(4)
    quality = torch.linspace(0.1, 0.9, 40)[:, None]
    rated = Predictions(rows.boxes, rows.objectness, rows.classes, {**rows.extra, "mask_iou": quality}, rows.maps)
    found = select_all(rated, NMSOptions(0.0, 1.0))
    rows_there = (rated.boxes[:, None] == found.boxes).all(-1).int().argmax(0)
    expected = rated.objectness[rows_there] * rated.classes[rows_there].amax(1) * quality[rows_there, 0]
    torch.testing.assert_close(found.scores, expected)


def test_boxes_that_are_not_finite_are_no_candidates() -> None:
    rows = rows_of(5)
    rows.boxes[::2] = float("nan")
    rows.boxes[1] = float("inf")
    assert len(select_all(rows, NMSOptions(0.0, 1.0))) == len(select_kept(rows, NMSOptions(0.0, 1.0))) == 19


def test_attention_for_other_maps_is_refused() -> None:
    rows = rows_of(6)
    rows.maps["bases"] = rows.maps["bases"][:2]
    with pytest.raises(InputError, match="the attention has 980 numbers; accepted: a square for each of 3 maps"):
        select_kept(rows, NMSOptions(0.1))
