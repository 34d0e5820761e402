"""A predictor over a split, image by image: what is not done in batches of the network's own size, such as tiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from yolov7.config import InputError
from yolov7.data.image_set import ImageSet
from yolov7.data.images import load_image
from yolov7.evaluation.evaluate import SAMPLES, Evaluation, Evaluator, StageTimes, _gathered, _labels_of_split
from yolov7.inference.predictor import ImagePredictor
from yolov7.runtime.distributed import Processes
from yolov7.runtime.progress import Progress
from yolov7.structures import Instances


def evaluate_images(predictor: ImagePredictor, image_set: ImageSet, evaluators: Sequence[Evaluator],
                    classes: tuple[int, ...] | None = None,
                    processes: Processes = Processes()) -> Evaluation:  # noqa: B008  # frozen
    """As `evaluate`, with a predictor in place of network and batches; class ``i`` of the split is ``classes[i]``."""
    own, samples, left_out, times = list(evaluators), list[tuple[str, Instances]](), list[str](), StageTimes()
    indices = range(processes.rank, len(image_set), processes.world_size)
    for index in Progress(indices, "evaluate", unit="images", silent=not processes.is_main):
        path, started = image_set.paths[index], time.perf_counter()
        try:
            image = load_image(path)
        except InputError as error:
            left_out.append(str(error))
            continue
        times.add("data", 1000 * (time.perf_counter() - started), 1)
        (found,), spent = predictor.timed([image])
        for stage, milliseconds in spent.items():
            times.add(stage, milliseconds, 1)
        native = replace(found, labels=_labels_of_split(found.labels, classes), names=image_set.names)
        for evaluator in own:
            evaluator.add(native, image_set, index)
        if len(samples) < SAMPLES:
            samples.append((path, native))
    unread = processes.broadcast_object(sum(processes.gather_object(left_out), []))
    return Evaluation(_gathered(own, image_set, processes), tuple(samples), times, tuple(unread), image_set.names)
