"""Masks of 100 objects in an image of 1280 x 720 pixels: coefficients and prototypes in, masks in native pixels out.

The network input is 640 x 384 pixels, as the letterbox makes it; the sides of the boxes are drawn log-uniformly between
24 and 480 native pixels, the coefficients so that masks have parts and holes. Against the simple way: all logits of the
image, all enlarged to the network input at once, then resized by OpenCV one by one, of which the bounding windows are
kept. Both run in turn, with two threads; the masks must be equal, but where a value is within rounding of the
threshold. Run-length encoding is timed apart. Masks by blending (``blended``) are made of attention over five maps and
pasted, against torch's own sampling of the whole image for each.

Writes ``scripts/results/masks.json``. The last line is the ratio of the simple way to ours, both ``upsampled``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe_machine
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from yolov7.config import atomic_write
from yolov7.data.images import letterbox
from yolov7.inference.blended import finish_blended, select_without
from yolov7.inference.mask_assembly import MODES, mask_finish
from yolov7.inference.nms import NMSOptions
from yolov7.masks import CELL, GRID, Masks
from yolov7.model.heads.base import Predictions
from yolov7.structures import ImageMeta, Instances

RESULTS = Path(__file__).parent / "results" / "masks.json"
NATIVE, OBJECTS, CHANNELS = (720, 1280), 100, 32
SIDES = (24, 480)  # native pixels
ATTENTION = 14  # rows and columns
TOLERATED = 3  # pixels of a mask, where a value is within rounding of the threshold


def make_image(seed: int) -> tuple[Instances, dict[str, torch.Tensor], ImageMeta]:
    """What NMS leaves of an image."""
    r = np.random.RandomState(seed)
    boxed, gain, pad = letterbox(np.zeros((*NATIVE, 3), np.uint8), (640, 640), 64)
    height, width = (side // CELL for side in boxed.shape[:2])
    smooth = torch.from_numpy(r.standard_normal((1, CHANNELS, height // 6, width // 6)).astype(np.float32))
    prototypes = F.interpolate(smooth, (height, width), mode="bilinear")[0]
    coefficients = torch.from_numpy(r.standard_normal((OBJECTS, CHANNELS)).astype(np.float32))
    sides = np.exp(r.uniform(*np.log(SIDES), (OBJECTS, 2)))
    centres = r.uniform(0, 1, (OBJECTS, 2)) * NATIVE[::-1]
    native = np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)
    native = native.clip(0, (NATIVE[1], NATIVE[0]) * 2)
    boxes = torch.from_numpy((native * np.array(gain * 2) + np.array(pad * 2)).astype(np.float32))
    attention = torch.from_numpy(2 * r.standard_normal((OBJECTS, 5 * ATTENTION**2)).astype(np.float32))
    maps = F.interpolate(2 * smooth[:, :5], (height, width), mode="bilinear")[0]
    found = Instances(boxes, torch.linspace(1, 0.3, OBJECTS), torch.zeros(OBJECTS, dtype=torch.int64),
                      extra={"coefficients": coefficients, "attention": attention})
    meta = ImageMeta("", 0, NATIVE, gain, pad)
    return found, {"prototypes": prototypes, "bases": maps[:4], "semantic": maps[4:]}, meta


@torch.inference_mode()
def simple(found: Instances, maps: dict[str, torch.Tensor], meta: ImageMeta) -> list[np.ndarray]:
    """The published way, ``upsampled``, as it reads: uint8 ``[H, W]`` of each object."""
    prototypes = maps["prototypes"]
    channels, height, width = prototypes.shape
    values = (found.extra["coefficients"] @ prototypes.view(channels, -1)).sigmoid().view(-1, height, width)
    x1, y1, x2, y2 = (found.boxes / CELL)[:, :, None, None].unbind(1)
    x, y = torch.arange(width), torch.arange(height)[:, None]
    values = values * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))
    larger = F.interpolate(values[None], scale_factor=CELL, mode="bilinear", align_corners=False)[0] > 0.5
    left, top = (int(pad) for pad in meta.pad)
    right, bottom = int(CELL * width - meta.pad[0]), int(CELL * height - meta.pad[1])
    return [cv2.resize(mask[top:bottom, left:right], meta.size[::-1]) for mask in larger.numpy().astype(np.uint8)]


def blend_and_finish(found: Instances, maps: dict[str, torch.Tensor], meta: ImageMeta) -> Instances:
    """Blended masks of what NMS leaves, by NMS that leaves all of it."""
    rows = Predictions(found.boxes, found.scores, torch.eye(OBJECTS), {"attention": found.extra["attention"]}, maps)
    return finish_blended(select_without(rows, NMSOptions(0.0)), maps, meta)


@torch.inference_mode()
def simple_blended(found: Instances, maps: dict[str, torch.Tensor], meta: ImageMeta) -> list[np.ndarray]:
    """Blended masks one by one, sampled by torch and pasted into the whole image: bool ``[H, W]`` of each object."""
    joined = torch.cat((maps["bases"], maps["semantic"]))[None]
    height, width = joined.shape[2:]
    steps = (torch.arange(GRID) + 0.5) / GRID
    y, x = torch.meshgrid(torch.arange(meta.size[0]) + 0.5, torch.arange(meta.size[1]) + 0.5, indexing="ij")
    masks = []
    for box, attention in zip(found.boxes, found.extra["attention"], strict=True):
        across, down = (box[axis] + (box[axis + 2] - box[axis]) * steps for axis in (0, 1))
        places = torch.stack(torch.meshgrid(2 * across / (CELL * width) - 1, 2 * down / (CELL * height) - 1,
                                            indexing="xy"), dim=-1)[None]
        sampled = F.grid_sample(joined, places, padding_mode="border", align_corners=False)
        weights = F.interpolate(attention.view(1, 5, ATTENTION, ATTENTION), (GRID, GRID), mode="bilinear").softmax(1)
        mask = (weights * sampled).sum(1, keepdim=True).sigmoid()
        native = (box - torch.tensor(meta.pad * 2)) / torch.tensor(meta.gain * 2)
        grid = torch.stack((2 * (x - native[0]) / (native[2] - native[0]) - 1,
                            2 * (y - native[1]) / (native[3] - native[1]) - 1), dim=-1)[None]
        masks.append((F.grid_sample(mask, grid, align_corners=False)[0, 0] >= 0.5).numpy())
    return masks


def check(own: Masks, plain: list[np.ndarray]) -> None:
    """The same masks both ways."""
    for mask, expected in zip(own.dense().numpy(), plain, strict=True):
        # native pixels of so many of the input
        assert (mask != expected.astype(bool)).sum() <= TOLERATED * 8, (mask != expected.astype(bool)).sum()


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each: of the clock, and of the processor, which others on the machine disturb less."""
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            clock[name].append(1000 * (time.perf_counter() - started))
            processor[name].append(1000 * (time.process_time() - used))
    return {title: {name: round(statistics.median(times), 2) for name, times in spent.items()}
            for title, spent in (("milliseconds", clock), ("milliseconds of the processor", processor))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    image = make_image(0)
    finishes = {mode: mask_finish(mode) for mode in MODES} | {"blended": blend_and_finish}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks = {mode: finish(*image).extra["masks"] for mode, finish in finishes.items()}
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(masks["upsampled"], simple(*image))
    check(masks["blended"], simple_blended(*image))
    theirs = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ways: dict[str, Callable[[], Any]] = {"simple": lambda: simple(*image),
                                          "blended, simple": lambda: simple_blended(*image)}
    ways |= {mode: (lambda finish=finish: finish(*image)) for mode, finish in finishes.items()}
    dense = [np.asfortranarray(mask) for mask in simple(*image)]
    column = masks["upsampled"]
    ways["run lengths, simple"] = lambda: [coco_mask.encode(mask) for mask in dense]
    ways["run lengths"] = lambda: Masks(column.bits, column.windows, column.size).rles
    times = in_turn(ways, options.rounds)
    content = {"machine": describe_machine(), "objects": OBJECTS, "native": NATIVE, **times,
               "MB": {"bits": round(len(column.bits) / 1e6, 1), "more at the peak, all modes of ours":
                      round((ours - before) / 1e3, 1), "more at the peak, simple": round((theirs - ours) / 1e3, 1)}}
    atomic_write(RESULTS, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))
    print(f"ratio {times['milliseconds']['simple'] / times['milliseconds']['upsampled']:.2f}")


if __name__ == "__main__":
    main()
