"""The detection command: source -> frames -> batches -> `Predictor` -> `Result` -> writers.

Reading, network and writing overlap: reading has a thread (a stream has its own), the network has one, and the main
thread writes and shows.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from yolov7.config import write_atomically
from yolov7.data.classes import class_indices
from yolov7.data.frames import Frame
from yolov7.data.prefetch import prefetch
from yolov7.data.sources import Files, open_source
from yolov7.data.streams import StreamError, Streams
from yolov7.inference.display import has_display, show
from yolov7.inference.network import Network
from yolov7.inference.postprocess import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.inference.writers import Result, Write, open_writers
from yolov7.options import DetectOptions

logger = logging.getLogger(__name__)

SHOWN_FAULTS = 10  # the others stand in faults.txt


def detect(options: DetectOptions, network: Network, make_folder: Callable[[], Path]) -> Path:
    """Detect in every picture and frame of ``--source``; returns the folder of the results.

    ``make_folder`` is called with the first result: bad input leaves nothing behind. Ctrl-C, SIGTERM and a stream
    that stays away (`StreamError`) end the run early; what was found until then is kept, and they are raised again.
    """
    names = network.info.names
    classes = None if options.classes is None else class_indices(options.classes, names)
    nms = NMSOptions(options.conf_thres, options.iou_thres, options.max_det, agnostic=options.agnostic_nms,
                     classes=classes)
    predictor = Predictor(network, nms, options.img_size)
    showing = options.view_img and _can_show()
    source = open_source(options.source, options.reconnects)
    results = _results(source, predictor, options)
    early: BaseException | None = None
    with closing(results), closing(source), _Output(options, names, make_folder) as output, _terminable():
        try:
            _write_all(_progress(results, len(source)), output, showing)
        except (KeyboardInterrupt, StreamError) as error:
            early = error
    if early is not None and not output.frames:
        raise early
    folder = output.report(source.faults)
    if isinstance(early, KeyboardInterrupt):
        raise KeyboardInterrupt(f"interrupted after {output.frames} frames; what was found is kept")
    if early is not None:
        raise early
    return folder


def _write_all(results: Iterable[Result], output: _Output, showing: bool) -> None:
    for result in results:
        output.write(result)
        if showing and not show(result):
            return


def _can_show() -> bool:
    if not (found := has_display()):
        logger.warning("--view-img: no window can be opened on this machine; it goes on without")
    return found


def _results(
    source: Files | Streams, predictor: Predictor, options: DetectOptions
) -> Generator[list[Result], None, None]:
    """The results of one batch after the other, made ahead."""
    batches = source.batches(options.batch_size)
    if not source.live:  # a stream has its own readers, and what is read ahead would be old
        batches = prefetch(batches)
    return prefetch(_predict(batches, predictor, options.round_boxes), stop=source.close)


def _predict(
    batches: Generator[list[Frame], None, None], predictor: Predictor, round_boxes: bool
) -> Generator[list[Result], None, None]:
    with closing(batches):
        for frames in batches:
            found, spent = predictor.timed([frame.image for frame in frames])
            if round_boxes:
                found = [replace(detections, boxes=detections.boxes.round()) for detections in found]
            times = {stage: milliseconds / len(frames) for stage, milliseconds in spent.items()}
            yield [Result(frame, detections, times) for frame, detections in zip(frames, found, strict=True)]


def _progress(results: Iterable[list[Result]], total: int) -> Iterator[Result]:
    """The results one by one, under a bar with their pace; messages stand above it."""
    with logging_redirect_tqdm():
        yield from tqdm(chain.from_iterable(results), total=total or None, desc="detect", unit=" frames", leave=False,
                        disable=None)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: with whole files. Python delivers signals to the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Output:
    """The folder and the writers of a run, made with its first result; and the sums of what they wrote."""

    def __init__(self, options: DetectOptions, names: tuple[str, ...], make_folder: Callable[[], Path]) -> None:
        self.frames = 0
        self._options, self._names, self._make_folder = options, names, make_folder
        self._folder: Path | None = None
        self._writers: list[Write] = []
        self._files = ExitStack()
        self._labels: Counter[int] = Counter()
        self._times: Counter[str] = Counter()
        self._started = time.perf_counter()

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def write(self, result: Result) -> None:
        """Everything that was asked for, of one frame."""
        if self._folder is None:
            self._folder = self._make_folder()
            self._writers = open_writers(self._options, self._folder, self._names, self._files)
        for write in self._writers:
            write(result)
        self.frames += 1
        self._labels.update(result.detections.labels.tolist())
        self._times.update(result.milliseconds)

    def report(self, faults: Sequence[str]) -> Path:
        """Log the sums and what could not be read; returns the folder."""
        assert self._folder is not None, "called before the first result"
        seconds = time.perf_counter() - self._started
        counts = ", ".join(f"{count} {self._names[label]}" for label, count in self._labels.most_common())
        stages = ", ".join(f"{stage} {spent / max(self.frames, 1):.1f}" for stage, spent in self._times.items())
        logger.info("%d frames in %.1f s (%.1f a second): %s", self.frames, seconds, self.frames / seconds,
                    counts or "nothing")
        logger.info("milliseconds a frame: %s", stages)
        for fault in faults[:SHOWN_FAULTS]:
            logger.warning("%s", fault)
        if len(faults) > SHOWN_FAULTS:
            write_atomically(self._folder / "faults.txt", "".join(f"{fault}\n" for fault in faults))
            logger.warning("and %d more: %s", len(faults) - SHOWN_FAULTS, self._folder / "faults.txt")
        logger.info("written to %s", self._folder)
        return self._folder
