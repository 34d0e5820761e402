"""Masks against the golden ones, against OpenCV, and against a plain reading of their rules."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.config import InputError
from yolov7.inference.mask_assembly import (
    CELL,
    MODES,
    NativeMap,
    assemble,
    finish_masks,
    mask_finish,
    masks_to_native,
    soft_masks,
)
from yolov7.masks import masks_from
from yolov7.structures import ImageMeta, Instances

GOLDEN = Path(__file__).parents[1] / "golden" / "seg"
CASES = json.loads((GOLDEN / "post.json").read_text())["assembly"]
TOLERATED = 3  # pixels, where a value is within rounding of the threshold


def golden_inputs(name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, np.ndarray]]:
    """Coefficients, prototypes, boxes and results of a case."""
    case, golden = CASES[name], np.load(GOLDEN / f"assembly_{name}.npz")
    r = np.random.RandomState(case["seed"])
    height, width = case["height"], case["width"]
    small = r.standard_normal((1, case["masks"], height // 16, width // 16)).astype(np.float32)
    prototypes = F.interpolate(torch.from_numpy(small), (height // 4, width // 4), mode="bilinear")[0]
    coefficients = torch.from_numpy(r.standard_normal((case["objects"], case["masks"])).astype(np.float32))
    return coefficients, prototypes, torch.from_numpy(golden["boxes"]), dict(golden)


def differing(found: np.ndarray, expected: np.ndarray) -> int:
    return int((found != expected.astype(bool)).sum())


@pytest.mark.parametrize("mode", ["low", "upsampled", "fine"])
@pytest.mark.parametrize("name", CASES)
def test_golden_seg_post_assembly(name: str, mode: str) -> None:
    coefficients, prototypes, boxes, golden = golden_inputs(name)
    masks = assemble(coefficients, prototypes, boxes, mode).dense().numpy()
    if mode == "low":
        assert all(np.array_equal(masks[:, ::CELL, ::CELL], masks[:, y::CELL, x::CELL]) for x in (1, 3) for y in (0, 3))
        masks = masks[:, ::CELL, ::CELL]
    assert differing(masks, golden[mode]) <= TOLERATED


@pytest.mark.parametrize("kind", ["native", "native_padded"])
@pytest.mark.parametrize("name", CASES)
def test_golden_seg_post_native(name: str, kind: str) -> None:
    case = CASES[name]
    height, width = case["height"], case["width"]
    if kind == "native":
        size = tuple(case["native"])
        gain = min(height / size[0], width / size[1])
        pad = (width - size[1] * gain) / 2, (height - size[0] * gain) / 2
    else:
        size, gain, pad = (case[kind][key] for key in ("size", "gain", "pad"))
    coefficients, prototypes, boxes, golden = golden_inputs(name)
    masks = masks_to_native(assemble(coefficients, prototypes, boxes, "fine"),
                            ImageMeta("", 0, tuple(size), (gain, gain), tuple(pad)))
    assert masks.size == tuple(size)
    assert differing(masks.dense().numpy(), golden[kind]) <= TOLERATED


@pytest.mark.parametrize("name", CASES)
def test_golden_seg_post_iou(name: str) -> None:
    golden = golden_inputs(name)[-1]
    height, width = CASES[name]["height"], CASES[name]["width"]
    other, fine = (masks_from([(0, 0, width, height)] * len(golden[key]), list(golden[key].astype(bool)),
                              (height, width)) for key in ("other", "fine"))
    np.testing.assert_allclose(other.iou(fine), golden["iou"], atol=1e-6)


def plain_masks(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, mode: str) -> Tensor:
    """The rules read aloud, over whole images."""
    count, (_, height, width) = len(coefficients), prototypes.shape
    values = (coefficients @ prototypes.flatten(1)).sigmoid().view(count, height, width)

    def crop(images: Tensor, scaled: Tensor) -> Tensor:
        x1, y1, x2, y2 = scaled[:, :, None, None].unbind(1)
        x, y = torch.arange(images.shape[-1]), torch.arange(images.shape[-2])[:, None]
        return images * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))

    def enlarge(images: Tensor) -> Tensor:
        return F.interpolate(images[:, None], scale_factor=4, mode="bilinear", align_corners=False)[:, 0]

    if mode == "low":
        return (crop(values, boxes / 4) > 0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return (enlarge(crop(values, boxes / 4)) if mode == "upsampled" else crop(enlarge(values), boxes)) > 0.5


def random_inputs(seed: int, objects: int = 25, cells: tuple[int, int] = (16, 24)) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of all sizes, beyond the image, on the grid, thin, empty and turned inside out."""
    torch.manual_seed(seed)
    height, width = cells
    limit = torch.tensor([width, height] * 2) * 4.0
    boxes = (torch.rand(objects, 4) * 1.4 - 0.2) * limit
    boxes = torch.cat((torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])), dim=1)
    boxes[0] = torch.tensor([0.0, 0, width * 4, height * 4])
    boxes[1] = torch.tensor([8.0, 8, 8, 20])
    boxes[2] = torch.tensor([30.0, 30, 20, 20])
    boxes[3] = torch.tensor([8.0, 4, 9, 5])
    boxes[4] = torch.tensor([-50.0, 3, -2, 9])
    boxes[5:9] = (boxes[5:9] / 4).round() * 4
    return 3 * torch.randn(objects, 6), torch.randn(6, height, width), boxes


@pytest.mark.parametrize("mode", ["low", "upsampled", "fine"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_equal_whole_images(seed: int, mode: str) -> None:
    inputs = random_inputs(seed)
    expected = plain_masks(*inputs, mode)
    assert differing(assemble(*inputs, mode).dense().numpy(), expected.numpy()) <= TOLERATED
    assert not expected[1].any() and not expected[2].any() and not expected[4].any()


@pytest.mark.parametrize("seed", range(40))
def test_the_native_map_equals_opencv(seed: int) -> None:
    r = np.random.RandomState(seed)
    (height, width), native = r.randint(8, 130, 2).tolist(), r.randint(1, 260, 2).tolist()
    if seed % 4 == 0:
        native = [height * 2, width * 2]
    elif seed % 4 == 1:
        native = [height // 2, width // 2]
    change = NativeMap((height, width), (native[0], native[1]))
    for window in [(0, 0, width, height), (0, 2, width // 2, height - 1), (3, 3, 4, 4), (5, 0, 5, height)]:
        left, top, right, bottom = window
        pixels = r.random_sample((bottom - top, right - left)) < 0.6
        whole = np.zeros((height, width), np.uint8)
        whole[top:bottom, left:right] = pixels
        expected = cv2.resize(whole, (native[1], native[0]), interpolation=cv2.INTER_LINEAR)
        (x1, y1, x2, y2), part = change(window, pixels)
        found = np.zeros(native, bool)
        found[y1:y2, x1:x2] = part
        assert np.array_equal(found, expected.astype(bool))


def plain_soft(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, meta: ImageMeta) -> Tensor:
    """Logits by PyTorch's own sampling at the centres of the native pixels."""
    (height, width), (_, rows, columns) = meta.size, prototypes.shape
    x = (torch.arange(width) + 0.5).double() * meta.gain[0] + meta.pad[0]
    y = (torch.arange(height) + 0.5).double() * meta.gain[1] + meta.pad[1]
    grid = torch.stack(torch.meshgrid(2 * x / (4 * columns) - 1, 2 * y / (4 * rows) - 1, indexing="xy"), dim=-1)
    logits = torch.einsum("nk,khw->nhw", coefficients, prototypes).double()
    sampled = F.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=False)[0]
    native = (boxes.double() - torch.tensor(meta.pad * 2)) / torch.tensor(meta.gain * 2).double()
    x1, y1, x2, y2 = native[:, :, None, None].unbind(1)
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    return (sampled > 0) & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


METAS = [ImageMeta("", 0, (50, 83), (1.1, 1.05), (2.5, 4.25)), ImageMeta("", 0, (300, 400), (0.24, 0.2), (0.0, 2.0)),
         ImageMeta("", 0, (64, 96))]


@pytest.mark.parametrize("meta", METAS, ids=["shrunk", "enlarged", "equal"])
@pytest.mark.parametrize("seed", range(3))
def test_soft_masks_are_logits_at_native_pixels(seed: int, meta: ImageMeta) -> None:
    inputs = random_inputs(seed)
    found, expected = soft_masks(*inputs, meta), plain_soft(*inputs, meta)
    assert found.size == meta.size
    assert differing(found.dense().numpy(), expected.numpy()) <= 1e-5 * expected.numel()


def instances(seed: int, **columns: Any) -> tuple[Instances, dict[str, Tensor]]:
    coefficients, prototypes, boxes = random_inputs(seed)
    return Instances(boxes, torch.rand(len(boxes)), torch.zeros(len(boxes), dtype=torch.long),
                     extra={"coefficients": coefficients, **columns}, facts={"masks": 6}), {"prototypes": prototypes}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("meta", METAS, ids=["shrunk", "enlarged", "equal"])
def test_finish_replaces_the_coefficients(meta: ImageMeta, mode: str) -> None:
    found, maps = instances(2, weight=torch.arange(25))
    finish = pickle.loads(pickle.dumps(mask_finish(mode)))
    native = finish(found, maps, meta)
    assert list(native.extra) == ["weight", "masks"] and native.facts == {"masks": 6}
    masks = native.extra["masks"]
    assert len(masks) == 25 and masks.size == meta.size and masks.bits.dtype == torch.bool
    assert native.boxes.amin() >= 0 and native.boxes[:, 2].amax() <= meta.size[1]
    x1, y1, x2, y2 = masks.windows.unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= meta.size[1]).all() and (y2 <= meta.size[0]).all()
    assert (x1 <= x2).all() and (y1 <= y2).all() and int(masks.counts.sum()) == len(masks.bits)
    few = finish(found[3:7], maps, meta).extra["masks"]
    assert torch.equal(few.dense(), masks.dense()[3:7])
    nothing = finish(found[:0], maps, meta)
    assert len(nothing.extra["masks"]) == 0 and nothing.extra["masks"].size == meta.size
    half = finish(found, {"prototypes": maps["prototypes"].half()}, meta).extra["masks"]
    assert differing(half.dense().numpy(), masks.dense().numpy()) < 0.01 * masks.dense().numel()
    if mode == "upsampled":
        assert torch.equal(finish_masks(found, maps, meta).extra["masks"].dense(), masks.dense())


def test_native_masks_equal_whole_images_by_opencv() -> None:
    """Cut, resized and thresholded as a whole; the padding holds parts of masks that go."""
    coefficients, prototypes, boxes = random_inputs(4)
    meta = ImageMeta("", 0, (90, 200), (0.45, 0.45), (3.5, 11.5))
    inside = assemble(coefficients, prototypes, boxes, "fine")
    found = masks_to_native(inside, meta).dense().numpy()
    for mask, own in zip(inside.dense().numpy().astype(np.uint8), found, strict=True):
        assert np.array_equal(cv2.resize(mask[11:52, 3:92], (200, 90)).astype(bool), own)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(InputError, match=r"'sot'.*soft"):
        mask_finish("sot")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_masks() -> None:
    found, maps = instances(1)
    on_gpu = {name: value.cuda() for name, value in maps.items()}
    for mode in MODES:
        ours, theirs = (mask_finish(mode)(found, each, METAS[0]).extra["masks"] for each in (maps, on_gpu))
        assert torch.equal(ours.bits, theirs.bits) and torch.equal(ours.windows, theirs.windows)
