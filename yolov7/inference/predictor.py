"""Pictures in, `Detections` in native pixels out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from yolov7.data.images import letterbox
from yolov7.inference.postprocess import NMSOptions, non_maximum_suppression, to_native
from yolov7.model.reparam import deployed
from yolov7.model.weights import LoadedModel
from yolov7.structures import Detections, ImageMeta


class Predictor:
    """A deployed (re-parameterized) copy of a model with all that lies before and behind it.

    ``image_size`` is the long side of the network input (default: that of the weights), rounded up to the model's
    stride. ``milliseconds`` holds the time per stage of the last call.
    """

    def __init__(self, loaded: LoadedModel, device: torch.device, options: NMSOptions | None = None,
                 image_size: int | None = None) -> None:
        model = deployed(loaded.model)
        self.model = model.to(device).eval()
        self.names = loaded.names
        self.device = device
        self.options = options or NMSOptions()
        self.image_size = -(-(image_size or loaded.image_size) // model.stride) * model.stride
        self.milliseconds: dict[str, float] = {}

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect in RGB pictures ``uint8 [H, W, 3]``; pictures of one shape share a batch, each runs exactly once."""
        self.milliseconds = {}
        prepared = [self._prepare(image) for image in images]
        found: dict[int, Detections] = {}
        for shape in dict.fromkeys(tensor.shape for tensor, _ in prepared):
            members = [index for index, (tensor, _) in enumerate(prepared) if tensor.shape == shape]
            batch = torch.stack([prepared[index][0] for index in members])
            for index, detections in zip(members, self._detect(batch), strict=True):
                found[index] = replace(to_native(detections, prepared[index][1]), names=self.names)
        return [found[index] for index in range(len(images))]

    def _prepare(self, image: np.ndarray) -> tuple[Tensor, ImageMeta]:
        started = time.perf_counter()
        boxed, gain, pad = letterbox(image, (self.image_size, self.image_size), self.model.stride, auto=True)
        tensor = torch.from_numpy(np.ascontiguousarray(boxed.transpose(2, 0, 1)))
        self._add("input", started)
        return tensor, ImageMeta("", size=(image.shape[0], image.shape[1]), gain=gain, pad=pad)

    @torch.inference_mode()
    def _detect(self, images: Tensor) -> list[Detections]:
        started = time.perf_counter()
        decoded = self.model.decode(self.model(images.to(self.device).float() / 255))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the time of the network is reported
        self._add("network", started)
        started = time.perf_counter()
        detections = [d.to("cpu") for d in non_maximum_suppression(*decoded, self.options)]
        self._add("nms", started)
        return detections

    def _add(self, stage: str, started: float) -> None:
        spent = 1000 * (time.perf_counter() - started)
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + spent
