"""A model over a split: boxes, COCO numbers and times per stage (spec of evaluation, section 2)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from yolov7.data.image_set import ImageSet
from yolov7.evaluation.coco import CocoResult, score_detections, to_coco
from yolov7.inference.postprocess import NMSOptions, non_maximum_suppression, to_native
from yolov7.model.detector import Detector
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
    milliseconds: dict[str, float] = field(default_factory=dict)  # per picture and stage


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
def evaluate(model: Detector, loader: Iterable[Batch], image_set: ImageSet, device: torch.device,
             options: NMSOptions = PROTOCOL, processes: Sharing = _Alone()) -> Evaluation:  # noqa: B008  # has no state
    """Run ``model`` (in evaluation mode, on ``device``) over the batches of a split and score it with pycocotools.

    With ``options.classes`` class ``i`` of the split is class ``options.classes[i]`` of the model. Where several
    processes have a part of the batches each, all of them get the result, and the first one all predictions.
    """
    predictions: list[dict[str, Any]] = []
    samples: list[tuple[str, Detections]] = []
    clock = StageClock(device)
    evaluated: list[int | str] = []
    for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=None if processes.first else True):
        clock.start()
        images = network_input(batch.images, device)
        clock.stop("input")
        decoded = model.decode(model(images))
        clock.stop("network")
        found = [d.to("cpu") for d in non_maximum_suppression(*decoded, options)]
        for detections, meta in zip(found, batch.metas, strict=True):
            labels = _labels_of_split(detections.labels, options.classes)
            native = replace(to_native(detections, meta), labels=labels, names=image_set.names)
            predictions += to_coco(native, meta.image_id, image_set.category_ids)
            evaluated.append(meta.image_id)
            if len(samples) < PICTURES:
                samples.append((meta.path, native))
        clock.stop("nms")
    milliseconds = clock.per_picture(len(evaluated))
    parts = processes.gather((predictions, evaluated))
    result = None
    if parts:
        predictions, evaluated = (list(chain.from_iterable(part)) for part in zip(*parts, strict=True))
        result = score_detections(image_set.ground_truth(), predictions, evaluated)
    result = processes.tell(result)
    assert result is not None
    return Evaluation(result, predictions, tuple(samples), milliseconds)


def _labels_of_split(labels: Tensor, classes: tuple[int, ...] | None) -> Tensor:
    if classes is None:
        return labels
    return (labels[:, None] == torch.tensor(classes)).int().argmax(1)  # every one is among them


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """Pictures uint8 ``[B, 3, H, W]`` -> float32 0..1 on the device, in the memory order that convolutions prefer."""
    moved = images.to(device, non_blocking=True)  # as bytes: a quarter of the traffic
    return moved.to(torch.float32, memory_format=torch.channels_last) / 255


class StageClock:
    """Adds up the time of stages; on an accelerator it waits for the device at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def start(self) -> None:
        """Begin with the first stage."""
        self._since = self._now()

    def stop(self, stage: str) -> None:
        """End a stage; the next one begins."""
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def per_picture(self, count: int) -> dict[str, float]:
        """Milliseconds per picture and stage."""
        return {stage: 1000 * seconds / max(count, 1) for stage, seconds in self.seconds.items()}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a time needs the work to be done
        return time.perf_counter()
