"""Eight real images are learned by heart: data, loss, optimizer, inference and scoring agree with each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov7.config.recipe import LossConfig, OptimizerConfig
from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import evaluation_loader
from yolov7.engine.optim import make_optimizer
from yolov7.evaluation.evaluate import evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.loss.criterion import Criterion, total_loss
from yolov7.model.detector import Detector, network_input
from yolov7.model.scaling import Scale
from yolov7.model.spec import read_spec, scaled_spec

STEPS = 150


def first_images(image_set: ImageSet, count: int) -> ImageSet:
    """The first images with one to four large objects."""
    boxes = image_set.objects.boxes
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    chosen = [i for i in range(len(image_set)) if 1 <= len(image_set.objects_of(i)) <= 4
              and sides[image_set.offsets[i] : image_set.offsets[i + 1]].min() > 60][:count]
    offsets = image_set.offsets
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in chosen])
    return dataclasses.replace(
        image_set, paths=tuple(image_set.paths[i] for i in chosen), sizes=image_set.sizes[chosen],
        image_ids=tuple(image_set.image_ids[i] for i in chosen), objects=image_set.objects[rows],
        offsets=np.cumsum([0, *(offsets[i + 1] - offsets[i] for i in chosen)]),
    )


@pytest.mark.slow
def test_overfit_eight_images(coco_mini: Path) -> None:
    torch.manual_seed(0)
    image_set = first_images(open_split(open_data(str(coco_mini)), "train"), 8)
    assert len(image_set) == 8
    spec, _ = scaled_spec(read_spec("yolov7-tiny"), Scale(width=0.5, hidden_width=0.5))  # enough to learn eight images
    model = Detector(spec, len(image_set.names)).to(memory_format=torch.channels_last)
    loader = evaluation_loader(image_set, 160, 8, None, workers=0)
    batch = next(iter(loader))
    images = network_input(batch.images, torch.device("cpu"))
    optimizer = make_optimizer(model, OptimizerConfig(lr0=0.02), 8, 8)
    head = model.head
    criterion = Criterion(LossConfig(box=0.05, cls=0.5, obj=1.0), head.anchors, head.strides, model.num_classes)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * min(1, step / 20) * min(1, (STEPS - step) / 50)
        terms = criterion(model(images), batch.targets)
        (8 * total_loss(terms)).backward()
        optimizer.step()
        optimizer.zero_grad()
    result = evaluate(TorchNetwork(model, torch.device("cpu")), loader, image_set).boxes
    assert result.AP50 > 0.95
