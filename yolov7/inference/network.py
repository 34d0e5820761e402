"""What turns a batch of images into predictions: a PyTorch model, test-time augmentation, several together.

Exported files are networks too (`yolov7.inference.exported`); `yolov7.inference.loading` opens any of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.boxes import mirror
from yolov7.config import InputError
from yolov7.inference.graphed import GraphedNetwork
from yolov7.inference.views import Join, View, find_join
from yolov7.model.blocks import FusedConv
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Predictions
from yolov7.model.norms import has_kernels
from yolov7.model.reparam import deployed
from yolov7.model.weights import ModelInfo
from yolov7.runtime.by_value import to_pickle
from yolov7.runtime.precision import FORMATS
from yolov7.structures import HeadOutput

GREY = 0.447
PASSES = ((1.0, False), (0.83, True), (0.67, False))  # scale and mirror image of test-time augmentation


class Network(Protocol):
    """A network that is ready to run."""

    @property
    def info(self) -> ModelInfo:
        """Names, size, data, and the head that says which task this is."""

    @property
    def task_outputs(self) -> tuple[str, ...]:
        """Names of what a task adds to its predictions, columns and maps; a detector's has none."""

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
        """RGB images ``[B, 3, H, W]``, float32 in 0..1 -> rows of objectness above ``confidence``, of each image."""


class TorchNetwork:
    """The deployed (re-parameterized) form of a model on a device; the model itself is left as it is.

    In half precision the first convolution, the detection convolutions and the decoding run in float32: of bfloat16's
    error in the boxes of a trained yolov7-tiny more than half is that of the weights of the first one. With
    ``half_decode`` all of it runs in half precision, as the reference implementation does on GPUs (docs/reference.md,
    Half-precision decoding). Compiled or ``fast`` (on CUDA devices, see `yolov7.inference.graphed`), threads take
    turns.
    """

    shape = None

    def __init__(self, model: Detector, device: torch.device, precision: str = "fp32", info: ModelInfo | None = None,
                 half_decode: bool = False, compile: bool = False, fast: bool = False) -> None:
        self.info = info or ModelInfo(tuple(f"class{i}" for i in range(model.num_classes)), model.spec.image_size,
                                      head=type(model.head).__name__, arguments=model.spec.head.arguments)
        self.device = device
        self.dtype = FORMATS[precision]
        self.model: Detector = deployed(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoding = self.dtype if half_decode else torch.float32
        if half_decode:
            self.model.nodes.to(self.dtype)
            for part in self.model.head.children():
                part.to(self.dtype)
        elif self.dtype != torch.float32:
            to_half(self.model, self.dtype)
        if fast and has_kernels(device):
            for block in self.model.modules():
                if isinstance(block, FusedConv):
                    block.joined = True
        head = self.model.head
        self.head, self.stride = type(head), self.model.stride
        self.task_outputs = (*head.channels.extra, *head.map_names)
        self._compiled, self.fast = compile, fast
        self._make_ready()

    def _make_ready(self) -> None:
        self.forward = compile_frozen(self.model) if self._compiled else self.model
        self._turn = threading.Lock() if self._compiled or self.fast else nullcontext()
        self._graphs = GraphedNetwork(self.model, self.device, self.decoding) if self.fast else None

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: a compiled network compiles anew at its first images over there."""
        state = {name: value for name, value in vars(self).items() if name not in ("forward", "_turn", "_graphs")}
        return state | {"model": to_pickle(self.model)}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._make_ready()

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float,
                 watch: Callable[[HeadOutput], None] | None = None) -> list[Predictions]:
        """See `Network`; ``watch`` sees the logits."""
        with self._turn:
            if self._graphs is not None and watch is None:
                return self._graphs(images.to(self.decoding), confidence)
            output = self.forward(images.to(self.decoding))
            if watch is not None:
                watch(output)
            return self.model.head.decoder.above(output, confidence, self.decoding)


class _InFloat(nn.Module):
    """A block that runs in float32 in the midst of others."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self.dtype = block, dtype

    def forward(self, x: Tensor) -> Tensor:
        """In float32, the result in the format of the others."""
        output: Tensor = self.block(x.float())
        return output.to(self.dtype)


def to_half(model: Detector, dtype: torch.dtype) -> None:
    """Change a deployed model to half precision, but for the first convolution and what the head keeps in float32."""
    stem = next(name for name, block in model.nodes.items() if next(block.parameters(), None) is not None)
    for name, block in model.nodes.items():
        model.nodes[name] = _InFloat(block, dtype) if name == stem else block.to(dtype)
    model.head.to_half(dtype)


def compile_frozen(model: Detector, graphs: bool = False) -> Callable[[Tensor], HeadOutput]:
    """Compile a deployed model: its weights are laid out for the convolutions once, activations run inside them.

    The first size is compiled as it is, with the second the graph becomes one for any size. Call it without gradients
    and from one thread at a time. With ``graphs`` each size is recorded as a CUDA graph, too: the next call
    overwrites the output of the last, and all calls must come from the thread of the first.
    """
    from torch._inductor import config  # slow to import

    run = torch.compile(model, mode="reduce-overhead" if graphs else None)

    def frozen(images: Tensor) -> HeadOutput:
        with config.patch(freezing=True):  # is read at the time of each compilation, and is nobody else's setting
            output: HeadOutput = run(images)
            return output

    return frozen


def check_size(network: Network, image_size: int | None) -> None:
    """Raise `InputError` for an input size that a network of one shape does not take."""
    if network.shape and image_size not in (None, max(network.shape)):
        height, width = network.shape
        raise InputError(f"--img-size {image_size}: the exported file takes {height} x {width} alone")


# --- several predictions of an image ---------------------------------------------------------------------------


class Augmented:
    """Test-time augmentation: the predictions on an image, on a smaller mirror image and on a still smaller image.

    Takes about 2.1 times as long (docs/reference.md, Test-time augmentation).
    """

    shape = None

    def __init__(self, network: Network) -> None:
        if network.shape:
            raise InputError("--augment needs inputs of several sizes; the exported network takes "
                             f"{network.shape[0]} x {network.shape[1]} alone")
        self._join = find_join(network.task_outputs, "--augment", network.info.head)
        self.network = network
        self.info, self.device, self.stride = network.info, network.device, network.stride
        self.task_outputs = network.task_outputs

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`."""
        height, width = images.shape[-2:]
        views = [View((height, width), scale, flip) for scale, flip in PASSES]
        return _together([self._look(images, confidence, view) for view in views], views, self._join,
                         self.info.arguments)

    def _look(self, images: Tensor, confidence: float, view: View) -> list[Predictions]:
        """The predictions of a view, of which the boxes lie in the image already."""
        shrunk = shrink(images.flip(-1) if view.mirrored else images, view.scale, self.stride)
        found = []
        for rows in self.network(shrunk, confidence):
            native = rows.boxes / view.scale
            found.append(replace(rows, boxes=mirror(native, view.size[1]) if view.mirrored else native))
        return found


class Ensemble:
    """Several networks of the same classes: what any of them predicts goes through one NMS."""

    def __init__(self, networks: Sequence[Network]) -> None:
        first = networks[0]
        for network in networks:
            self._join = find_join(network.task_outputs, "--weights: an ensemble", network.info.head)
            if network.task_outputs != first.task_outputs or _points_of(network) != _points_of(first):
                raise InputError(f"--weights: an ensemble needs networks of one task; found {first.info.head} and "
                                 f"{network.info.head}, or other key points")
            if network.info.names != first.info.names:
                raise InputError(f"--weights: an ensemble needs the same classes in the same order; found "
                                 f"{_listed(first.info.names)} and {_listed(network.info.names)}")
        shapes = {network.shape for network in networks if network.shape}
        if len(shapes) > 1:
            raise InputError(f"--weights: an ensemble needs one input size; found {sorted(shapes)}")
        self.networks = networks
        self.info, self.device = first.info, first.device
        self.task_outputs = first.task_outputs
        self.stride = math.lcm(*(network.stride for network in networks))
        self.shape = next(iter(shapes), None)
        if self.shape and any(side % self.stride for side in self.shape):
            raise InputError(f"--weights: an ensemble needs sides that are multiples of {self.stride}; an exported "
                             f"file takes {self.shape[0]} x {self.shape[1]} alone")

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `Network`."""
        height, width = images.shape[-2:]
        return _together([network(images, confidence) for network in self.networks],
                         [View((height, width))] * len(self.networks), self._join, self.info.arguments)


def shrink(images: Tensor, scale: float, stride: int) -> Tensor:
    """Images ``[B, 3, H, W]`` made smaller, then padded with grey at the right and below to multiples of a stride."""
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    small = F.interpolate(images, size=(int(height * scale), int(width * scale)), mode="bilinear", align_corners=False)
    below, right = (math.ceil(side * scale / stride) * stride - int(side * scale) for side in (height, width))
    return F.pad(small, (0, right, 0, below), value=GREY)


def _points_of(network: Network) -> Any:
    """The names of its key points, where it states some."""
    return tuple(network.info.arguments.get("keypoints", ()))


def _together(parts: Sequence[list[Predictions]], views: Sequence[View], join: Join,
              arguments: Mapping[str, Any]) -> list[Predictions]:
    """The rows of all views, image by image."""
    return [Predictions(torch.cat([rows.boxes for rows in of_image]), torch.cat([rows.objectness for rows in of_image]),
                        torch.cat([rows.classes for rows in of_image]), *join(of_image, views, arguments))
            for of_image in zip(*parts, strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
