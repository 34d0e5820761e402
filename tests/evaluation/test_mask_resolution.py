"""What masks of a limited resolution can reach: coefficients and prototypes that are the truth, at a cell of 4 px."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from yolov7.data.images import letterbox
from yolov7.evaluation.coco import CocoResult, score_detections
from yolov7.inference.mask_assembly import mask_finish
from yolov7.masks import CELL
from yolov7.structures import ImageMeta, Instances

SHARED = Path(__file__).parents[3] / "shared"

FILE = SHARED / "data" / "coco-mini" / "annotations" / "instances_val2017.json"
SURE = 20.0  # a logit
MODES = ("upsampled", "fine", "soft")
Json = dict[str, Any]


def prototype(annotation: Json, meta: ImageMeta, size: tuple[int, int]) -> np.ndarray:
    """The logits of a mask at a quarter of the network input, as it is trained: filled, then halved twice."""
    pixels = np.zeros(size, np.uint8)
    parts = [np.array(part).reshape(-1, 2) * meta.gain + meta.pad for part in annotation["segmentation"]]
    cv2.fillPoly(pixels, [part.astype(np.int32) for part in parts], 1)
    cells = cv2.resize(pixels, (size[1] // CELL, size[0] // CELL), interpolation=cv2.INTER_LINEAR)
    return np.where(cells, SURE, -SURE).astype(np.float32)


def rows_of(image: Json, annotations: list[Json], mode: str) -> list[Json]:
    """The results of an image whose boxes, classes and cells are all right."""
    native = image["height"], image["width"]
    boxed, gain, pad = letterbox(np.zeros((*native, 3), np.uint8), 640, 32)
    meta, size = ImageMeta("", image["id"], native, gain, pad), (boxed.shape[0], boxed.shape[1])
    boxes = np.array([a["bbox"] for a in annotations])
    boxes[:, 2:] += boxes[:, :2]
    prototypes = torch.from_numpy(np.stack([prototype(a, meta, size) for a in annotations]))
    found = Instances(torch.from_numpy((boxes * (gain * 2) + np.array(pad * 2)).astype(np.float32)),
                      torch.ones(len(boxes)), torch.zeros(len(boxes)), extra={"coefficients": torch.eye(len(boxes))})
    masks = mask_finish(mode)(found, {"prototypes": prototypes}, meta).extra["masks"]
    return [{"image_id": image["id"], "category_id": a["category_id"], "segmentation": rle, "score": 0.9}
            for a, rle in zip(annotations, masks.rles, strict=True)]


@pytest.mark.skipif(not FILE.is_file(), reason="needs ../shared/data/coco-mini")
def test_a_quarter_of_the_resolution_costs_so_much() -> None:
    """About 0.81 AP for fine masks; what is cropped at the cells is worse, what is not rounded on the way is better."""
    truth = json.loads(FILE.read_text())
    by_image = [(image, [a for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]])
                for image in truth["images"]]
    results: dict[str, CocoResult] = {}
    for mode in MODES:
        rows = [row for image, annotations in by_image if annotations for row in rows_of(image, annotations, mode)]
        results[mode] = score_detections(truth, rows, [image["id"] for image, _ in by_image], "segm")
    upsampled, fine, soft = (results[mode].stats[0] for mode in MODES)
    assert fine == pytest.approx(0.81, abs=0.02) and results["fine"].stats[1] > 0.97
    assert upsampled < fine - 0.05 and soft > fine + 0.01
