"""Detection from Python: ``model = yolov7.load("best.pt"); found = model("bus.jpg"); found.plot("bus_found.jpg")``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from yolov7.config import InputError, RunError, atomic_write, nearest
from yolov7.config.arguments import CallArguments, LoadArguments, check_arguments, named_as_arguments
from yolov7.config.options import NetworkOptions, Precision
from yolov7.config.paths import check_path
from yolov7.data.any_image import ImageLike, PathLike, is_one_image, to_array
from yolov7.data.image_set import class_indices
from yolov7.data.images import encode_image
from yolov7.data.sources import Frame
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.loading import load_network, usual_device
from yolov7.inference.network import Network
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.inference.writers import WRITABLE, Result, json_rows
from yolov7.runtime import folders
from yolov7.runtime.device import select_device
from yolov7.runtime.forks import survive_forks
from yolov7.structures import Instances
from yolov7.tasks.base import find_task

if TYPE_CHECKING:
    import pandas

COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")


def load(weights: PathLike | Sequence[PathLike] = (), device: str | int | torch.device = "",
         precision: Precision = "auto", *, augment: bool = False, half_decode: bool = False, compile: bool = False,
         cfg: PathLike | None = None) -> Model:
    """Open weights, ours or the reference implementation's, or an exported file; several are an ensemble.

    Without ``weights`` it is ``best.pt`` of the latest run below ``runs/train``. ``device`` (``"cpu"``, ``0``,
    ``"cuda:0"``, ``torch.device("mps")``), ``precision`` (``auto``, ``fp32``, ``bf16``, ``fp16``) and the others are
    the flags of ``detect.py``, with the same limits. Raises `yolov7.InputError` (a `ValueError`) with one sentence for
    anything that does not fit. A process forked after this computes on one thread; on a GPU it cannot.
    """
    given = check_arguments(LoadArguments, "load()", weights=weights, device=device, precision=precision,
                            augment=augment, half_decode=half_decode, compile=compile, cfg=cfg)
    options = NetworkOptions(given.cfg, given.precision, given.half_decode, given.augment, given.compile)
    with named_as_arguments():
        paths = folders.find_weights(given.weights)
        network = load_network(paths, select_device(usual_device(paths, given.device)), options)
    survive_forks()
    return Model(network)


@dataclass(frozen=True)
class ImageResult(Instances):
    """What was found in one image, in its pixels, with the image itself."""

    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8), repr=False)  # uint8 [H, W, 3] RGB
    path: str = ""  # '' of an image that came from memory
    draw: Overlay = field(default=draw_instances, repr=False)  # of the task

    def plot(self, path: PathLike | None = None) -> np.ndarray:
        """The image with its detections, uint8 ``[H, W, 3]`` RGB; also written to ``path``, if there is one.

        Raises `yolov7.InputError` for a path that cannot be an image, `yolov7.RunError` where it cannot be written.
        """
        target = None if path is None else _image_path(path)
        drawn = self.draw(self.image, self, self.names, True)
        if target is not None:
            atomic_write(target, encode_image(drawn, target.suffix))
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
        self._process = os.getpid()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.network.info.names

    def __call__(self, images: ImageLike | Sequence[ImageLike], conf: float = 0.25, iou: float = 0.45,
                 classes: str | int | Sequence[str | int] | None = None, size: int | None = None, max_det: int = 300,
                 agnostic: bool = False) -> Any:
        """Detect in an image, or in several.

        An image is a path, the bytes of an image file (``bytes`` or an open file), an RGB array uint8 ``[H, W, 3]``, a
        PIL image, or an RGB tensor ``[3, H, W]``, uint8 or floats in 0..1. Gives a `ImageResult`; a list of them for
        several images or a tensor ``[B, 3, H, W]``. ``size`` is the long side of the network input (default: that of
        the weights), ``classes`` are names or numbers. Arguments have the limits of the flags of ``detect.py``.
        Raises `yolov7.InputError` (a `ValueError`) for what does not fit and for images that cannot be read,
        `yolov7.RunError` (a `RuntimeError`) on a GPU in a process that was forked.
        """
        given = check_arguments(CallArguments, "model()", conf=conf, iou=iou, classes=classes, size=size,
                                max_det=max_det, agnostic=agnostic)
        if self.network.device.type == "cuda" and os.getpid() != self._process:
            raise RunError("a GPU cannot be used in a process that was forked after its weights were loaded; load them "
                           "in each process, or start processes with the method 'spawn'")
        with named_as_arguments():
            chosen = None if given.classes is None else class_indices(given.classes, self.names)
            options = NMSOptions(given.conf, given.iou, given.max_det, agnostic=given.agnostic, classes=chosen)
            predictor = Predictor(self.network, options, given.size, self.task.finish)
            is_one = is_one_image(images)
            arrays = [to_array(image) for image in ([images] if is_one else _several(images))]
            results = predictor([image for image, _ in arrays])
        found = [ImageResult(d.boxes, d.scores, d.labels, d.names, d.extra, image, path, self.task.draw)
                 for d, (image, path) in zip(results, arrays, strict=True)]
        return found[0] if is_one else found


def _several(images: Any) -> Iterable[Any]:
    if isinstance(images, (Mapping, set, frozenset, io.IOBase)) or not isinstance(images, Iterable):
        to_array(images)  # says what an image is
    return images  # type: ignore[no-any-return]


def _image_path(path: PathLike) -> Path:
    """Where an image can be written. Raises `InputError`."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"plot(), path: found a {type(path).__name__}; accepted: a path")
    target = Path(check_path(os.fspath(path), "plot(), path"))
    if target.suffix.lower() not in WRITABLE:
        raise InputError(f"plot(), path: found {str(target)!r}; accepted: a name that ends with {', '.join(WRITABLE)}"
                         f"{nearest(target.suffix.lower(), WRITABLE)}")
    if os.path.isdir(target):
        raise InputError(f"plot(), path: found {str(target)!r}, a folder; accepted: a file in it")
    if not os.path.isdir(target.parent):
        raise InputError(f"plot(), path: found {str(target)!r}; the folder {str(target.parent)!r} is not there; make "
                         "it first")
    return target
