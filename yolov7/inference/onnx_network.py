"""An exported ONNX file as a `Network`, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError
from yolov7.model.anchors import Predictions
from yolov7.model.weights import ModelInfo

FORMAT, VERSION = "yolov7-onnx", 1
KEY = "yolov7"  # of the metadata, JSON
OUTPUTS = ("boxes", "scores")


class OnnxNetwork:
    """Runs on the CPU. Raises `InputError` for a file that is no network of ours."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs the package 'onnxruntime': pip install 'yolov7-framework[export]'"
                             ) from None
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many kinds, none of which has a common base
            raise InputError(f"{path}: ONNX Runtime cannot read it: {str(error).strip().splitlines()[-1]}") from None
        facts = self._facts(path)
        self.info = ModelInfo(tuple(facts["names"]), facts["image_size"], facts["data"], tuple(facts["merged"]))
        self.stride: int = facts["stride"]
        self.device = torch.device("cpu")
        batch, _, height, width = self._session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self.shape = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def _facts(self, path: Path) -> dict[str, Any]:
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        facts = json.loads(text) if text else {}
        if facts.get("format") != FORMAT:
            raise InputError(f"{path}: holds no description of the network; accepted: ONNX files that export.py wrote")
        if facts["version"] != VERSION:
            raise InputError(f"{path}: format version {facts['version']}; accepted: {VERSION}")
        return facts

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`. The graph has multiplied the scores already."""
        if self.shape and tuple(images.shape[-2:]) != self.shape:
            raise ValueError(f"input of {tuple(images.shape[-2:])}; the file takes {self.shape}")
        found = []
        for part in self._batches(images.numpy()):
            boxes, scores = (torch.from_numpy(array) for array in self._session.run(OUTPUTS, {"images": part}))
            found += [_rows_above(*picture, confidence) for picture in zip(boxes, scores, strict=True)]
        return found[: len(images)]

    def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Of the file's batch size, where it has one; the last is filled up."""
        size = self._batch or len(images)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            yield np.ascontiguousarray(np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
                                       if missing else part)


def _rows_above(boxes: Tensor, scores: Tensor, confidence: float) -> Predictions:
    row = (scores.amax(dim=-1) > confidence).nonzero().flatten()
    boxes, scores = boxes[row], scores[row]
    objectness = scores[:, 0] if scores.shape[-1] == 1 else torch.ones(len(scores))
    return Predictions(boxes, objectness, scores)
