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

from yolov7.config import InputError
from yolov7.data.classes import class_indices
from yolov7.data.frames import Frame
from yolov7.data.images import load_image
from yolov7.engine import checkpoint
from yolov7.engine.device import select_device
from yolov7.inference.draw import draw_detections
from yolov7.inference.loading import NetworkOptions, load_network, usual_device
from yolov7.inference.network import Network
from yolov7.inference.postprocess import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.inference.writers import Result, json_rows, save_picture
from yolov7.structures import Detections

if TYPE_CHECKING:
    import pandas

PathLike = str | os.PathLike[str]
Picture = PathLike | np.ndarray | Image.Image | Tensor
COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")
TENSOR_DIMENSIONS = (3, 4)  # of one picture, of a batch


def load(weights: PathLike | Sequence[PathLike] = (), device: str = "", precision: str = "auto", *,
         augment: bool = False, half_decode: bool = False, compile: bool = False, cfg: str | None = None) -> Model:
    """Open weights, ours or the original's, or an exported file; several are an ensemble.

    Without ``weights`` it is ``best.pt`` of the latest run below ``runs/train``. ``device``, ``precision``
    (``auto``, ``fp32``, ``bf16``, ``fp16``) and the others are the flags of ``detect.py``. Raises
    `yolov7.config.InputError` (a `ValueError`) with one sentence for anything that does not fit.
    """
    given = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    paths = checkpoint.find_weights([os.fspath(path) for path in given])
    options = NetworkOptions(cfg, precision, half_decode, augment, compile)
    return Model(load_network(paths, select_device(usual_device(paths, device)), options))


@dataclass(frozen=True)
class PictureDetections(Detections):
    """What was found in one picture, in its pixels, with the picture itself."""

    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8), repr=False)  # uint8 [H, W, 3] RGB
    path: str = ""  # '' of a picture that came from memory

    def plot(self, path: PathLike | None = None) -> np.ndarray:
        """The picture with its detections, uint8 ``[H, W, 3]`` RGB; also written to ``path``, if there is one."""
        drawn = draw_detections(self.image, self, self.names)
        if path is not None:
            save_picture(Path(path), drawn)
        return drawn

    def to_json(self) -> str:
        """One JSON object, as ``detect.py --save-json`` writes it."""
        return json_rows(Result(Frame(self.image, self.path, "", 0, None), self, {}))[0]

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns xmin, ymin, xmax, ymax, confidence, class, name; needs pandas."""
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas() needs the package 'pandas': pip install pandas") from None
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return pandas.DataFrame([(*box, score, label, self.names[label]) for box, score, label in rows],
                                columns=list(COLUMNS))


class Model:
    """A detector for Python programs. It keeps nothing between calls: several threads may share one."""

    def __init__(self, network: Network) -> None:
        self.network = network

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.network.info.names

    def __call__(self, pictures: Picture | Sequence[Picture], conf: float = 0.25, iou: float = 0.45,
                 classes: Sequence[str | int] | None = None, size: int | None = None, max_det: int = 300,
                 agnostic: bool = False) -> Any:
        """Detect in a picture, or in several.

        A picture is a path, an RGB array uint8 ``[H, W, 3]``, a PIL image, or an RGB tensor ``[3, H, W]``, uint8 or
        floats in 0..1. Gives a `PictureDetections`; a list of them for a sequence of pictures or a tensor
        ``[B, 3, H, W]``. ``size`` is the long side of the network input (default: that of the weights), ``classes``
        are names or numbers.
        """
        if not 0 <= conf <= 1 or not 0 <= iou <= 1:
            raise InputError(f"conf, iou: found {conf}, {iou}; accepted: 0 to 1")
        wanted = None if classes is None else class_indices([str(name) for name in classes], self.names)
        predictor = Predictor(self.network, NMSOptions(conf, iou, max_det, agnostic=agnostic, classes=wanted), size)
        is_one = isinstance(pictures, (str, os.PathLike, np.ndarray, Image.Image)) or (
            isinstance(pictures, Tensor) and pictures.ndim == min(TENSOR_DIMENSIONS))
        images = [_to_array(picture) for picture in ([pictures] if is_one else pictures)]  # type: ignore[union-attr]
        found = [
            PictureDetections(d.boxes, d.scores, d.labels, d.names, image, os.fspath(path) if path else "")
            for d, (image, path) in zip(predictor([image for image, _ in images]), images, strict=True)
        ]
        return found[0] if is_one else found


def _to_array(picture: Any) -> tuple[np.ndarray, PathLike | None]:
    """uint8 ``[H, W, 3]`` RGB, and the path of a file."""
    if isinstance(picture, (str, os.PathLike)):
        return load_image(os.fspath(picture)), picture
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB")), None
    if isinstance(picture, Tensor):
        return _from_tensor(picture), None
    if not isinstance(picture, np.ndarray):
        raise InputError(f"a picture: found a {type(picture).__name__}; accepted: a path, an array uint8 [H, W, 3], "
                         "a PIL image, a tensor [3, H, W]")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(f"a picture: found an array {picture.dtype} {list(picture.shape)}; accepted: uint8 [H, W, 3], "
                         "RGB")
    return picture, None


def _from_tensor(picture: Tensor) -> np.ndarray:
    if picture.ndim != min(TENSOR_DIMENSIONS) or picture.shape[0] != 3 or not picture.numel():
        raise InputError(f"a picture: found a tensor {list(picture.shape)}; accepted: [3, H, W] or [B, 3, H, W], RGB")
    if picture.is_floating_point():
        if not 0 <= float(picture.min()) <= float(picture.max()) <= 1:
            raise InputError(f"a picture: found floats from {float(picture.min()):g} to {float(picture.max()):g}; "
                             "accepted: 0 to 1, or uint8")
        picture = (picture.float() * 255).round()
    elif picture.dtype != torch.uint8:
        raise InputError(f"a picture: found a tensor of {picture.dtype}; accepted: uint8, or floats in 0..1")
    return picture.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
