"""Detection from Python: ``model = yolov7.load("best.pt"); found = model("bus.jpg"); found.plot("bus_found.jpg")``."""

from __future__ import annotations

import glob
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from yolov7.config import InputError, RunError
from yolov7.config.arguments import (
    CallArguments,
    LoadArguments,
    TrackArguments,
    check_arguments,
    named_as_arguments,
)
from yolov7.config.options import MaskMode, MaskScores, NetworkOptions, Precision
from yolov7.data.any_image import ImageLike, PathLike, is_one_image, to_array
from yolov7.data.image_set import class_indices
from yolov7.data.sources import open_images, open_source
from yolov7.data.video import Frame, is_address
from yolov7.inference.draw import Overlay
from yolov7.inference.loading import load_network, usual_device
from yolov7.inference.network import Network
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import ImagePredictor, Predictor
from yolov7.inference.results import ImageResult, Results
from yolov7.inference.tiles import TiledPredictor, Tiling
from yolov7.inference.tracking import LOW, TrackOptions, TrackOverlay, Tracks
from yolov7.runtime import folders
from yolov7.runtime.device import select_device
from yolov7.runtime.forks import survive_forks
from yolov7.structures import Instances
from yolov7.tasks.base import find_task

__all__ = ["ImageResult", "Model", "Results", "load"]

logger = logging.getLogger(__name__)

SHOWN_FAULTS = 10
MANY_BYTES = 2**32  # of the images that the results of a folder keep


def load(weights: PathLike | Sequence[PathLike] = (), device: str | int | torch.device = "",
         precision: Precision = "auto", *, augment: bool = False, half_decode: bool = False, compile: bool = False,
         fast: bool = False, cfg: PathLike | None = None) -> Model:
    """Open weights, ours or the reference implementation's, or an exported file; several are an ensemble.

    Without ``weights`` it is ``best.pt`` of the latest run below ``runs/train``. ``device`` (``"cpu"``, ``0``,
    ``"cuda:0"``, ``torch.device("mps")``), ``precision`` (``auto``, ``fp32``, ``bf16``, ``fp16``) and the others are
    the flags of ``detect.py``, with the same limits. Raises `yolov7.InputError` (a `ValueError`) with one sentence for
    anything that does not fit. A process forked after this computes on one thread; on a GPU it cannot.
    """
    given = check_arguments(LoadArguments, "load()", weights=weights, device=device, precision=precision,
                            augment=augment, half_decode=half_decode, compile=compile, fast=fast, cfg=cfg)
    options = NetworkOptions(given.cfg, given.precision, given.half_decode, given.augment, given.compile,
                             given.fast)
    with named_as_arguments():
        paths = folders.find_weights(given.weights)
        network = load_network(paths, select_device(usual_device(paths, given.device)), options)
    return Model(network)


class Model:
    """A detector for Python programs. It keeps nothing between calls: several threads may share one.

    It can be pickled, so that spawned processes take it as an argument; a compiled network compiles anew there.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.task = find_task(network.info.head)
        self._process = os.getpid()
        survive_forks()

    def __reduce__(self) -> tuple[type[Model], tuple[Network]]:
        """What is pickled is the network; the rest belongs to a process."""
        return type(self), (self.network,)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return self.network.info.names

    def __call__(self, images: ImageLike | Sequence[ImageLike],  # noqa: PLR0913, PLR0917  # as many as flags
                 conf: float = 0.25, iou: float = 0.45,
                 classes: str | int | Sequence[str | int] | None = None, size: int | None = None, max_det: int = 300,
                 agnostic: bool = False, masks: MaskMode | None = None, mask_scores: MaskScores | None = None,
                 tile: int | None = None, overlap: float = 0.2) -> Any:
        """Detect in an image, in several, or in those of a folder.

        An image is a path, an address (``https://...``), the bytes of an image file (``bytes`` or an open file), an
        RGB array uint8 ``[H, W, 3]``, a PIL image, or an RGB tensor ``[3, H, W]``, uint8 or floats in 0..1. Gives a
        `ImageResult`; a `Results`, which is a list of them, for several images, a tensor ``[B, 3, H, W]``, a folder or
        a glob (in the order of ``detect.py``; what cannot be read is logged and left out). Results keep their images:
        for a large folder take `stream`. ``size`` is the long side of the network input (default: that of the
        weights), ``classes`` are names or numbers, ``masks`` is how masks come to the image's pixels (low, upsampled,
        fine, soft), ``mask_scores`` whose masks count in scores (all, kept, none), ``tile`` is the side of tiles that
        large images are looked at in, besides the whole, ``overlap`` the part of a tile that it shares with the next
        one. Arguments have the limits of the flags of ``detect.py``. Raises `yolov7.InputError` (a `ValueError`) for
        what does not fit and for images that cannot be read, `yolov7.RunError` (a `RuntimeError`) on a GPU in a process
        that was forked.
        """
        predictor = self._predictor("model()", conf=conf, iou=iou, classes=classes, size=size, max_det=max_det,
                                    agnostic=agnostic, masks=masks, mask_scores=mask_scores, tile=tile, overlap=overlap)
        with named_as_arguments():
            if folder := _folder(images):
                return self._of_folder(folder, predictor)
            is_one = is_one_image(images)
            arrays = [to_array(image) for image in ([images] if is_one else _several(images))]
            results = predictor([image for image, _ in arrays])
        found = Results(self._result(one, image, path) for one, (image, path) in zip(results, arrays, strict=True))
        return found[0] if is_one else found

    def stream(self, source: PathLike | int, conf: float = 0.25, iou: float = 0.45,  # noqa: PLR0913, PLR0917  # as above
               classes: str | int | Sequence[str | int] | None = None, size: int | None = None, max_det: int = 300,
               agnostic: bool = False, masks: MaskMode | None = None, mask_scores: MaskScores | None = None,
               tile: int | None = None, overlap: float = 0.2) -> Iterator[ImageResult]:
        """Detect in whatever ``detect.py --source`` takes, one `ImageResult` after the other.

        Folders, globs, lists, videos, cameras by number, addresses of images, videos and streams; results of frames
        have their number ``frame`` and ``seconds``. Nothing is kept, and the next frames are read meanwhile; of a
        stream it is always the newest frame. Arguments and errors are those of a call; the source is opened with the
        first result. What could not be read is logged at the end.
        """
        name = _source_name(source, "model.stream()")
        predictor = self._predictor("model.stream()", conf=conf, iou=iou, classes=classes, size=size, max_det=max_det,
                                    agnostic=agnostic, masks=masks, mask_scores=mask_scores, tile=tile, overlap=overlap)
        return self._frames(name, predictor)

    def track(self, source: PathLike | int, tracker: str = "ocsort", buffer: float = 2.0,
              **arguments: Any) -> Iterator[ImageResult]:
        """`stream` that follows objects: each has a number, in the column ``track``, -1 where it has none yet.

        ``tracker`` is ``ocsort``, ``bytetrack``, ``botsort`` or ``sort`` of the package trackers, ``buffer`` how many
        seconds an object is remembered that is not seen, ``arguments`` are those of a call. Every video and stream has
        a tracker of its own; images of a folder are taken as one film. `ImageResult.plot` draws numbers and tails.
        """
        name = _source_name(source, "model.track()")
        given = check_arguments(TrackArguments, "model.track()", tracker=tracker, buffer=buffer, **arguments)
        with named_as_arguments():
            tracks = Tracks(TrackOptions(given.tracker or tracker, given.conf, given.buffer))
        found = {**arguments, "conf": min(given.conf, LOW)}
        predictor = self._predictor("model.track()", **found)
        return self._frames(name, predictor, tracks)

    def _predictor(self, call: str, **arguments: Any) -> ImagePredictor:
        given = check_arguments(CallArguments, call, **arguments)
        if self.network.device.type == "cuda" and os.getpid() != self._process:
            raise RunError("a GPU cannot be used in a process that was forked after its weights were loaded; load them "
                           "in each process, or start processes with the method 'spawn'")
        with named_as_arguments():
            chosen = None if given.classes is None else class_indices(given.classes, self.names)
            options = NMSOptions(given.conf, given.iou, given.max_det, agnostic=given.agnostic, classes=chosen)
            predictor = Predictor(self.network, options, given.size, self.task.after(given.masks, given.mask_scores))
            return TiledPredictor(predictor, Tiling(given.tile, given.overlap)) if given.tile else predictor

    def _result(self, found: Instances, image: np.ndarray, path: str, frame: int = 0,
                seconds: float | None = None, draw: Overlay | None = None) -> ImageResult:
        return ImageResult(found.boxes, found.scores, found.labels, found.names, found.extra, found.facts, image, path,
                           draw or self.task.draw, frame, seconds)

    def _of_folder(self, folder: str, predictor: ImagePredictor) -> Results:
        files, found, kept = open_images(folder), Results(), 0
        for frame in files:
            found.append(self._result(predictor([frame.image])[0], frame.image, frame.path))
            before, kept = kept, kept + frame.image.nbytes
            if before <= MANY_BYTES < kept:
                logger.warning("%s: the results keep their images, %d GiB by now; model.stream() gives one after the "
                               "other and keeps none", folder, kept >> 30)
        _tell(files.faults)
        return found

    def _frames(self, source: str, predictor: ImagePredictor,
                tracks: Tracks | None = None) -> Iterator[ImageResult]:
        from yolov7.inference.detect import prefetch

        with named_as_arguments(), closing(open_source(source)) as frames:
            read = frames.batches(1)
            with closing(read if frames.live else prefetch(read)) as batches:
                for batch in batches:
                    found = predictor([frame.image for frame in batch])
                    yield from (self._of_frame(*pair, tracks) for pair in zip(batch, found, strict=True))
            _tell(frames.faults)

    def _of_frame(self, frame: Frame, found: Instances, tracks: Tracks | None) -> ImageResult:
        seconds, draw = None if frame.video is None else frame.seconds, None
        if tracks is not None:
            found = tracks.update(frame, found)
            draw = TrackOverlay(self.task.draw, tracks.tails(frame))
        return self._result(found, frame.image, frame.path, frame.index, seconds, draw)


def _source_name(source: Any, call: str) -> str:
    """A source as ``--source`` has it; raises `InputError`."""
    if isinstance(source, bool) or not isinstance(source, (str, os.PathLike, int)):
        raise InputError(f"{call}, source: found a {type(source).__name__}; accepted: a path, an address, or the "
                         "number of a camera")
    return str(source) if isinstance(source, int) else os.fspath(source)


def _folder(images: Any) -> str:
    """A folder, or a glob that is not the name of a file; '' for anything else."""
    if not isinstance(images, (str, os.PathLike)):
        return ""
    path = os.fspath(images)
    if not isinstance(path, str):
        raise InputError(f"an image: found a path of {type(path).__name__}; accepted: a text")
    is_glob = glob.has_magic(path) and not is_address(path) and not os.path.lexists(path)
    return path if is_glob or os.path.isdir(path) else ""


def _tell(faults: Sequence[str]) -> None:
    """Log what could not be read."""
    for fault in faults[:SHOWN_FAULTS]:
        logger.warning("%s", fault)
    if len(faults) > SHOWN_FAULTS:
        logger.warning("and %d more that could not be read", len(faults) - SHOWN_FAULTS)


def _several(images: Any) -> Iterable[Any]:
    if isinstance(images, (Mapping, set, frozenset, io.IOBase)) or not isinstance(images, Iterable):
        to_array(images)  # says what an image is
    return images  # type: ignore[no-any-return]
