"""A network over a split: what the evaluators make of its detections, and the time that each stage takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from yolov7.data.image_set import ImageSet
from yolov7.evaluation.coco import CocoBoxes, CocoKeypoints, CocoMasks, CocoResult
from yolov7.evaluation.confusion import ConfusionMatrix
from yolov7.evaluation.error_analysis import ErrorAnalysis
from yolov7.evaluation.operating_point import OperatingPoint
from yolov7.evaluation.similarity import KeypointSimilarity, MaskSimilarity
from yolov7.evaluation.tables import MEAN, best_f1, class_frame, class_rows, mean_row, named_metrics
from yolov7.evaluation.v7_metric import V7Metric, V7Result
from yolov7.inference.network import Network, TorchNetwork
from yolov7.inference.nms import After, NMSOptions
from yolov7.model.detector import network_input
from yolov7.model.heads.base import Predictions
from yolov7.runtime.distributed import Processes
from yolov7.runtime.progress import Progress
from yolov7.structures import Batch, HeadOutput, ImageMeta, Instances

if TYPE_CHECKING:
    import pandas

PROTOCOL = NMSOptions(confidence=0.001, iou=0.65, max_detections=300, multi_label=True)  # the paper's
SAMPLES = 16  # images whose detections are kept for drawing
DRAWN_AT_LEAST = 10  # detections that are kept of those of which none reaches the threshold
Watch = Callable[[HeadOutput, Batch], None]


class Result(Protocol):
    """What an evaluator has measured on a split."""

    @property
    def fitness(self) -> float | None:
        """What makes an epoch the best, added up over the evaluators; None where it does not count."""

    def metrics(self) -> dict[str, float]:
        """Named numbers, for tables and curves."""

    def text(self, names: Sequence[str]) -> str:
        """For people; '' where there is nothing to read. ``names[i]`` is that of class ``i``."""

    def write(self, folder: Path, names: Sequence[str], image_set: ImageSet) -> None:
        """Write files of its own, such as plots, into a folder that exists."""


class Evaluator(Protocol):
    """Collects the detections of a split, image by image.

    Where several processes share the images each has its own evaluators; they are sent (they pickle) to the first
    process and merged there, and their results are sent (they pickle, too) to all.
    """

    @property
    def name(self) -> str:
        """What its result goes by."""

    def add(self, found: Instances, image_set: ImageSet, index: int) -> None:
        """The detections of image ``index`` of the set, in its native pixels."""

    def merge(self, other: Any) -> None:
        """Add what an evaluator of the same kind has collected."""

    def result(self, image_set: ImageSet) -> Result:
        """What comes of all that was collected."""


def box_evaluators(image_set: ImageSet, complete: bool = True) -> list[Evaluator]:
    """Those of bounding boxes: what each epoch is told by, or with ``complete`` all that ``test`` tells and writes."""
    if not complete:
        return [CocoBoxes(), OperatingPoint()]
    return [CocoBoxes(), V7Metric(), ConfusionMatrix(len(image_set.names)), ErrorAnalysis()]


def segment_evaluators(image_set: ImageSet, complete: bool = True) -> list[Evaluator]:
    """Those of boxes and masks. Both count in the choice of the best epoch (docs/reference.md, Fitness)."""
    if not complete:
        return [CocoBoxes(), OperatingPoint(), CocoMasks()]
    masks, classes = MaskSimilarity(), len(image_set.names)
    return [CocoBoxes(), V7Metric(each_threshold=True), ConfusionMatrix(classes), ErrorAnalysis(),
            CocoMasks(), V7Metric(masks, each_threshold=True), ConfusionMatrix(classes, similarity=masks),
            ErrorAnalysis(similarity=masks)]


def pose_evaluators(image_set: ImageSet, complete: bool = True) -> list[Evaluator]:
    """Those of boxes and key points; of boxes alone where the objects of the split have no key points.

    The best epoch is that of the best key points; boxes count, too, where there are classes without any labelled point
    (docs/reference.md, Fitness).
    """
    objects = image_set.objects
    labelled = (objects.keypoints[..., 2] > 0).any(1)
    if not labelled.any():
        return box_evaluators(image_set, complete)
    boxes = CocoBoxes(counts=not np.isin(objects.labels, objects.labels[labelled]).all())
    if not complete:
        return [boxes, OperatingPoint(), CocoKeypoints()]
    points, classes = KeypointSimilarity(), len(image_set.names)
    return [boxes, V7Metric(), ConfusionMatrix(classes), ErrorAnalysis(),
            CocoKeypoints(), V7Metric(points), ConfusionMatrix(classes, similarity=points),
            ErrorAnalysis(similarity=points)]


def score_text(name: str, ap: float, ap50: float) -> str:
    """The score of masks or key points by their name; that of boxes has none."""
    return f"{name} AP {ap:.3f}, AP50 {ap50:.3f}".lstrip()


@dataclass(frozen=True)
class Evaluation:
    """What came out, and what it took."""

    results: dict[str, Result]  # by the name of the evaluator
    # path and native detections of the first images; of one without any, the best below the threshold
    samples: tuple[tuple[str, Instances], ...]
    times: StageTimes  # of this process
    left_out: tuple[str, ...] = ()  # images of all processes that could not be read, with the reasons
    names: tuple[str, ...] = ()  # of the classes

    @property
    def boxes(self) -> CocoResult:
        """The official score of the bounding boxes."""
        return cast(CocoResult, self.results[CocoBoxes.name])

    @property
    def fitness(self) -> float:
        """That of all results together: the higher, the better the epoch."""
        return sum(result.fitness for result in self.results.values() if result.fitness is not None)

    @property
    def counts_more_than_boxes(self) -> bool:
        """Whether the fitness is not that of the official score alone."""
        return any(result.fitness is not None for name, result in self.results.items() if name != CocoBoxes.name)

    def metrics(self) -> dict[str, float]:
        """The numbers of all results; those of bounding boxes at the end of an epoch have no prefix."""
        return {key if name in (CocoBoxes.name, OperatingPoint.name) else f"{name}_{key}": value
                for name, result in self.results.items() for key, value in result.metrics().items()}

    def headline(self) -> str:
        """AP and AP50 of boxes, then of what the task finds, for titles."""
        return ", ".join(score_text("" if name == CocoBoxes.name else name, result.AP, result.AP50)
                         for name, result in self.results.items() if isinstance(result, CocoResult))

    def table(self) -> dict[str, Any]:
        """Numbers and times as plain values (docs/reference.md, Results of an evaluation).

        The official score stands at the top, others by their evaluator's name; ``metrics``, ``classes`` and ``best_F1``
        have the numbers by their names.
        """
        others = {name: result.metrics() for name, result in self.results.items() if name != CocoBoxes.name}
        official = self.boxes.table() if CocoBoxes.name in self.results else {}
        unread = {"left_out": len(self.left_out)} if self.left_out else {}
        boxes, v7 = self._measured()
        best = {"best_F1": best_f1(v7)} if v7 else {}
        v7s = [result for result in self.results.values() if isinstance(result, V7Result) and result is not v7]
        named = {"metrics": named_metrics(boxes, v7, [*self._tasks(), *v7s]), **best,
                 "classes": class_rows(boxes, v7, self.names, self._tasks())}
        return {**official, **unread, **{name: metrics for name, metrics in others.items() if metrics},
                "milliseconds": self.times.summary(), **named}

    def to_pandas(self) -> pandas.DataFrame:
        """A table by class, the mean over all first: images, objects, AP, AP50, AP75, AR100, and where they were
        measured precision, recall and F1 at the best threshold, segm_AP of masks and keypoints_AP of key points. NaN
        where there is nothing to measure on. Needs pandas.
        """
        boxes, v7 = self._measured()
        tasks = self._tasks()
        return class_frame({MEAN: mean_row(boxes, v7, tasks), **class_rows(boxes, v7, self.names, tasks)})

    def _tasks(self) -> list[CocoResult]:
        """The official scores of masks or key points."""
        return [result for name, result in self.results.items()
                if isinstance(result, CocoResult) and name != CocoBoxes.name]

    def _measured(self) -> tuple[CocoResult | None, V7Result | None]:
        return (cast("CocoResult | None", self.results.get(CocoBoxes.name)),
                cast("V7Result | None", self.results.get(V7Metric.name)))


@torch.inference_mode()
def evaluate(network: Network, loader: Iterable[Batch], image_set: ImageSet, options: NMSOptions = PROTOCOL,
             evaluators: Sequence[Evaluator] | None = None, processes: Processes = Processes(),  # noqa: B008  # frozen
             after: After = After(), watch: Watch | None = None) -> Evaluation:  # noqa: B008  # frozen
    """Run a network over the batches of a split, and give each image's detections to fresh ``evaluators``.

    Images that could not be read are left out: neither their objects nor detections in them count. The default is the
    official score of bounding boxes alone. With ``options.classes`` class ``i`` of the split is
    class ``options.classes[i]`` of the model. Where several processes have a part of the batches each, all of them get
    the results; the first one's have the predictions, too. ``watch`` sees the logits of each batch of a `TorchNetwork`.
    """
    own: list[Evaluator] = [CocoBoxes()] if evaluators is None else list(evaluators)
    samples: list[tuple[str, Instances]] = []
    left_out: list[str] = []
    index_of = {image_id: index for index, image_id in enumerate(image_set.image_ids)}
    clock = StageClock(network.device)
    for batch in _shown(loader, len(image_set), processes):
        left_out += batch.left_out
        if not (count := len(batch.images)):
            continue
        clock.stop("data", count)
        images = network_input(batch.images, network.device)
        clock.stop("input", count)
        predictions = _predict(network, images, options.confidence, batch, watch)
        clock.stop("network", count)
        facts = network.info.arguments
        kept = [replace(after.select(rows, options).to("cpu"), facts=facts) for rows in predictions]
        clock.stop("nms", count)
        for found, rows, meta in zip(kept, predictions, batch.metas, strict=True):
            native = _native(found, rows, meta, image_set, options, after)
            for evaluator in own:
                own_mapping = {"stretch": meta.stretch} if isinstance(evaluator, V7Metric) else {}
                evaluator.add(native, image_set, index_of[meta.image_id], **own_mapping)
            if len(samples) < SAMPLES:
                shown = native if len(native) else _native(_best(rows, options, facts, after), rows, meta, image_set,
                                                           options, after)
                samples.append((meta.path, shown))
        clock.stop("collect", count)
    unread = processes.broadcast_object(sum(processes.gather_object(left_out), []))
    return Evaluation(_gathered(own, image_set, processes), tuple(samples), clock.times(), tuple(unread),
                      image_set.names)


def _native(found: Instances, rows: Predictions, meta: ImageMeta, image_set: ImageSet, options: NMSOptions,
            after: After) -> Instances:
    """Instances in native pixels, with the labels and names of the split."""
    native = after.finish(found, rows.maps, meta)
    return replace(native, labels=_labels_of_split(native.labels, options.classes), names=image_set.names)


def _best(rows: Predictions, options: NMSOptions, facts: Mapping[str, Any], after: After) -> Instances:
    """The best detections of an image of which none is good enough, one for a box: to be drawn."""
    lenient = replace(options, confidence=0, multi_label=False, max_detections=DRAWN_AT_LEAST)
    return replace(after.select(rows, lenient).to("cpu"), facts=facts)


def _shown(loader: Iterable[Batch], images: int, processes: Processes) -> Iterator[Batch]:
    """The batches, with what this process has done of its share of the images."""
    share = -(-images // processes.world_size)
    with Progress[Batch](description="evaluate", total=share, unit="images", silent=not processes.is_main) as progress:
        for batch in loader:
            yield batch
            progress.update(len(batch.images) + len(batch.left_out))


def _predict(network: Network, images: Tensor, confidence: float, batch: Batch,
             watch: Watch | None) -> list[Predictions]:
    if watch is None:
        return network(images, confidence)
    assert isinstance(network, TorchNetwork), "only a PyTorch model shows its logits"
    return network(images, confidence, lambda output: watch(output, batch))


def _gathered(own: list[Evaluator], image_set: ImageSet, processes: Processes) -> dict[str, Result]:
    """The results over the images of all processes."""
    parts = processes.gather_object(own)
    for part in parts[1:]:
        for evaluator, other in zip(own, part, strict=True):
            evaluator.merge(other)
    results = {evaluator.name: evaluator.result(image_set) for evaluator in own} if parts else {}
    return processes.broadcast_object(results)


def _labels_of_split(labels: Tensor, classes: tuple[int, ...] | None) -> Tensor:
    if classes is None:
        return labels
    return (labels[:, None] == torch.tensor(classes)).int().argmax(1)  # every one is among them


# --- times -----------------------------------------------------------------------------------------------------

NETWORK = "network"
WHOLE = "end to end"
END_TO_END = ("data", "input", NETWORK, "nms")  # from the file to the boxes
PERCENTILES = (50, 90, 99)


class StageClock:
    """Times of stages, batch by batch; on CUDA the device notes them itself, and is waited for when they are read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._now()
        self._stops: list[tuple[str, int, float | torch.cuda.Event]] = []

    def stop(self, stage: str, images: int) -> None:
        """End a stage of a batch; the next one begins."""
        self._stops.append((stage, images, self._now()))

    def times(self) -> StageTimes:
        """Those of all stages so far."""
        times, since = StageTimes(), self._start
        if self._stops and not isinstance(last := self._stops[-1][2], float):
            last.synchronize()  # a time needs the work to be done
        for stage, images, now in self._stops:
            times.add(stage, _milliseconds(since, now) / images, images)
            since = now
        return times

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _milliseconds(since: float | torch.cuda.Event, now: float | torch.cuda.Event) -> float:
    if isinstance(since, float) and isinstance(now, float):
        return 1000 * (now - since)
    assert not isinstance(since, float) and not isinstance(now, float)
    return float(since.elapsed_time(now))  # type: ignore[no-untyped-call]


@dataclass
class StageTimes:
    """Milliseconds of every image in every stage."""

    _stages: dict[str, list[float]] = field(default_factory=dict)

    def add(self, stage: str, milliseconds: float, images: int) -> None:
        """A batch of ``images``, ``milliseconds`` each."""
        self._stages.setdefault(stage, []).extend([milliseconds] * images)

    def summary(self) -> dict[str, dict[str, float]]:
        """``mean``, ``p50``, ``p90`` and ``p99`` of every stage, and of all of them up to the boxes.

        Each image counts once, with its share of its batch's time.
        """
        rows = {stage: np.array(values) for stage, values in self._stages.items()}
        if all(stage in rows for stage in END_TO_END):
            rows[WHOLE] = np.sum([rows[stage] for stage in END_TO_END], axis=0)
        return {name: {"mean": float(row.mean()), **{f"p{p}": float(np.percentile(row, p)) for p in PERCENTILES}}
                for name, row in rows.items()}

    def text(self) -> str:
        """A table; the images a second are those of the mean."""
        keys = ("mean", *(f"p{p}" for p in PERCENTILES))
        lines = [f"{'ms an image':<14}{''.join(f'{key:>9}' for key in keys)}{'a second':>11}"]
        for name, row in self.summary().items():
            figures = "".join(f"{row[key]:9.2f}" for key in keys)
            pace = f"{1000 / row['mean']:11.1f}" if name in (NETWORK, WHOLE) and row["mean"] else ""
            lines.append(f"{name:<14}{figures}{pace}")
        return "\n".join(lines)
