"""An exported file as a `Network`, whatever runs it.

A file says itself what it is (`ExportFacts`, as JSON in its metadata), so that nothing else is needed to use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError, from_mapping
from yolov7.model.anchors import Predictions, decode_above
from yolov7.model.weights import ModelInfo
from yolov7.structures import HeadOutput

FORMAT, VERSION = "yolov7-exported", 1
KEY = "yolov7"  # of the metadata
INPUT = "RGB, the long side scaled to image_size, padded with grey 114 to multiples of stride"
FIXED_INPUT = "RGB, scaled to fit into {height} x {width}, padded with grey 114 to exactly that"
Run = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Thresholds:
    """What an end-to-end graph keeps: detection's rules, the best class of each box alone."""

    confidence: float = 0.25
    iou: float = 0.45
    most: int = 100  # in a picture


@dataclass(frozen=True)
class ExportFacts:
    """What the user of an exported file needs to know."""

    model: str
    names: tuple[str, ...]
    image_size: int
    stride: int
    head: Literal["decoded", "raw", "end2end"]
    anchors: tuple[tuple[tuple[float, ...], ...], ...]  # [L, A, 2] pixels
    strides: tuple[int, ...]  # of the levels
    batch: int | None = None  # None: any
    height: int | None = None
    width: int | None = None
    thresholds: Thresholds | None = None  # of an end-to-end graph
    preprocess: bool = False  # input uint8 [B, H, W, 3] instead of float32 [B, 3, H, W] in 0..1
    data: str = ""
    merged: tuple[str, ...] = ()
    input: str = INPUT
    package: str = ""  # version
    format: str = FORMAT
    version: int = VERSION

    @property
    def info(self) -> ModelInfo:
        """What holds for every form of the network."""
        return ModelInfo(self.names, self.image_size, self.data, self.merged)


def read_facts(text: str | None, path: Path) -> ExportFacts:
    """The facts of a file's metadata; `InputError` where there are none."""
    try:
        mapping = json.loads(text or "{}")
    except json.JSONDecodeError:
        mapping = {}
    if not isinstance(mapping, dict) or mapping.get("format") != FORMAT:
        raise InputError(f"{path}: holds no description of the network; accepted: files that export.py wrote")
    if mapping.get("version") != VERSION:
        raise InputError(f"{path}: format version {mapping.get('version')}; accepted: {VERSION}")
    return from_mapping(ExportFacts, mapping, f"{path}, metadata")


class ExportedNetwork:
    """A graph on the CPU behind ``run``: an input array -> its outputs in order."""

    device = torch.device("cpu")

    def __init__(self, facts: ExportFacts, run: Run) -> None:
        self.facts, self.run = facts, run
        self.info, self.stride = facts.info, facts.stride
        self.shape = (facts.height, facts.width) if facts.height and facts.width else None
        self._anchors = torch.tensor(facts.anchors)

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `yolov7.inference.network.Network`."""
        if self.shape and tuple(images.shape[-2:]) != self.shape:
            raise ValueError(f"input of {tuple(images.shape[-2:])}; the file takes {self.shape}")
        array = images.numpy()
        if self.facts.preprocess:
            array = np.rint(array.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        read = {"decoded": self._rows, "raw": self._levels, "end2end": self._detections}[self.facts.head]
        found: list[Predictions] = []
        for part in self._batches(array):
            found += read([torch.from_numpy(output) for output in self.run(part)], confidence)
        return found[: len(images)]

    def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Of the file's batch size, where it has one; the last is filled up."""
        size = self.facts.batch or len(images)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
            yield np.ascontiguousarray(filled)

    def _rows(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        boxes, scores = outputs  # [B, M, 4], [B, M, C], multiplied already
        return [rows_above(*picture, confidence) for picture in zip(boxes, scores, strict=True)]

    def _levels(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        return decode_above(HeadOutput(tuple(outputs)), self._anchors, self.facts.strides, confidence)

    def _detections(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        boxes, scores, labels, counts = outputs  # [B, K, 4], [B, K], [B, K], [B]
        found = []
        for index, count in enumerate(counts.flatten().tolist()):
            label = labels[index, :count].long()
            spread = torch.zeros(count, len(self.info.names)).scatter_(1, label[:, None], scores[index, :count, None])
            found.append(rows_above(boxes[index, :count], spread, confidence))
        return found


def rows_above(boxes: Tensor, scores: Tensor, confidence: float) -> Predictions:
    """Boxes ``[M, 4]`` and scores ``[M, C]`` that are multiplied already -> the rows with a score above."""
    row = (scores.amax(dim=-1) > confidence).nonzero().flatten()
    boxes, scores = boxes[row], scores[row]
    objectness = scores[:, 0] if scores.shape[-1] == 1 else torch.ones(len(scores))
    return Predictions(boxes, objectness, scores)
