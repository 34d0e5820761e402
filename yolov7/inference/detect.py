"""The detection command: a source of frames -> network -> files; each of the three runs in a thread of its own."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from yolov7.config import InputError, atomic_write
from yolov7.config.options import DetectOptions
from yolov7.data.image_set import class_indices
from yolov7.data.images import cv2
from yolov7.data.sources import Files, open_source
from yolov7.data.streams import StreamError, Streams
from yolov7.data.video import Frame
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.network import Network
from yolov7.inference.nms import After, NMSOptions
from yolov7.inference.predictor import ImagePredictor, Predictor
from yolov7.inference.tiles import TiledPredictor, Tiling
from yolov7.inference.tracking import LOW, TrackOptions, TrackOverlay, Tracks
from yolov7.inference.writers import Result, Write, open_writers
from yolov7.model.heads.base import find_head
from yolov7.runtime.progress import Progress
from yolov7.structures import Instances

logger = logging.getLogger(__name__)

T = TypeVar("T")
SHOWN_FAULTS = 10  # the others stand in faults.txt
POLL = 0.2  # seconds


@dataclass(frozen=True)
class DetectionRun:
    """What was detected, in sums; the detections stand in the files of the folder."""

    folder: Path
    frames: int
    counts: dict[str, int]  # detections by class, the most frequent first
    seconds: float
    milliseconds: dict[str, float]  # of a frame, by stage
    faults: tuple[str, ...]  # what could not be read


def detect(options: DetectOptions, network: Network, make_folder: Callable[[], Path], after: After = After(),  # noqa: B008  # frozen
           overlay: Overlay = draw_instances) -> DetectionRun:
    """Detect in every image and frame of ``--source``.

    ``make_folder`` is called with the first result: bad input leaves nothing behind. ``after`` and ``overlay`` are
    the task's. Ctrl-C, SIGTERM and a stream that stays away (`StreamError`) end the run early; what was found until
    then is kept, and they are raised again.
    """
    _check_crops(options, network)
    names = network.info.names
    classes = None if options.classes is None else class_indices(options.classes, names)
    if options.save_mot and not options.track:
        raise InputError("--save-mot: writes the numbers of objects, which --track gives them; accepted with --track")
    tracks = Tracks(TrackOptions(options.track, options.conf_thres, options.track_buffer)) if options.track else None
    confidence = min(options.conf_thres, LOW) if tracks else options.conf_thres
    nms = NMSOptions(confidence, options.iou_thres, options.max_det, agnostic=options.agnostic_nms, classes=classes)
    whole = Predictor(network, nms, options.img_size, after)
    predictor = TiledPredictor(whole, Tiling(options.tile, options.overlap)) if options.tile else whole
    showing = options.view_img and has_display()
    if options.view_img and not showing:
        logger.warning("--view-img: no window can be opened on this machine; it goes on without")
    source = open_source(options.source, options.reconnects)
    results = _results(source, predictor, options, overlay, tracks)
    early: BaseException | None = None
    with closing(results), closing(source), ExitStack() as files, _terminable():
        output = _Output(options, names, make_folder, files)
        try:
            _write_all(results, len(source), output, showing)
        except (KeyboardInterrupt, StreamError) as error:
            early = error
    if early is not None and not output.frames:
        raise early
    run = output.report(source.faults)
    if isinstance(early, KeyboardInterrupt):
        raise KeyboardInterrupt(f"interrupted after {output.frames} frames; what was found is kept")
    if early is not None:
        raise early
    return run


def _check_crops(options: DetectOptions, network: Network) -> None:
    if options.crop_masks and not options.save_crop:
        raise InputError("--crop-masks: says how crops are cut out; accepted with --save-crop")
    if options.crop_masks and not find_head(network.info.head, "--weights").has_masks:
        raise InputError(f"--crop-masks: cuts objects out by their masks, and a model with the head "
                         f"{network.info.head} finds none; accepted with a model of instance segmentation")


def _results(source: Files | Streams, predictor: ImagePredictor, options: DetectOptions,
             overlay: Overlay, tracks: Tracks | None) -> Generator[list[Result], None, None]:
    """The results of one batch after the other, made ahead."""
    batches = source.batches(options.batch_size)
    if not source.live:  # a stream has its own readers, and what is read ahead would be old
        batches = prefetch(batches)
    return prefetch(_predict(batches, predictor, options.round_boxes, overlay, tracks), stop=source.close)


def _predict(batches: Generator[list[Frame], None, None], predictor: ImagePredictor, round_boxes: bool,
             overlay: Overlay, tracks: Tracks | None) -> Generator[list[Result], None, None]:
    with closing(batches):
        for frames in batches:
            found, spent = predictor.timed([frame.image for frame in frames])
            if round_boxes:
                found = [replace(instances, boxes=instances.boxes.round()) for instances in found]
            times = {stage: milliseconds / len(frames) for stage, milliseconds in spent.items()}
            pairs = list(zip(frames, found, strict=True))
            if tracks is None:
                yield [Result(frame, instances, times, overlay) for frame, instances in pairs]
            else:
                yield [_followed(frame, instances, times, overlay, tracks) for frame, instances in pairs]


def _followed(frame: Frame, found: Instances, times: dict[str, float], overlay: Overlay, tracks: Tracks) -> Result:
    """A result whose objects have their numbers, and tails."""
    started = time.perf_counter()
    instances = tracks.update(frame, found)
    spent = {"tracking": 1000 * (time.perf_counter() - started)}
    return Result(frame, instances, {**times, **spent}, TrackOverlay(overlay, tracks.tails(frame)))


def _write_all(results: Iterable[list[Result]], total: int, output: _Output, showing: bool) -> None:
    """Write the results one by one, under a bar with their pace."""
    with Progress(chain.from_iterable(results), "detect", total or None, unit="frames") as progress:
        for result in progress:
            output.write(result)
            if showing and not show(result):
                return


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: with whole files. Python delivers signals to the main thread only."""
    with ExitStack() as after:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            after.callback(signal.signal, signal.SIGTERM, before)
        yield


class _Output:
    """The folder and the writers of a run, made with its first result; and the sums of what they wrote."""

    def __init__(self, options: DetectOptions, names: tuple[str, ...], make_folder: Callable[[], Path],
                 files: ExitStack) -> None:
        self.frames = 0
        self._options, self._names, self._make_folder, self._files = options, names, make_folder, files
        self._folder: Path | None = None
        self._writers: list[Write] = []
        self._labels: Counter[int] = Counter()
        self._times: Counter[str] = Counter()
        self._started = time.perf_counter()

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

    def report(self, faults: Sequence[str]) -> DetectionRun:
        """Log the sums and what could not be read."""
        assert self._folder is not None, "called before the first result"
        seconds = time.perf_counter() - self._started
        found = {self._names[label]: count for label, count in self._labels.most_common()}
        means = {stage: spent / max(self.frames, 1) for stage, spent in self._times.items()}
        logger.info("%d frames in %.1f s (%.1f a second): %s", self.frames, seconds, self.frames / seconds,
                    ", ".join(f"{count} {name}" for name, count in found.items()) or "nothing")
        logger.info("milliseconds a frame: %s", ", ".join(f"{stage} {mean:.1f}" for stage, mean in means.items()))
        for fault in faults[:SHOWN_FAULTS]:
            logger.warning("%s", fault)
        if len(faults) > SHOWN_FAULTS:
            atomic_write(self._folder / "faults.txt", "".join(f"{fault}\n" for fault in faults))
            logger.warning("and %d more: %s", len(faults) - SHOWN_FAULTS, self._folder / "faults.txt")
        logger.info("written to %s", self._folder)
        return DetectionRun(self._folder, self.frames, found, seconds, means, tuple(faults))


# --- items made ahead ------------------------------------------------------------------------------------------


def prefetch(items: Generator[T, None, None], depth: int = 2,
             stop: Callable[[], None] = lambda: None) -> Generator[T, None, None]:
    """The items in their order, made in a thread of their own that is at most ``depth`` of them ahead.

    An error in that thread is raised here. Closing this generator closes ``items`` after the one that is being made;
    ``stop`` is called first, for items that may be long in coming.
    """
    end: Any = object()
    with closing(items), ThreadPoolExecutor(1) as maker:
        ahead = deque(maker.submit(next, items, end) for _ in range(depth + 1))  # one of them in the maker's hand
        try:
            while (item := _result_of(ahead.popleft())) is not end:
                ahead.append(maker.submit(next, items, end))
                yield item
                del item  # not kept while the next one is waited for
        finally:
            stop()
            maker.shutdown(cancel_futures=True)


def _result_of(future: Future[T]) -> T:
    while not wait([future], POLL).done:  # without a time limit, Ctrl-C would have to wait on some systems
        pass
    return future.result()


# --- the window ------------------------------------------------------------------------------------------------


def has_display() -> bool:
    """Whether a window can be opened; tried in a process of its own, as some libraries end theirs where it cannot."""
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def show(result: Result) -> bool:
    """Show a frame in the window of its file or stream; whether the run goes on (q and Escape end it)."""
    title = result.frame.name if result.frame.video else "images"
    cv2.imshow(title, cv2.cvtColor(result.drawn, cv2.COLOR_RGB2BGR))
    return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)  # 27: Escape
