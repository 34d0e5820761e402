"""``yolov7 detect``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from yolov7.config import InputError
from yolov7.config.options import DetectOptions

if TYPE_CHECKING:
    from yolov7.inference.detect import DetectionRun


def detect(options: DetectOptions) -> DetectionRun:
    """Detect in images, videos, cameras and streams; writes images and videos, and text, JSON, CSV, crops."""
    from yolov7.inference.detect import detect as run_detection
    from yolov7.inference.loading import load_network, usual_device
    from yolov7.runtime import folders
    from yolov7.runtime.device import own_device
    from yolov7.tasks.base import find_task

    if not options.source:
        raise InputError("--source is missing; accepted: an image, video, folder, glob, camera or stream")
    paths = folders.find_weights(options.weights)
    network = load_network(paths, own_device(usual_device(paths, options.device)), options)
    task = find_task(network.info.head)
    after = task.after(options.masks, options.mask_scores)
    new_folder = partial(folders.new_folder, options.project, options.name, options.exist_ok)
    return run_detection(options, network, new_folder, after, task.draw)
