"""What turns a batch of pictures into predictions: a PyTorch model, test-time augmentation, several together.

Exported files are networks too (`yolov7.inference.exported`); `yolov7.inference.loading` opens any of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.boxes import mirror
from yolov7.config import InputError
from yolov7.model.anchors import Predictions, decode_above
from yolov7.model.compiling import compile_frozen
from yolov7.model.detector import Detector
from yolov7.model.precision import FORMATS
from yolov7.model.reparam import deployed
from yolov7.model.weights import ModelInfo

GREY = 0.447
PASSES = ((1.0, False), (0.83, True), (0.67, False))  # scale and mirror image of test-time augmentation


class Network(Protocol):
    """A detector that is ready to run."""

    @property
    def info(self) -> ModelInfo:
        """Names, size, data."""

    @property
    def device(self) -> torch.device:
        """Where its input is expected."""

    @property
    def stride(self) -> int:
        """Both sides of its input are multiples of this."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of its input where no others are possible."""

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """RGB pictures ``[B, 3, H, W]``, float32 in 0..1 -> rows of objectness above ``confidence``, per picture."""


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """Pictures uint8 ``[B, 3, H, W]`` -> float32 0..1 on the device, in the memory order that convolutions prefer."""
    moved = images.to(device, non_blocking=True)  # as bytes: a quarter of the traffic
    return moved.to(torch.float32, memory_format=torch.channels_last) / 255


class TorchNetwork:
    """The deployed (re-parameterized) form of a model on a device; the model itself is left as it is.

    In half precision the first convolution, the detection convolutions and the decoding run in float32: of bfloat16's
    error in the boxes of a trained yolov7-tiny more than half is that of the weights of the first one. With
    ``half_decode`` all of it runs in half precision, as the original's does on GPUs (quirk E5). Compiled, threads take
    turns.
    """

    shape = None

    def __init__(self, model: Detector, device: torch.device, precision: str = "fp32", info: ModelInfo | None = None,
                 half_decode: bool = False, compile: bool = False) -> None:
        self.info = info or ModelInfo(tuple(f"class{i}" for i in range(model.num_classes)), model.spec.image_size)
        self.device = device
        self.dtype = FORMATS[precision]
        self.model = deployed(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoding = self.dtype if half_decode else torch.float32
        if half_decode:
            self.model.nodes.to(self.dtype)
            self.model.head.convs.to(self.dtype)
        elif self.dtype != torch.float32:
            to_half(self.model, self.dtype)
        self.forward = compile_frozen(self.model) if compile else self.model
        self._turn = threading.Lock() if compile else nullcontext()

    @property
    def stride(self) -> int:
        """That of the coarsest level."""
        return self.model.stride

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`."""
        head = self.model.head
        with self._turn:
            output = self.forward(images.to(self.decoding))
            return decode_above(output, head.anchors, head.strides, confidence, self.decoding)


class _InFloat(nn.Module):
    """A block that runs in float32 in the midst of others."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self.dtype = block, dtype

    def forward(self, x: Tensor) -> Tensor:
        """In float32, the result in the format of the others."""
        return self.block(x.float()).to(self.dtype)


def to_half(model: Detector, dtype: torch.dtype) -> None:
    """Change a deployed model to half precision, but for the first convolution and those of the head."""
    stem = next(name for name, block in model.nodes.items() if next(block.parameters(), None) is not None)
    for name, block in model.nodes.items():
        model.nodes[name] = _InFloat(block, dtype) if name == stem else block.to(dtype)


def check_size(network: Network, image_size: int | None) -> None:
    """Raise `InputError` for an input size that a network of one shape does not take."""
    if network.shape and image_size not in (None, max(network.shape)):
        height, width = network.shape
        raise InputError(f"--img-size {image_size}: the exported file takes {height} x {width} alone")


class Augmented:
    """Test-time augmentation: the predictions on a picture, on a smaller mirror image and on a still smaller picture.

    Spec of evaluation, section 6. Takes about 2.1 times as long.
    """

    shape = None

    def __init__(self, network: Network) -> None:
        if network.shape:
            raise InputError("--augment needs inputs of several sizes; the exported network takes "
                             f"{network.shape[0]} x {network.shape[1]} alone")
        self.network = network
        self.info, self.device, self.stride = network.info, network.device, network.stride

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`."""
        return _together(self._look(images, confidence, scale, flip) for scale, flip in PASSES)

    def _look(self, images: Tensor, confidence: float, scale: float, flip: bool) -> list[Predictions]:
        width = images.shape[-1]
        shrunk = shrink(images.flip(-1) if flip else images, scale, self.stride)
        found = []
        for boxes, objectness, classes in self.network(shrunk, confidence):
            native = boxes / scale
            found.append(Predictions(mirror(native, width) if flip else native, objectness, classes))
        return found


class Ensemble:
    """Several networks of the same classes: what any of them predicts goes through one suppression."""

    def __init__(self, networks: Sequence[Network]) -> None:
        first = networks[0]
        for other in networks[1:]:
            if other.info.names != first.info.names:
                raise InputError(f"--weights: an ensemble needs the same classes in the same order; found "
                                 f"{_listed(first.info.names)} and {_listed(other.info.names)}")
        shapes = {network.shape for network in networks if network.shape}
        if len(shapes) > 1:
            raise InputError(f"--weights: an ensemble needs one input size; found {sorted(shapes)}")
        self.networks = networks
        self.info, self.device = first.info, first.device
        self.stride = math.lcm(*(network.stride for network in networks))
        self.shape = next(iter(shapes), None)
        if self.shape and any(side % self.stride for side in self.shape):
            raise InputError(f"--weights: an ensemble needs sides that are multiples of {self.stride}; an exported "
                             f"file takes {self.shape[0]} x {self.shape[1]} alone")

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`."""
        return _together(network(images, confidence) for network in self.networks)


def shrink(images: Tensor, scale: float, stride: int) -> Tensor:
    """Pictures ``[B, 3, H, W]`` made smaller, then padded with grey at the right and below to multiples of a stride."""
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    small = F.interpolate(images, size=(int(height * scale), int(width * scale)), mode="bilinear", align_corners=False)
    below, right = (math.ceil(side * scale / stride) * stride - int(side * scale) for side in (height, width))
    return F.pad(small, (0, right, 0, below), value=GREY)


def _together(parts: Iterable[list[Predictions]]) -> list[Predictions]:
    """The rows of all parts, picture by picture."""
    return [Predictions(*(torch.cat(field) for field in zip(*of_picture, strict=True)))
            for of_picture in zip(*parts, strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
