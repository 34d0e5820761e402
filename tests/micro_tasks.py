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

from yolov7.data.images import cv2
from yolov7.inference.mask_assembly import finish_masks
from yolov7.inference.nms import to_native
from yolov7.inference.pose import finish_keypoints
from yolov7.keypoints import KeypointLayout
from yolov7.model import weights
from yolov7.model.detector import Detector
from yolov7.model.spec import parse_spec, read_spec
from yolov7.tasks import base
from yolov7.tasks.pose import POSE
from yolov7.tasks.segment import SEGMENT

NAMES = {"SegmentHead": ("cat", "dog", "person"), "PoseHead": ("robot", "crane"), "MaskHead": ("cat", "dog", "person")}
LAYOUT = KeypointLayout(("head", "left_arm", "right_arm", "foot"), ((0, 1), (0, 2), (0, 3)), (), (0.05, 0.1, 0.1, 0.2))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SegmentHead": {"masks": 8, "prototype_width": 16}, "PoseHead": LAYOUT.arguments(),
    "MaskHead": {"maps": ["bases", "semantic"]}, "MaskIoUHead": {"maps": ["bases", "semantic"]}}
MAPS = {"bases": {"block": "Projection", "from": "c2", "maps": 4},
        "semantic": {"block": "Projection", "from": "c2", "maps": 1}}


def definition_of(head: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The micro network with another head, and the nodes that this reads."""
    definition = dict(read_spec(str(Path(__file__).parent / "micro.yaml")).definition)
    nodes = {**definition["nodes"], **(MAPS if "maps" in arguments else {})}
    return {**definition, "name": f"micro-{head.lower()}", "nodes": nodes,
            "head": {**definition["head"], "block": head, **arguments}}


def write_weights(path: Path, head: str, bias: float = 0.0) -> Path:
    """Random weights with scores all over their range; ``bias`` raises the objectness."""
    spec = parse_spec(definition_of(head, ARGUMENTS[head]), "micro")
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
    """Detections with masks and key points in native pixels, also where the tasks do not name what makes them."""
    with pytest.MonkeyPatch.context() as patch:
        for task, finish in ((SEGMENT, finish_masks), (POSE, finish_keypoints)):
            if task.finish is to_native:
                patch.setitem(base.TASKS, task.head.__name__, replace(task, finish=finish))
        yield
