"""The detection command: source -> `Predictor` -> pictures, videos, text and JSON."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from yolov7.boxes import xyxy_to_cxcywh
from yolov7.config import write_atomically
from yolov7.data.classes import class_indices
from yolov7.data.images import cv2
from yolov7.data.sources import Frame, Source, VideoWriter, open_source, open_video_writer
from yolov7.inference.draw import draw_detections
from yolov7.inference.postprocess import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.model.weights import LoadedModel
from yolov7.options import DetectOptions
from yolov7.structures import Detections

logger = logging.getLogger(__name__)


def detect(options: DetectOptions, loaded: LoadedModel, device: torch.device, make_folder: Callable[[], Path]) -> Path:
    """Detect in every picture and frame of ``--source``; returns the folder of the results.

    ``make_folder`` is called when everything has been checked: bad input leaves nothing behind.
    """
    classes = None if options.classes is None else class_indices(options.classes, loaded.names)
    nms = NMSOptions(options.conf_thres, options.iou_thres, options.max_det, agnostic=options.agnostic_nms,
                     classes=classes)
    predictor = Predictor(loaded, device, nms, options.img_size)
    source = open_source(options.source)
    totals: Counter[str] = Counter()
    times: Counter[str] = Counter()
    frames = 0
    with _Results(options, make_folder) as results:
        for frame in tqdm(source, total=len(source) or None, desc="detect", unit="frame", leave=False, disable=None):
            detections = predictor([frame.image])[0]
            results.write(frame, detections)
            totals.update(loaded.names[label] for label in detections.labels.tolist())
            times.update(predictor.milliseconds)
            frames += 1
    _report(source, frames, totals, times)
    logger.info("written to %s", results.folder)
    return results.folder


def _report(source: Source, frames: int, totals: Counter[str], times: Counter[str]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in totals.most_common()) or "nothing"
    stages = ", ".join(f"{stage} {milliseconds / max(frames, 1):.1f}" for stage, milliseconds in times.items())
    logger.info("%d frames: %s", frames, counts)
    logger.info("milliseconds a frame: %s", stages)
    for path, reason in source.faults:
        logger.warning("left out: %s", reason if path in reason else f"{path}: {reason}")


@dataclass
class _Results:
    """The files of one run: pictures, one video per input video, labels, detections.json."""

    options: DetectOptions
    make_folder: Callable[[], Path]

    def __post_init__(self) -> None:
        self._folder: Path | None = None
        self._records: list[dict[str, Any]] = []
        self._open = ExitStack()  # the video being written
        self._writer: VideoWriter | None = None

    @property
    def folder(self) -> Path:
        if self._folder is None:  # made with the first result
            self._folder = self.make_folder()
            if self.options.save_txt:
                (self._folder / "labels").mkdir(exist_ok=True)
        return self._folder

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if error[0] is None and self.options.save_json:
            write_atomically(self.folder / "detections.json", json.dumps(self._records, indent=1))

    def write(self, frame: Frame, detections: Detections) -> None:
        """Everything that was asked for, of one frame."""
        folder = self.folder
        if not self.options.nosave:
            self._draw(folder, frame, draw_detections(frame.image, detections, detections.names))
        if self.options.save_txt:
            stem = frame.name if frame.video is None else f"{frame.name}_{frame.index}"
            text = label_text(detections, frame.image.shape[:2], self.options.save_conf)
            write_atomically(folder / "labels" / f"{stem}.txt", text)
        if self.options.save_json:
            self._records.append(_record(frame, detections))

    def _draw(self, folder: Path, frame: Frame, image: np.ndarray) -> None:
        if frame.video is None:
            path = folder / f"{frame.name}{Path(frame.path).suffix if _can_write(frame.path) else '.png'}"
            ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            assert ok, path.suffix
            write_atomically(path, data.tobytes())
            return
        if frame.index == 1 or self._writer is None:
            self._open.close()
            height, width = image.shape[:2]
            writer = open_video_writer(folder / f"{frame.name}.mp4", frame.video.fps, width, height)
            self._writer = self._open.enter_context(writer)
        self._writer.write(image)


def _can_write(path: str) -> bool:
    return Path(path).suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def label_text(detections: Detections, size: tuple[int, ...], with_score: bool) -> str:
    """Lines ``class cx cy w h [score]``, normalised by the native size (height, width), least certain first."""
    height, width = size[:2]
    scale = detections.boxes.new_tensor([width, height, width, height])
    rows = zip(detections.labels.tolist(), (xyxy_to_cxcywh(detections.boxes) / scale).tolist(),
               detections.scores.tolist(), strict=True)
    lines = [" ".join(f"{value:g}" for value in (label, *box, *([score] if with_score else [])))
             for label, box, score in rows]
    return "".join(f"{line}\n" for line in reversed(lines))


def _record(frame: Frame, detections: Detections) -> dict[str, Any]:
    rows = zip(detections.labels.tolist(), detections.scores.tolist(), detections.boxes.tolist(), strict=True)
    found = [
        {"label": label, "name": detections.names[label], "score": round(score, 5), "box": [round(x, 2) for x in box]}
        for label, score, box in rows
    ]
    height, width = frame.image.shape[:2]
    return {"path": frame.path, "frame": frame.index, "width": width, "height": height, "detections": found}
