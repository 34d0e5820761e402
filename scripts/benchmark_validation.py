"""What the validation loss, precision, recall and F1 cost of an epoch.

An epoch of BCCD (``train.py --data bccd``, by default yolov7-tiny at 640 px) is trained once, then its averaged weights
are evaluated with and without them, in turn in one run, so that the noise of the machine meets both. After one epoch
every image has 300 detections above the score's threshold, the most that there can be to match. Beside the time stands
the processor's time of the training process, which other programs on the machine do not lengthen.

Writes ``scripts/results/validation.json``. The last line is the ratio of an epoch with them to one without, in time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from machine import describe_machine

from yolov7.config import atomic_write
from yolov7.engine import run
from yolov7.engine.run_config import TrainOptions
from yolov7.engine.trainer import Trainer
from yolov7.evaluation.coco import CocoBoxes
from yolov7.evaluation.evaluate import box_evaluators, evaluate
from yolov7.inference.network import TorchNetwork
from yolov7.runtime.distributed import Processes

RESULTS = Path(__file__).parent / "results" / "validation.json"


CLOCKS = {"": time.perf_counter, "processor_": time.process_time}


def seconds(work: Callable[[], Any]) -> dict[str, float]:
    """Of one call, by each clock."""
    started = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - started[name] for name, clock in CLOCKS.items()}


def without(trainer: Trainer, network: TorchNetwork) -> None:
    """The official score alone, as before."""
    evaluate(network, trainer.val_loader, trainer.val_set, evaluators=[CocoBoxes()])


def with_both(trainer: Trainer, network: TorchNetwork) -> None:
    """What an epoch ends with now."""
    loss = trainer.make_validation_loss()
    evaluate(network, trainer.val_loader, trainer.val_set, evaluators=box_evaluators(trainer.val_set, complete=False),
             watch=loss.add)
    loss.result(Processes())


def measure(options: TrainOptions, rounds: int) -> dict[str, Any]:
    """Medians in seconds."""
    with ExitStack() as held:
        trainer = run.build_trainer(options, held=held)
        epoch = seconds(trainer.train_epoch)
        network = TorchNetwork(trainer.state.ema.model, trainer.device, trainer.config.precision)
        ways: dict[str, Callable[[Trainer, TorchNetwork], None]] = {"without": without, "with": with_both}
        times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for index in range(rounds + 1):
            for name in ways if index % 2 else reversed(ways):
                spent = seconds(partial(ways[name], trainer, network))
                times[name] += [spent] if index else []  # the first is a warm-up
    found: dict[str, Any] = {
        "data": options.data, "model": trainer.state.model.spec.name, "size": trainer.config.train_size,
        "precision": trainer.config.precision, "images": len(trainer.val_set), "rounds": rounds}
    for clock in CLOCKS:
        medians = {name: statistics.median(spent[clock] for spent in values) for name, values in times.items()}
        found |= {f"{clock}training": epoch[clock],
                  **{f"{clock}evaluation_{name}": value for name, value in medians.items()},
                  f"{clock}ratio": (epoch[clock] + medians["with"]) / (epoch[clock] + medians["without"])}
    return found


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="bccd")
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as project:
        options = TrainOptions(data=arguments.data, img_size=(arguments.img_size,),
                               epochs=1, project=project)
        found = {"machine": describe_machine(), **measure(options, arguments.rounds)}
    atomic_write(RESULTS, json.dumps(found, indent=1))
    sys.stdout.write("\n".join(f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}"
                               for key, value in found.items()) + "\n")
    sys.stdout.write(f"ratio {found['ratio']:.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
