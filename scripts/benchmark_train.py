"""A training step: ours against a plain loop, side by side in one run, with the share of each of its stages.

The plain loop is what one writes first: assigner image by image, average tensor by tensor, memory in the order of
the images (no channels_last), an optimizer without one kernel for all. yolov7-tiny at 320 px, batch 16; batches come
from the loader, from images that are made for it. Modes run in turn, so that the noise of the machine meets all of
them; figures are medians. Shares come from passes of their own, in which every stage is waited for. On a GPU:
``benchmark_gpu.py``.

Writes ``scripts/results/train.json``. The last line is the ratio of the main comparison: the time of a step of the
plain loop in fp32 over that of ours in the precision of ``--precision auto`` (the file has that to ours in fp32, too).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "loss"), str(ROOT / "tests")]

from simple_loss import SimpleCriterion  # noqa: E402

from yolov7.config import atomic_write  # noqa: E402
from yolov7.data.synthetic import generate  # noqa: E402
from yolov7.engine import run  # noqa: E402
from yolov7.engine.optim import parameter_groups  # noqa: E402
from yolov7.engine.run_config import TrainOptions  # noqa: E402
from yolov7.engine.trainer import Trainer  # noqa: E402
from yolov7.loss.criterion import total_loss  # noqa: E402
from yolov7.runtime.distributed import Processes  # noqa: E402
from yolov7.runtime.memory import needed_memory  # noqa: E402
from yolov7.runtime.precision import autocast, choose_precision, gradient_scaler  # noqa: E402
from yolov7.structures import Batch, HeadOutput, Targets  # noqa: E402

STAGES = ("data", "forward", "loss", "backward", "optimizer", "average")
DECAY = 0.9999


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way to train."""

    precision: str
    batch: int
    compile: bool = False
    plain: bool = False
    fused: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        ways = {"compiled": self.compile, "fused": self.fused, "graphs": self.graphs}
        extra = [name for name, used in ways.items() if used]
        return " ".join(["plain" if self.plain else "ours", self.precision, *extra, str(self.batch)])


def _moved(targets: Targets, device: torch.device) -> Targets:
    return dataclasses.replace(targets, boxes=targets.boxes.to(device), labels=targets.labels.to(device),
                   valid=targets.valid.to(device))


class Runner:
    """A mode with everything that it needs, and the times of its steps; batches are the loader's unless given."""

    def __init__(self, mode: Mode, data: Path, model: str, size: int, device: torch.device,  # noqa: PLR0913, PLR0917
                 batches: Iterator[Batch] | None = None) -> None:
        options = TrainOptions(data=str(data), cfg=model, img_size=(size,), batch_size=mode.batch,
                               nominal_batch=mode.batch, epochs=1, device=str(device), precision=mode.precision,
                               compile=mode.compile, fused_norm=mode.fused, cuda_graphs=mode.graphs, dry_run=True)
        self.mode, self.device = mode, device
        self.trainer: Trainer = run.build_trainer(options, device, Processes(), ExitStack())
        self.batches = batches or self._endless()
        self.step = self._plain_step() if mode.plain else self._our_step()
        self.seconds: list[float] = []

    def _endless(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            self.trainer.sampler.set_epoch(epoch)
            yield from (batch for batch in self.trainer.loader if len(batch.images) == self.mode.batch)

    def _our_step(self) -> Callable[[Batch], None]:
        trainer = self.trainer
        trainer.state.model.train()

        def step(batch: Batch) -> None:
            trainer.step.backward(batch, (0, 0, 0), len(batch.images), last=True)
            trainer.step.update()

        return step

    def _plain_step(self) -> Callable[[Batch], None]:
        trainer, device = self.trainer, self.device
        model = trainer.state.model.to(memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
        average, head = copy.deepcopy(model).eval(), model.head
        norms, weights, biases = parameter_groups(model)
        groups = [{"params": norms}, {"params": weights, "weight_decay": 5e-4}, {"params": biases}]
        optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.937, nesterov=True)
        scaler = gradient_scaler(self.mode.precision, device)
        criterion = SimpleCriterion(trainer.make_criterion(Processes()).config, head.anchors, head.strides)

        def step(batch: Batch) -> None:
            images = batch.images.to(device, non_blocking=True).contiguous().float() / 255
            with autocast(self.mode.precision, device):
                levels = tuple(level.float() for level in model(images).levels)
            loss = total_loss(criterion(HeadOutput(levels), _moved(batch.targets, device))) * len(images)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            with torch.no_grad():
                own = model.state_dict()
                for key, value in average.state_dict().items():
                    if value.is_floating_point():
                        value.mul_(DECAY).add_(own[key], alpha=1 - DECAY)

        return step

    def take(self, steps: int) -> None:
        """Time so many steps with their data as one, after one that is not timed: a device runs behind the host."""
        self.step(next(self.batches))
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step(next(self.batches))
        self._wait()
        self.seconds.append((time.perf_counter() - start) / steps)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> float:
        """MiB that a step takes at its worst moment, above what is there before and after."""
        batch = next(self.batches)
        return needed_memory(lambda: self.step(batch), self.device) / 2**20

    def shares(self, steps: int) -> dict[str, float]:
        """Share of each stage of ours in a step, from steps of which every stage is waited for."""
        spent = dict.fromkeys(STAGES, 0.0)
        step, criterion = self.trainer.step, self.trainer.step.criterion
        kept = (step.network, step.loss, criterion.prepare, step.update, step.state.ema.update)
        step.network = self._timed("forward", spent, step.network)  # type: ignore[assignment]
        step.loss = self._timed("loss", spent, step.loss)
        criterion.prepare = self._timed("loss", spent, criterion.prepare)  # type: ignore[method-assign]
        step.update = self._timed("optimizer", spent, step.update)  # type: ignore[method-assign]
        step.state.ema.update = self._timed("average", spent, step.state.ema.update)  # type: ignore[method-assign]
        start = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            spent["data"] += time.perf_counter() - asked
            self.step(batch)
            self._wait()
        total = time.perf_counter() - start
        step.network, step.loss, criterion.prepare, step.update, step.state.ema.update = kept  # type: ignore[method-assign]
        spent["optimizer"] -= spent["average"]
        spent["backward"] = total - sum(spent.values())
        return {stage: seconds / total for stage, seconds in spent.items()}

    def _timed(self, stage: str, spent: dict[str, float], work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            result = work(*arguments, **named)
            self._wait()
            spent[stage] += time.perf_counter() - start
            return result

        return timed


def measure(modes: list[Mode], data: Path, model: str, size: int, device: torch.device,
            options: argparse.Namespace) -> list[dict[str, Any]]:
    """The modes in turn, several rounds."""
    runners = [Runner(mode, data, model, size, device) for mode in modes]
    for runner in runners:
        runner.step(next(runner.batches))  # compiles
    for _ in range(options.rounds):
        for runner in runners:
            runner.take(options.steps)
    rows = []
    for runner in runners:
        seconds = statistics.median(runner.seconds)
        shares = None if runner.mode.plain else runner.shares(options.steps)
        rows.append({"mode": runner.mode.name, "step_seconds": seconds, "step_memory_mib": runner.memory(),
                     "images_per_second": runner.mode.batch / seconds, "shares": shares})
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
    return rows


def on_cpu(data: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], float, dict[str, Any]]:
    """Rows, and how many times faster ``--precision auto`` is than the plain loop in fp32."""
    device = torch.device("cpu")
    best = choose_precision("auto", device)
    modes = [Mode("fp32", 16, plain=True), Mode("fp32", 16), Mode(best, 16)]
    if options.compile:
        modes.append(Mode(best, 16, compile=True))
    rows = measure(modes, data, "yolov7-tiny", 320, device, options)
    plain, ours, half = (row["step_seconds"] for row in rows[:3])
    return rows, plain / half, {"model": "yolov7-tiny", "size": 320, "ratio_to_ours_in_fp32": ours / half}


def main() -> None:
    """Measure, write the file, print the rows and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        generate(data, train=128, val=4)
        rows, ratio, facts = on_cpu(data, options)
    content = {"machine": describe_machine(), **facts, "rows": rows, "ratio": ratio}
    atomic_write(ROOT / "scripts" / "results" / "train.json", json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(facts)}\nratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
