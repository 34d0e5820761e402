"""Detection from Python: ``model = yolov7.load("best.pt"); found = model("bus.jpg"); found.plot("bus_found.jpg")``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from yolov7.config import InputError, atomic_write
from yolov7.config.options import NetworkOptions, Precision
from yolov7.data.image_set import class_indices
from yolov7.data.images import encode_image, load_image
from yolov7.data.sources import Frame
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.loading import load_network, usual_device
from yolov7.inference.network import Network
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.inference.writers import Result, json_rows
from yolov7.runtime import folders
from yolov7.runtime.device import select_device
from yolov7.structures import Instances
from yolov7.tasks.base import find_task

if TYPE_CHECKING:
    import pandas

PathLike = str | os.PathLike[str]
ImageLike = PathLike | np.ndarray | Image.Image | Tensor
COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")
TENSOR_DIMENSIONS = (3, 4)  # of one image, of a batch


def load(weights: PathLike | Sequence[PathLike] = (), device: str = "", precision: Precision = "auto", *,
         augment: bool = False, half_decode: bool = False, compile: bool = False, cfg: str | None = None) -> Model:
    """Open weights, ours or the reference implementation's, or an exported file; several are an ensemble.

    Without ``weights`` it is ``best.pt`` of the latest run below ``runs/train``. ``device``, ``precision``
    (``auto``, ``fp32``, ``bf16``, ``fp16``) and the others are the flags of ``detect.py``. Raises
    `yolov7.config.InputError` (a `ValueError`) with one sentence for anything that does not fit.
    """
    given = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    paths = folders.find_weights([os.fspath(path) for path in given])
    options = NetworkOptions(cfg, precision, half_decode, augment, compile)
    return Model(load_network(paths, select_device(usual_device(paths, device)), options))


@dataclass(frozen=True)
class ImageResult(Instances):
    """What was found in one image, in its pixels, with the image itself."""

    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8), repr=False)  # uint8 [H, W, 3] RGB
    path: str = ""  # '' of an image that came from memory
    draw: Overlay = field(default=draw_instances, repr=False)  # of the task

    def plot(self, path: PathLike | None = None) -> np.ndarray:
        """The image with its detections, uint8 ``[H, W, 3]`` RGB; also written to ``path``, if there is one."""
        drawn = self.draw(self.image, self, self.names, True)
        if path is not None:
            atomic_write(Path(path), encode_image(drawn, Path(path).suffix))
        return drawn

    def to_json(self) -> str:
        """One JSON object, as ``detect.py --save-json`` writes it."""
        return json_rows(Result(Frame(self.image, self.path, "", 0, None), self, {}))[0]

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns xmin, ymin, xmax, ymax, confidence, class, name and those of a task; pandas."""
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas() needs the package 'pandas': pip install pandas") from None
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        table = pandas.DataFrame([(*box, score, label, self.names[label]) for box, score, label in rows],
                                 columns=list(COLUMNS))
        return table.assign(**{name: list(column.numpy()) for name, column in self.extra.items()})


class Model:
    """A detector for Python programs. It keeps nothing between calls: several threads may share one."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.task = find_task(network.info.head)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.network.info.names

    def __call__(self, images: ImageLike | Sequence[ImageLike], conf: float = 0.25, iou: float = 0.45,
                 classes: Sequence[str | int] | None = None, size: int | None = None, max_det: int = 300,
                 agnostic: bool = False) -> Any:
        """Detect in an image, or in several.

        An image is a path, an RGB array uint8 ``[H, W, 3]``, a PIL image, or an RGB tensor ``[3, H, W]``, uint8 or
        floats in 0..1. Gives a `ImageResult`; a list of them for a sequence of images or a tensor
        ``[B, 3, H, W]``. ``size`` is the long side of the network input (default: that of the weights), ``classes``
        are names or numbers.
        """
        if not 0 <= conf <= 1 or not 0 <= iou <= 1:
            raise InputError(f"conf, iou: found {conf}, {iou}; accepted: 0 to 1")
        chosen = None if classes is None else class_indices([str(name) for name in classes], self.names)
        options = NMSOptions(conf, iou, max_det, agnostic=agnostic, classes=chosen)
        predictor = Predictor(self.network, options, size, self.task.finish)
        is_one = isinstance(images, (str, os.PathLike, np.ndarray, Image.Image)) or (
            isinstance(images, Tensor) and images.ndim == min(TENSOR_DIMENSIONS))
        arrays = [_to_array(image) for image in ([images] if is_one else images)]  # type: ignore[union-attr]
        found = [
            ImageResult(d.boxes, d.scores, d.labels, d.names, d.extra, image, os.fspath(path) if path else "",
                        self.task.draw)
            for d, (image, path) in zip(predictor([image for image, _ in arrays]), arrays, strict=True)]
        return found[0] if is_one else found


def _to_array(image: Any) -> tuple[np.ndarray, PathLike | None]:
    """uint8 ``[H, W, 3]`` RGB, and the path of a file."""
    if isinstance(image, (str, os.PathLike)):
        return load_image(os.fspath(image)), image
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")), None
    if isinstance(image, Tensor):
        return _from_tensor(image), None
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image: found a {type(image).__name__}; accepted: a path, an array uint8 [H, W, 3], "
                         "a PIL image, a tensor [3, H, W]")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"an image: found an array {image.dtype} {list(image.shape)}; accepted: uint8 [H, W, 3], "
                         "RGB")
    return image, None


def _from_tensor(image: Tensor) -> np.ndarray:
    if image.ndim != min(TENSOR_DIMENSIONS) or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image: found a tensor {list(image.shape)}; accepted: [3, H, W] or [B, 3, H, W], RGB")
    if image.is_floating_point():
        if not 0 <= float(image.min()) <= float(image.max()) <= 1:
            raise InputError(f"an image: found floats from {float(image.min()):g} to {float(image.max()):g}; "
                             "accepted: 0 to 1, or uint8")
        image = (image.float() * 255).round()
    elif image.dtype != torch.uint8:
        raise InputError(f"an image: found a tensor of {image.dtype}; accepted: uint8, or floats in 0..1")
    return image.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
