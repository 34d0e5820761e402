"""Images in, `Instances` in native pixels out: letterbox, network, NMS, and what a task does with the result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from yolov7.data.device_letterbox import letterbox_on_device
from yolov7.data.images import letterbox
from yolov7.inference.network import Network, TorchNetwork, check_size
from yolov7.inference.nms import After, NMSOptions
from yolov7.model.detector import network_input
from yolov7.structures import ImageMeta, Instances


class ImagePredictor(Protocol):
    """RGB images uint8 ``[H, W, 3]`` in, instances in their pixels out."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """The detections in each image."""

    def timed(self, images: Sequence[np.ndarray]) -> tuple[list[Instances], dict[str, float]]:
        """The detections, and the milliseconds of each stage for all images together."""


class Predictor:
    """A network with all that lies before and behind it.

    ``image_size`` is the long side of the network input (default: that of the network), rounded up to its stride;
    what comes ``after`` it is the task's. Nothing changes from call to call: several threads may share one.
    """

    def __init__(self, network: Network, options: NMSOptions | None = None, image_size: int | None = None,
                 after: After = After()) -> None:  # noqa: B008  # frozen
        check_size(network, image_size)
        self.network = network
        self.names = network.info.names
        self.options = options or NMSOptions()
        self.image_size = -(-(image_size or network.info.image_size) // network.stride) * network.stride
        self.after = after
        self._on_device = isinstance(network, TorchNetwork) and network.fast

    def __call__(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """Detect in RGB images ``uint8 [H, W, 3]``; images of one shape share a batch, each runs exactly once."""
        return self._run(images, Counter(), wait=False)

    def timed(self, images: Sequence[np.ndarray]) -> tuple[list[Instances], dict[str, float]]:
        """The detections, and the milliseconds of each stage for all images together."""
        spent: Counter[str] = Counter()
        return self._run(images, spent, wait=True), dict(spent)

    def _run(self, images: Sequence[np.ndarray], spent: Counter[str], wait: bool) -> list[Instances]:
        started = time.perf_counter()
        prepared = [self._prepare(image) for image in images]
        spent["input"] = 1000 * (time.perf_counter() - started)  # type: ignore[assignment]
        found: dict[int, Instances] = {}
        for shape in dict.fromkeys(tensor.shape for tensor, _ in prepared):
            members = [index for index, (tensor, _) in enumerate(prepared) if tensor.shape == shape]
            batch = torch.stack([prepared[index][0] for index in members])
            for index, (instances, maps) in zip(members, self._detect(batch, spent, wait), strict=True):
                found[index] = replace(self.after.finish(instances, maps, prepared[index][1]), names=self.names)
        return [found[index] for index in range(len(images))]

    def _prepare(self, image: np.ndarray) -> tuple[Tensor, ImageMeta]:
        shape = self.network.shape or (self.image_size, self.image_size)
        stride, auto = self.network.stride, self.network.shape is None
        if self._on_device:
            native = torch.from_numpy(np.ascontiguousarray(image)).to(self.network.device, non_blocking=True)
            tensor, gain, pad = letterbox_on_device(native, shape, stride, auto)
        else:
            boxed, gain, pad = letterbox(image, shape, stride, auto)
            tensor = torch.from_numpy(np.ascontiguousarray(boxed)).permute(2, 0, 1)
        return tensor, ImageMeta("", size=(image.shape[0], image.shape[1]), gain=gain, pad=pad)

    @torch.inference_mode()
    def _detect(self, images: Tensor, spent: Counter[str], wait: bool) -> list[tuple[Instances, dict[str, Tensor]]]:
        """Of each image what NMS keeps, and its maps; where times are asked for it will ``wait`` for the network."""
        device, started = self.network.device, time.perf_counter()
        predictions = self.network(network_input(images, device), self.options.confidence)
        if wait and device.type == "cuda":
            torch.cuda.synchronize(device)  # the time of the network is reported
        between = time.perf_counter()
        facts = self.network.info.arguments
        found = [(replace(self.after.select(rows, self.options).to("cpu"), facts=facts), rows.maps)
                 for rows in predictions]
        spent["network"] += 1000 * (between - started)  # type: ignore[assignment]
        spent["nms"] += 1000 * (time.perf_counter() - between)  # type: ignore[assignment]
        return found
