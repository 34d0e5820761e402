"""What the validation loss, precision, recall and F1 cost of an epoch.

An epoch of BCCD (``train.py --data bccd``, by default yolov7-tiny at 640 px) is trained once, then its averaged weights
are evaluated with and without them, in turn in one run, so that the noise of the machine meets both. With weights that
find nothing there is little to match, so ``--weights`` of a finished run make the costlier case.

Writes ``scripts/results/validation.json``. The last line is the ratio of an epoch with them to one without.
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


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


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
        times: dict[str, list[float]] = {name: [] for name in ways}
        for index in range(rounds + 1):
            for name in (*ways,) if index % 2 else (*reversed(ways),):
                spent = seconds(lambda name=name: ways[name](trainer, network))
                if index:  # the first is a warm-up
                    times[name].append(spent)
    medians = {f"evaluation_{name}": statistics.median(values) for name, values in times.items()}
    whole = {name: epoch + medians[f"evaluation_{name}"] for name in ways}
    return {"data": options.data, "model": trainer.state.model.spec.name, "size": trainer.config.train_size,
            "weights": bool(options.weights), "precision": trainer.config.precision, "images": len(trainer.val_set),
            "rounds": rounds, "training": epoch, **medians, "ratio": whole["with"] / whole["without"]}


def main() -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="bccd")
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--weights", default="")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as project:
        options = TrainOptions(data=arguments.data, weights=arguments.weights, img_size=(arguments.img_size,),
                               epochs=1, project=project)
        found = {"machine": describe_machine(), **measure(options, arguments.rounds)}
    atomic_write(RESULTS, json.dumps(found, indent=1))
    sys.stdout.write("\n".join(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}"
                               for key, value in found.items() if key != "ratio") + "\n")
    sys.stdout.write(f"ratio {found['ratio']:.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
