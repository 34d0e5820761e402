"""A network over a split: what reaches the evaluators, what comes out of them, and times that count each image once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from image_records import NO_POLYGON, ImageRecord, ObjectRecord, build_image_set
from torch import Tensor

from yolov7.data.image_set import ImageSet
from yolov7.data.images import cv2
from yolov7.data.loader import evaluation_loader
from yolov7.evaluation.coco import CocoBoxes
from yolov7.evaluation.evaluate import WHOLE, Evaluator, StageClock, StageTimes, box_evaluators, evaluate
from yolov7.evaluation.v7_metric import V7Metric
from yolov7.inference.nms import After, NMSOptions, to_native
from yolov7.model.heads.base import Predictions
from yolov7.model.weights import ModelInfo
from yolov7.runtime.distributed import Processes
from yolov7.structures import Batch, ImageMeta, Instances, Targets

NAMES = ("cat", "dog", "owl")
BOXES = ((10.0, 10.0, 50.0, 40.0), (5.0, 20.0, 60.0, 60.0), (30.0, 30.0, 90.0, 90.0))  # one in each image


class Finder:
    """Finds the object of each image, and its weight as the column of a task, scaled by a map of the image."""

    info, device, stride, shape = ModelInfo(NAMES), torch.device("cpu"), 32, None
    task_outputs = ("weight", "scale")

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        found = []
        for image in images:
            index = int((image[0, 0, 0] * 255).round())
            box, label = torch.tensor([BOXES[index]]), torch.eye(len(NAMES))[index : index + 1]
            found.append(Predictions(2 * box, torch.tensor([0.9]), label, {"weight": torch.tensor([[float(index)]])},
                                     {"scale": torch.tensor(10.0)}))
        return found


@dataclass
class Weights:
    """An evaluator, and its result: the weights by the path of their image."""

    found: dict[str, float] = field(default_factory=dict)
    name = "weights"

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        self.found[image_set.paths[index]] = float(found.extra["weight"].sum())

    def merge(self, other: Any) -> None:
        self.found |= other.found

    def result(self, image_set: ImageSet) -> Weights:
        return self

    @property
    def fitness(self) -> float:
        return sum(self.found.values())

    def metrics(self) -> dict[str, float]:
        return {"sum": self.fitness}

    def text(self, names: Sequence[str]) -> str:
        return f"weights: {self.fitness}"

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet) -> None:
        (folder / "weights.txt").write_text(self.text(names))


def split() -> ImageSet:
    records = [ImageRecord(f"{index}.png", index + 7, (100, 100), [ObjectRecord(box, index, NO_POLYGON)])
               for index, box in enumerate(BOXES)]
    return build_image_set(records, NAMES, (1, 2, 3), (), annotation_file=None, split="val")


def batch(*indices: int) -> Batch:
    """Images of twice the native size that say their index."""
    images = torch.zeros(len(indices), 3, 32, 32, dtype=torch.uint8)
    for row, index in enumerate(indices):
        images[row, :, 0, 0] = index
    nothing = Targets(torch.zeros(len(indices), 8, 4), torch.zeros(len(indices), 8).long(),
                      torch.zeros(len(indices), 8).bool())
    metas = tuple(ImageMeta(f"{index}.png", index + 7, (100, 100), (2.0, 2.0)) for index in indices)
    return Batch(images, nothing, metas)


def finish(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    return replace(to_native(found, maps, meta), extra={"weight": found.extra["weight"] * maps["scale"]})


def test_the_default_is_the_score_of_the_boxes() -> None:
    evaluation = evaluate(Finder(), [batch(0, 2), batch(1)], split())
    assert list(evaluation.results) == ["bbox"] and evaluation.boxes.stats[0] == pytest.approx(1)
    assert [path for path, _ in evaluation.samples] == ["0.png", "2.png", "1.png"]
    assert evaluation.samples[1][1].boxes.tolist() == [list(BOXES[2])]
    assert evaluation.fitness == evaluation.boxes.fitness == pytest.approx(1)
    assert [found["image_id"] for found in evaluation.boxes.predictions] == [7, 9, 8]
    assert set(evaluation.times.summary()) == {"data", "input", "network", "nms", "collect", WHOLE}


def test_a_tasks_evaluator_beside_those_of_boxes(tmp_path: Path) -> None:
    data = split()
    evaluators: list[Evaluator] = [*box_evaluators(data), Weights()]
    evaluation = evaluate(Finder(), [batch(0, 1), batch(2)], data, evaluators=evaluators, after=After(finish=finish))
    assert list(evaluation.results) == ["bbox", "v7", "confusion", "errors", "weights"]
    boxes, weights = evaluation.boxes, evaluation.results["weights"]
    assert isinstance(weights, Weights) and weights.found == {"0.png": 0.0, "1.png": 10.0, "2.png": 20.0}
    assert evaluation.fitness == boxes.fitness + 30
    metrics = evaluation.metrics()
    assert list(metrics) == ["AP", "AP50", "AP75", "v7_precision", "v7_recall", "v7_AP50", "v7_AP", "weights_sum"]
    assert metrics["AP"] == boxes.AP and metrics["weights_sum"] == 30
    table = json.loads(json.dumps(evaluation.table()))
    assert list(table) == ["stats", "per_class", "images", "v7", "weights", "milliseconds", "metrics", "best_F1",
                           "classes"]
    assert tuple(table["stats"]) == boxes.stats and table["weights"] == {"sum": 30}
    for result in evaluation.results.values():
        result.write(tmp_path, data.names, data)
    assert {path.name for path in tmp_path.iterdir()} == {  # nothing is wrong: no sheet of errors
        "predictions.json", "precision_recall.png", "confidence.png", "confusion_matrix.png", "weights.txt"}


@dataclass(frozen=True)
class Gathering(Processes):
    """The first of two processes, of which the other has evaluated before."""

    world_size: int = 2
    other: Any = None

    def gather_object(self, value: Any) -> list[Any]:
        return [value, self.other]

    def broadcast_object(self, value: Any) -> Any:
        return value


def test_processes_share_the_images() -> None:
    data, others = split(), [CocoBoxes(), Weights()]
    evaluate(Finder(), [batch(1)], data, evaluators=others, after=After(finish=finish))
    own: list[Evaluator] = [CocoBoxes(), Weights()]
    evaluation = evaluate(Finder(), [batch(0, 2)], data, evaluators=own, processes=Gathering(other=others),
                          after=After(finish=finish))
    alone = evaluate(Finder(), [batch(0, 2), batch(1)], data, evaluators=[CocoBoxes(), Weights()],
                     after=After(finish=finish))
    assert evaluation.boxes == alone.boxes and evaluation.results["weights"] == alone.results["weights"]
    assert evaluation.boxes.predictions == alone.boxes.predictions and len(evaluation.samples) == 2


def test_classes_of_the_split_among_those_of_the_network() -> None:
    """Class 0 of the split is the network's last one."""
    evaluation = evaluate(Finder(), [batch(0, 1, 2)], replace(split(), names=("owl", "cat", "other")),
                          NMSOptions(0.001, multi_label=True, classes=(2, 0)))
    labels = [found.labels.tolist() for _, found in evaluation.samples]
    assert labels == [[1], [], [0]] and evaluation.samples[0][1].names == ("owl", "cat", "other")


def test_of_images_without_a_detection_the_best_below_the_threshold_are_kept_for_drawing() -> None:
    evaluation = evaluate(Finder(), [batch(0, 1)], split(), NMSOptions(0.95, multi_label=True))
    assert not evaluation.boxes.predictions
    assert [(found.scores.tolist(), found.labels.tolist()) for _, found in evaluation.samples] == [
        ([pytest.approx(0.9)], [index]) for index in range(2)]
    assert evaluation.samples[1][1].boxes.tolist() == [list(BOXES[1])]


# --- times -----------------------------------------------------------------------------------------------------


def test_images_count_once_and_stages_add_up() -> None:
    times = StageTimes()
    for network, count in ((10.0, 8), (10.0, 8), (100.0, 1)):  # the last batch is small
        for stage, spent in (("data", 1.0), ("input", 0.5), ("network", network), ("nms", 2.0), ("collect", 7.0)):
            times.add(stage, spent, count)
    found = times.summary()
    assert found["network"]["mean"] == pytest.approx((16 * 10 + 100) / 17)
    assert (found["network"]["p50"], found["network"]["p90"]) == (10.0, 10.0)
    assert found["network"]["p99"] == pytest.approx(85.6)
    assert found[WHOLE]["mean"] == pytest.approx(found["network"]["mean"] + 3.5)  # without what is collected
    text = times.text().splitlines()
    assert text[0].split() == ["ms", "an", "image", "mean", "p50", "p90", "p99", "a", "second"]
    assert text[-1].startswith("end to end") and text[-1].endswith(f"{1000 / found[WHOLE]['mean']:.1f}")
    assert text[0].index("mean") + 4 == text[1].index(".") + 3  # figures stand below their names


def test_nothing_timed_is_no_fault() -> None:
    assert StageTimes().summary() == {} and StageTimes().text().count("\n") == 0


class DeviceEvent:
    """An event of a device whose clock is a list."""

    waited: ClassVar[list[float]] = []
    clock: ClassVar[Iterator[float]] = iter(())

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        self.at = next(self.clock)

    def synchronize(self) -> None:
        self.waited.append(self.at)

    def elapsed_time(self, end: DeviceEvent) -> float:
        return end.at - self.at


def test_a_gpu_is_waited_for_once_when_times_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", DeviceEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(DeviceEvent, "clock", iter([0.0, 4.0, 10.0]))
    clock = StageClock(torch.device("cuda:0"))
    clock.stop("data", 2)
    clock.stop("network", 2)
    assert DeviceEvent.waited == []
    assert {name: row["mean"] for name, row in clock.times().summary().items()} == {"data": 2.0, "network": 3.0}
    assert DeviceEvent.waited == [10.0]


class Oracle:
    """Finds exactly the objects that the loader placed in its images."""

    info, device, stride, shape, task_outputs = ModelInfo(NAMES), torch.device("cpu"), 32, None, ()

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.targets = iter(batch.targets for batch in batches)

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        targets = next(self.targets)
        return [Predictions(boxes[valid], torch.full((int(valid.sum()),), 0.9), torch.eye(len(NAMES))[labels[valid]])
                for boxes, labels, valid in zip(targets.boxes, targets.labels, targets.valid, strict=True)]


def test_the_v7_metric_maps_objects_as_detections(tmp_path: Path) -> None:
    """500 x 333 px become 64 x 42: x is divided by 42 / 333, too, and everything moves right by 1.5%."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((333, 500, 3), np.uint8))
    objects = [ObjectRecord((460.0, 100.0, 480.0, 200.0), 0, NO_POLYGON),
               ObjectRecord((490.0, 20.0, 500.0, 60.0), 1, NO_POLYGON)]  # its right side is cut off
    one = build_image_set([ImageRecord(str(tmp_path / "a.png"), 7, (333, 500), objects)], NAMES, (1, 2, 3), (),
                          annotation_file=None, split="val")
    loader = evaluation_loader(one, 64, 1, 32, 0)
    batches = list(loader)
    stretch = (64 / 500) / (42 / 333)
    assert batches[0].metas[0].stretch == pytest.approx(stretch)
    evaluators = [CocoBoxes(), V7Metric()]
    done = evaluate(Oracle(batches), batches, one, evaluators=evaluators)
    assert done.results["v7"].metrics()["AP"] == 1  # all right at all thresholds
    by_hand = [[460 * stretch, 100, 480 * stretch, 200], [490 * stretch, 20, 500, 60]]
    torch.testing.assert_close(done.samples[0][1].boxes, torch.tensor(by_hand), rtol=0, atol=1e-3)
    assert (480 - 460 * stretch) / (480 * stretch - 460) < 0.5  # IoU with what is there: a miss for the official score
    assert done.boxes.per_class[0].AP50 == 0
