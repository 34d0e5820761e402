"""A model over a split: boxes, COCO numbers and times per stage (spec of evaluation, section 2)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from yolov7.data.image_set import ImageSet
from yolov7.evaluation.coco import CocoResult, score_detections, to_coco
from yolov7.evaluation.confusion import ConfusionMatrix
from yolov7.evaluation.times import StageTimes
from yolov7.evaluation.v7_metric import V7Metric
from yolov7.evaluation.worst import WorstPictures
from yolov7.inference.network import Network, network_input
from yolov7.inference.postprocess import NMSOptions, suppress, to_native
from yolov7.structures import Batch, Detections

T = TypeVar("T")
PROTOCOL = NMSOptions(confidence=0.001, iou=0.65, max_detections=300, multi_label=True)  # the paper's
PICTURES = 16  # pictures whose detections are kept for drawing


@dataclass(frozen=True)
class Evaluation:
    """What came out, and what it took."""

    result: CocoResult
    predictions: list[dict[str, Any]]  # COCO results, ready to be written
    samples: tuple[tuple[str, Detections], ...]  # path and native detections of the first pictures
    times: StageTimes  # of this process
    extras: Extras | None = None  # where they were asked for: of all processes, in the first one


class Sharing(Protocol):
    """What an evaluation needs of the processes that share it (see `yolov7.engine.distributed.Processes`)."""

    @property
    def first(self) -> bool: ...

    def gather(self, value: T) -> list[T]: ...

    def tell(self, value: T) -> T: ...


class _Alone:
    first = True

    def gather(self, value: T) -> list[T]:
        return [value]

    def tell(self, value: T) -> T:
        return value


@torch.inference_mode()
def evaluate(network: Network, loader: Iterable[Batch], image_set: ImageSet, options: NMSOptions = PROTOCOL,
             processes: Sharing = _Alone(), extras: bool = False) -> Evaluation:  # noqa: B008  # has no state
    """Run a network over the batches of a split and score it with pycocotools.

    With ``options.classes`` class ``i`` of the split is class ``options.classes[i]`` of the model. Where several
    processes have a part of the batches each, all of them get the result, and the first one all predictions.
    ``extras`` adds the original's own metric with its curves, the confusion matrix and the worst pictures.
    """
    found = _Found(Extras.of(len(image_set.names)) if extras else None)
    samples: list[tuple[str, Detections]] = []
    index_of = {image_id: index for index, image_id in enumerate(image_set.image_ids)}
    clock = StageClock(network.device)
    for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None if processes.first else True):
        count = len(batch.images)
        clock.stop("data", count)
        images = network_input(batch.images, network.device)
        clock.stop("input", count)
        predictions = network(images, options.confidence)
        clock.stop("network", count)
        kept = [suppress(rows, options).to("cpu") for rows in predictions]
        clock.stop("nms", count)
        for detections, meta in zip(kept, batch.metas, strict=True):
            labels = _labels_of_split(detections.labels, options.classes)
            native = replace(to_native(detections, meta), labels=labels, names=image_set.names)
            found.add(native, image_set, index_of[meta.image_id])
            if len(samples) < PICTURES:
                samples.append((meta.path, native))
        clock.stop("collect", count)
    parts = processes.gather(found)
    for other in parts[1:]:
        found.merge(other)
    result = processes.tell(found.score(image_set) if parts else None)
    assert result is not None
    return Evaluation(result, found.predictions, tuple(samples), clock.times, found.extras)


@dataclass(frozen=True)
class Extras:
    """What else can be said of detections, beside the official score."""

    v7: V7Metric
    confusion: ConfusionMatrix
    worst: WorstPictures

    @classmethod
    def of(cls, num_classes: int) -> Extras:
        """Nothing collected yet."""
        return cls(V7Metric(), ConfusionMatrix(num_classes), WorstPictures())

    def add(self, detections: Detections, image_set: ImageSet, index: int) -> None:
        """The detections of a picture of the set, in its native pixels."""
        boxes, labels, _ = image_set.objects(index)
        found = (detections.boxes, detections.scores, detections.labels, boxes, labels)
        self.v7.add(*found)
        self.confusion.add(*found)
        self.worst.add(image_set.paths[index], *found)

    def merge(self, other: Extras) -> None:
        """Add what another process has collected."""
        self.v7.merge(other.v7)
        self.confusion.merge(other.confusion)
        self.worst.merge(other.worst)


@dataclass
class _Found:
    """What is collected of the pictures, by one process."""

    extras: Extras | None
    predictions: list[dict[str, Any]] = field(default_factory=list)
    evaluated: list[int | str] = field(default_factory=list)

    def add(self, detections: Detections, image_set: ImageSet, index: int) -> None:
        image_id = image_set.image_ids[index]
        self.predictions += to_coco(detections, image_id, image_set.category_ids)
        self.evaluated.append(image_id)
        if self.extras:
            self.extras.add(detections, image_set, index)

    def merge(self, other: _Found) -> None:
        self.predictions += other.predictions
        self.evaluated += other.evaluated
        if self.extras and other.extras:
            self.extras.merge(other.extras)

    def score(self, image_set: ImageSet) -> CocoResult:
        return score_detections(image_set.ground_truth(), self.predictions, self.evaluated)


def _labels_of_split(labels: Tensor, classes: tuple[int, ...] | None) -> Tensor:
    if classes is None:
        return labels
    return (labels[:, None] == torch.tensor(classes)).int().argmax(1)  # every one is among them


class StageClock:
    """Times of stages, batch by batch; on an accelerator it waits for the device at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self.times = StageTimes()
        self._device = device
        self._since = self._now()

    def stop(self, stage: str, pictures: int) -> None:
        """End a stage of a batch; the next one begins."""
        now = self._now()
        self.times.add(stage, 1000 * (now - self._since) / pictures, pictures)
        self._since = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a time needs the work to be done
        return time.perf_counter()
