"""Networks with the heads of segmentation and pose, from an image to the scores and back to Python programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_tasks
import numpy as np
import pytest
import torch
import yaml

from yolov7.data.catalog import open_data, open_split
from yolov7.data.image_set import ImageSet
from yolov7.data.loader import evaluation_loader
from yolov7.evaluation.evaluate import PROTOCOL, evaluate
from yolov7.inference.network import Augmented, TorchNetwork
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.masks import masks_of_rles
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.model.weights import ModelInfo
from yolov7.tasks.base import find_task

CPU = torch.device("cpu")


def network_of(head: str, classes: tuple[str, ...], folder: Path, **arguments: Any) -> TorchNetwork:
    """A small network of random weights that finds a lot."""
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(micro_tasks.definition_of(head, arguments), sort_keys=False))
    torch.manual_seed(0)
    model = Detector(read_spec(str(file)), len(classes)).eval()
    for conv in model.head.convs:
        conv.bias.data.view(3, -1)[:, 4 : 5 + len(classes)] += 5
    return TorchNetwork(model, CPU, info=ModelInfo(classes, 96, head=head, arguments=model.spec.head.arguments))


def some_images(coco_mini: Path, count: int = 4) -> ImageSet:
    whole = open_split(open_data(str(coco_mini)), "val")
    return replace(whole, paths=whole.paths[:count], image_ids=whole.image_ids[:count], sizes=whole.sizes[:count],
                   offsets=whole.offsets[: count + 1], objects=whole.objects[: whole.offsets[count]])


@pytest.mark.parametrize("head", ["SegmentHead", "MaskHead", "MaskIoUHead"])
def test_masks_from_the_network_to_the_scores(head: str, coco_mini: Path, tmp_path: Path) -> None:
    data = some_images(coco_mini)
    network = network_of(head, data.names, tmp_path, **micro_tasks.ARGUMENTS[head])
    task = find_task(head)
    training = task.training()
    confidence = 0.3 if head == "SegmentHead" else 0.1  # masks count in the others' scores
    options = replace(PROTOCOL, confidence=confidence, max_detections=20)
    loader = evaluation_loader(data, 96, 2, network.stride, 0)
    evaluation = evaluate(network, loader, data, options, training.evaluators(data, True),
                          after=task.after(usual=training.finish))
    found = evaluation.results["segm"].predictions  # type: ignore[attr-defined]
    assert 20 <= len(found) == len(evaluation.boxes.predictions)
    sizes = dict(zip(data.image_ids, data.sizes.tolist(), strict=True))
    for row in found:
        assert row["segmentation"]["size"] == sizes[row["image_id"]]
        masks_of_rles([row["segmentation"]], tuple(sizes[row["image_id"]]))
    assert set(evaluation.results) > {"segm", "v7_segm", "confusion_segm", "errors_segm"}
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    for each in (network, Augmented(network)):
        instances = Predictor(each, NMSOptions(confidence), 96, task.after())([image])[0]
        assert list(instances.extra) == ["masks"] and instances.extra["masks"].size == (90, 130)
        assert len(instances.extra["masks"]) == len(instances) > 3


def test_key_points_from_the_network_to_the_scores(coco_mini: Path, tmp_path: Path) -> None:
    annotations = coco_mini / "annotations" / "person_keypoints_val2017.json"
    (tmp_path / "data.yaml").write_text(
        f"val: {{images: {coco_mini}/images/val2017, annotations: {annotations}}}\ntrain: {coco_mini}/images/val2017\n"
        "names: [person]\n")
    data = open_split(open_data(str(tmp_path / "data.yaml")), "val")
    network = network_of("PoseHead", ("person",), tmp_path)
    task = find_task("PoseHead")
    training = task.training()
    loader = evaluation_loader(data, 96, 16, network.stride, 0)
    evaluation = evaluate(network, loader, data, replace(PROTOCOL, confidence=0.3, max_detections=5),
                          training.evaluators(data, True), after=task.after(usual=training.finish))
    found = evaluation.results["keypoints"].predictions  # type: ignore[attr-defined]
    assert len(found) > 50 and all(len(row["keypoints"]) == 51 for row in found)
    assert evaluation.boxes.fitness is None and evaluation.fitness == evaluation.results["keypoints"].fitness
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    for each in (network, Augmented(network)):
        instances = Predictor(each, NMSOptions(0.3), 96, task.after())([image])[0]
        points = instances.extra["keypoints"]
        assert points.shape == (len(instances), 17, 3) and len(points)
        assert points.amin() >= 0 and points[..., 0].amax() <= 130 and points[..., 1].amax() <= 90


@pytest.mark.parametrize("head", ["SegmentHead", "PoseHead", "MaskHead"])
def test_tasks_finish_as_their_files_say(head: str) -> None:
    assert find_task(head).finish.__name__ in ("finish_masks", "finish_keypoints", "finish_blended")  # type: ignore[attr-defined]
