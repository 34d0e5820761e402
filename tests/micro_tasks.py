"""Networks of masks and of key points that are made in no time and find something, for tests of what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.data.images import cv2
from yolov7.inference.nms import to_native
from yolov7.keypoints import KeypointLayout
from yolov7.masks import masks_from
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import parse_spec, read_spec
from yolov7.structures import ImageMeta, Instances
from yolov7.tasks import base
from yolov7.tasks.pose import POSE
from yolov7.tasks.segment import SEGMENT

NAMES = {"SegmentHead": ("cat", "dog", "person"), "PoseHead": ("robot", "crane")}
LAYOUT = KeypointLayout(("head", "left_arm", "right_arm", "foot"), ((0, 1), (0, 2), (0, 3)), (), (0.05, 0.1, 0.1, 0.2))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SegmentHead": {"masks": 8, "prototype_width": 16}, "PoseHead": LAYOUT.arguments()}


def write_weights(path: Path, head: str, bias: float = 0.0) -> Path:
    """Random weights with scores all over their range; ``bias`` raises the objectness."""
    definition = read_spec(str(Path(__file__).parent / "micro.yaml")).definition
    spec = parse_spec({**definition, "name": f"micro-{head.lower()}",
                       "head": {**definition["head"], "block": head, **ARGUMENTS[head]}}, "micro")
    torch.manual_seed(5)
    model = Detector(spec, len(NAMES[head]))
    for weight in model.parameters():
        if weight.ndim == 4 and weight.shape[0] > 1:  # not the implicit vectors
            torch.nn.init.kaiming_normal_(weight, nonlinearity="leaky_relu")
    for conv in model.head.convs:
        conv.bias.data.view(3, -1)[:, 4] += bias
    weights.save(weights.describe(model, NAMES[head], 96) | {"model": model.state_dict(), "epoch": 0}, path)
    return path


def write_images(folder: Path, count: int = 2) -> Path:
    """Noise of 160 x 120 pixels."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 255, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(noise, (160, 120)))
    return folder


@contextmanager
def finished_tasks() -> Iterator[None]:
    """Detections with masks and key points in native pixels, also where the tasks do not make them yet."""
    with pytest.MonkeyPatch.context() as patch:
        for task, finish in ((SEGMENT, finish_masks), (POSE, finish_points)):
            if task.finish is to_native:
                patch.setitem(base.TASKS, task.head.__name__, replace(task, finish=finish))
        yield


def finish_masks(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """Coefficients and prototypes -> masks, cropped to the boxes, enlarged, then cut to the image."""
    prototypes, (height, width) = maps["prototypes"].float().cpu(), meta.size
    count, (rows, columns) = len(found), prototypes.shape[1:]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    left, top, right, bottom = (found.boxes / 4)[..., None, None].unbind(1)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    low = (found.extra["coefficients"] @ prototypes.flatten(1)).sigmoid().view(count, rows, columns) * inside
    parts = []
    for part in low[:, None]:
        whole = (F.interpolate(part[None], scale_factor=4, mode="bilinear")[0, 0] > 0.5).numpy().astype(np.uint8)
        cut = whole[int(meta.pad[1]) : int(whole.shape[0] - meta.pad[1]),
                    int(meta.pad[0]) : int(whole.shape[1] - meta.pad[0])]
        parts.append(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR).astype(bool))
    masks = masks_from([(0, 0, width, height)] * count, parts, (height, width))
    return replace(to_native(found, maps, meta), extra={"masks": masks})


def finish_points(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """Key points in pixels of the image, clipped to it."""
    points = found.extra["keypoints"].clone()
    points[..., :2] = (points[..., :2] - torch.tensor(meta.pad)) / torch.tensor(meta.gain)
    points[..., :2] = points[..., :2].clamp(torch.zeros(2), torch.tensor([meta.size[1], meta.size[0]]).float())
    return replace(to_native(found, maps, meta), extra={"keypoints": points})
