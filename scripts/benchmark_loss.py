"""The loss, forward and backward: batched against simple, side by side in one run.

Batch 16, 640 px, 80 classes, 20 and 100 objects an image, P5 and P6 with auxiliary head (1280 px would only make the
dense part larger). The simple form is the oracle of the tests: vectorised inside an image, with the class axis.
Time is the median of alternating runs; memory what torch has allocated at the peak, above predictions and gradients.
On a GPU the share of a training step of yolov7 (batch 32, 640 px) too.

Then the terms of the tasks: their share of the training step of their networks (batch 16, 320 px, 20 objects an image,
both assignments), and the memory that they add to the loss.

Writes ``scripts/results/loss[-gpu].json``. The last line is the ratio of the times, simple over batched, of P5 at 100
objects.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from machine import describe_machine
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "loss"), str(ROOT / "tests")]

from simple_loss import SimpleCriterion  # noqa: E402

from yolov7.config import atomic_write  # noqa: E402
from yolov7.config.recipe import LossConfig  # noqa: E402
from yolov7.loss.blends import BLEND_TERMS  # noqa: E402
from yolov7.loss.criterion import DETECTION_TERMS, Criterion, Losses, total_loss  # noqa: E402
from yolov7.loss.keypoints import KEYPOINT_TERMS  # noqa: E402
from yolov7.loss.masks import MASK_TERMS  # noqa: E402
from yolov7.loss.terms import Term  # noqa: E402
from yolov7.masks import GRID  # noqa: E402
from yolov7.model.detector import Detector  # noqa: E402
from yolov7.model.spec import read_spec  # noqa: E402
from yolov7.structures import HeadOutput, Targets  # noqa: E402

BATCH, SIZE, CLASSES = 16, 640, 80
CASES = {"P5": ("yolov7", (8, 16, 32), False), "P6 auxiliary": ("yolov7-w6", (8, 16, 32, 64), True)}
TASK_SIZE, TASK_OBJECTS = 320, 20
TASKS = {"yolov7-tiny-seg": (80, MASK_TERMS), "yolov7-seg": (80, MASK_TERMS), "yolov7-tiny-pose": (1, KEYPOINT_TERMS),
         "yolov7-w6-pose": (1, KEYPOINT_TERMS), "yolov7-tiny-mask": (80, BLEND_TERMS),
         "yolov7-mask": (80, BLEND_TERMS)}  # classes and terms
Loss = Callable[[HeadOutput, Targets], Losses]


def make_output(strides: tuple[int, ...], auxiliary: bool, device: str) -> HeadOutput:
    """Random logits in the memory layout of a network in channels_last."""
    heads = []
    for _ in range(1 + auxiliary):
        levels = (torch.randn(BATCH, SIZE // s, SIZE // s, 3, 5 + CLASSES, device=device) for s in strides)
        heads.append(HeadOutput(tuple(level.permute(0, 3, 1, 2, 4).requires_grad_() for level in levels)))
    return HeadOutput(heads[0].levels, tuple(heads[1:]))


def make_targets(objects: int) -> Targets:
    """Objects of all sizes, the small ones most frequent."""
    generator = torch.Generator().manual_seed(0)
    width = -(-objects // 8) * 8
    centre = torch.rand(BATCH, width, 2, generator=generator) * SIZE
    side = 8 * torch.exp(torch.rand(BATCH, width, 2, generator=generator) * 3.5)
    boxes = torch.cat(((centre - side / 2).clamp(min=0), (centre + side / 2).clamp(max=SIZE)), dim=-1)
    valid = (torch.arange(width) < objects).expand(BATCH, -1)
    labels = torch.randint(CLASSES, (BATCH, width), generator=generator)
    boxes, labels = torch.where(valid[..., None], boxes, 0.0), torch.where(valid, labels, 0)
    return Targets(boxes, labels, valid.contiguous(), (objects,) * BATCH)  # the loss moves them itself


def make_loss(kind: str, case: str, device: str) -> Loss:
    """The batched or the simple criterion for a model's anchors."""
    model, strides, _ = CASES[case]
    anchors = torch.tensor(read_spec(model).head.anchors, device=device)
    if kind == "simple":
        simple = SimpleCriterion(LossConfig(), anchors, strides)  # wants its targets where the predictions are
        return lambda output, targets: simple(output, targets.map(lambda table: table.to(device)))
    return Criterion(LossConfig(), anchors, strides, CLASSES)


def step(loss: Loss, output: HeadOutput, targets: Targets) -> None:
    """Forward and backward, gradients thrown away."""
    levels = [level for head in (output, *output.auxiliary) for level in head.levels]
    torch.autograd.grad(total_loss(loss(output, targets)), levels)


def seconds(kinds: tuple[str, ...], case: str, objects: int, device: str, repeats: int) -> dict[str, list[float]]:
    """Times of the kinds in turn, so that noise of the machine meets all of them."""
    output, targets = make_output(*CASES[case][1:], device), make_targets(objects)
    losses = {kind: make_loss(kind, case, device) for kind in kinds}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for repeat in range(repeats + 1):
        for kind, loss in losses.items():
            started = time.perf_counter()
            step(loss, output, targets)
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat:  # the first is a warm-up
                found[kind].append(time.perf_counter() - started)
    return found


def peak_memory(kind: str, case: str, objects: int, device: str) -> int:
    """Bytes that torch has allocated above predictions and gradients at the peak of one step."""
    output, targets = make_output(*CASES[case][1:], device), make_targets(objects)
    loss = make_loss(kind, case, device)
    levels = [level for head in (output, *output.auxiliary) for level in head.levels]
    gradients = sum(level.numel() * level.element_size() for level in levels)
    step(loss, output, targets)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, output, targets)
        return torch.cuda.max_memory_allocated() - before - gradients
    return peak_on_cpu(lambda: step(loss, output, targets)) - gradients


def peak_on_cpu(work: Callable[[], None]) -> int:
    """Bytes that torch has allocated at the peak of some work, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


def share_of_training_step(device: str) -> float:
    """Loss over the whole step of yolov7, batch 32, 640 px, 20 objects, bf16 autocast."""
    model = Detector(read_spec("yolov7"), CLASSES).to(device, memory_format=torch.channels_last).train()
    images = torch.rand(32, 3, SIZE, SIZE, device=device).to(memory_format=torch.channels_last)
    one = make_targets(20)
    targets = Targets(*(torch.cat((t, t)) for t in (one.boxes, one.labels, one.valid)), one.counts * 2)
    criterion = Criterion(LossConfig(), model.head.anchors, model.head.strides, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run(with_loss: bool) -> float:
        times = []
        for _ in range(13):
            torch.cuda.synchronize()
            started = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                output = model(images)
            total = total_loss(criterion(output, targets)) if with_loss else sum(
                level.float().mean() for level in output.levels)
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[3:])

    whole = run(True)
    return (whole - run(False)) / whole


def make_task_targets(classes: int, points: int) -> Targets:
    """Objects of 8 to 265 px with masks that fill their boxes at random, and points inside of them."""
    generator = torch.Generator().manual_seed(0)
    width = -(-TASK_OBJECTS // 8) * 8
    centre = torch.rand(BATCH, width, 2, generator=generator) * TASK_SIZE
    side = 8 * torch.exp(torch.rand(BATCH, width, 2, generator=generator) * 3.5)
    boxes = torch.cat(((centre - side / 2).clamp(min=0), (centre + side / 2).clamp(max=TASK_SIZE)), dim=-1)
    valid = (torch.arange(width) < TASK_OBJECTS).repeat(BATCH, 1)
    labels = torch.randint(classes, (BATCH, width), generator=generator)
    places = torch.rand(BATCH, width, points, 2, generator=generator)
    points_of = boxes[:, :, None, :2] + places * (boxes[..., 2:] - boxes[..., :2])[:, :, None]
    visible = torch.randint(3, (BATCH, width, points, 1), generator=generator)
    masks = torch.randint(TASK_OBJECTS + 1, (BATCH, TASK_SIZE // 4, TASK_SIZE // 4), generator=generator)
    grids = torch.randint(256, (BATCH, width, GRID * GRID // 8), generator=generator, dtype=torch.uint8)
    return Targets(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, labels, 0), valid,
                   (TASK_OBJECTS,) * BATCH, {"keypoints": torch.cat((points_of, visible), dim=-1), "grids": grids},
                   {"masks": masks.int(), "semantic": masks.clamp(max=1).to(torch.int8)})


def task_share(name: str, device: str, repeats: int) -> list[dict[str, object]]:
    """Share of a task's terms of the training step of its network, for both assignments, and the memory they add.

    The losses are timed on the network's own output, by themselves; the rest of a step is a forward and backward pass
    through the network, without an optimizer.
    """
    classes, terms = TASKS[name]
    model = Detector(read_spec(name), classes).to(device).train()
    images = torch.rand(BATCH, 3, TASK_SIZE, TASK_SIZE, device=device)
    targets = make_task_targets(classes, model.head.channels.widths.get("keypoints", 3) // 3)
    synchronise = torch.cuda.synchronize if device != "cpu" else lambda: None

    def timed(work: Callable[[], object]) -> float:
        found = []
        for _ in range(repeats + 1):
            synchronise()
            started = time.perf_counter()
            work()
            synchronise()
            found.append(time.perf_counter() - started)
        return statistics.median(found[1:])

    def run_network() -> None:
        output = model(images)
        leaves = [*(level for head in (output, *output.auxiliary) for level in head.levels), *output.maps.values()]
        torch.autograd.backward(leaves, [torch.ones_like(leaf) for leaf in leaves])
        model.zero_grad(set_to_none=True)

    network = timed(run_network)
    with torch.no_grad():
        output = detached(model(images))
    rows = []
    for assignment in ("plain", "simOTA"):
        steps = {kind: task_step(model, output, targets, own, assignment == "simOTA")
                 for kind, own in (("task", terms), ("detector", DETECTION_TERMS))}
        seconds_of = {kind: timed(work) for kind, work in steps.items()}
        added = seconds_of["task"] - seconds_of["detector"]
        row: dict[str, object] = {"network": name, "assignment": assignment, "network_ms": 1e3 * network,
                                  "terms_ms": 1e3 * added, "share": added / (network + seconds_of["task"])}
        if device == "cpu":
            row["MiB"] = (peak_on_cpu(steps["task"]) - peak_on_cpu(steps["detector"])) / 2**20
        rows.append(row)
    return rows


def detached(output: HeadOutput) -> HeadOutput:
    """The same output as the start of a graph."""
    heads = [HeadOutput(tuple(level.detach().requires_grad_() for level in head.levels))
             for head in (output, *output.auxiliary)]
    maps = {name: value.detach().requires_grad_() for name, value in output.maps.items()}
    return dataclasses.replace(heads[0], auxiliary=tuple(heads[1:]), maps=maps)


def task_step(model: Detector, output: HeadOutput, targets: Targets, terms: tuple[Term, ...],
              ota: bool) -> Callable[[], None]:
    """Forward and backward of a loss with these terms."""
    head = model.head
    criterion = Criterion(LossConfig(loss_ota=ota), head.anchors, head.strides, model.num_classes, terms=terms,
                          channels=head.channels)
    leaves = [*(level for own in (output, *output.auxiliary) for level in own.levels), *output.maps.values()]
    return lambda: step_through(criterion, output, targets, leaves)


def step_through(criterion: Criterion, output: HeadOutput, targets: Targets, leaves: list[torch.Tensor]) -> None:
    """Forward and backward, gradients thrown away."""
    torch.autograd.grad(total_loss(criterion(output, targets)), leaves, allow_unused=True)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="*", choices=TASKS, default=list(TASKS), help="whose task terms to measure")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        for objects in (20, 100):
            times = seconds(("batched", "simple"), case, objects, options.device, options.repeats)
            row = {"case": case, "objects": objects}
            for kind, found in times.items():
                row[f"{kind}_ms"] = 1e3 * statistics.median(found)
                row[f"{kind}_MiB"] = peak_memory(kind, case, objects, options.device) / 2**20
            row["time_ratio"] = row["simple_ms"] / row["batched_ms"]
            row["memory_ratio"] = row["batched_MiB"] / row["simple_MiB"]
            rows.append(row)
            sys.stdout.write(f"{case:13} {objects:4} objects: batched {row['batched_ms']:7.1f} ms, simple "
                             f"{row['simple_ms']:7.1f} ms, {row['time_ratio']:.2f} times faster; memory "
                             f"{row['batched_MiB']:.0f} against {row['simple_MiB']:.0f} MiB\n")
    content = {"machine": describe_machine(), "rows": rows, "tasks": []}
    for name in options.networks:
        for task_row in task_share(name, options.device, options.repeats):
            content["tasks"].append(task_row)
            sys.stdout.write("{network:17} {assignment:6}: {terms_ms:6.1f} ms of {network_ms:8.1f} ms and the loss: "
                             "{share:.1%}".format(**task_row) + (f", {task_row['MiB']:.0f} MiB\n" if "MiB" in task_row
                                                                 else "\n"))
    if options.device != "cpu":
        content["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        content["share_of_training_step"] = share_of_training_step(options.device)
        sys.stdout.write(f"share of the training step: {content['share_of_training_step']:.3f}\n")
    name = "loss.json" if options.device == "cpu" else "loss-gpu.json"
    (Path(__file__).parent / "results").mkdir(exist_ok=True)
    atomic_write(Path(__file__).parent / "results" / name, json.dumps(content, indent=1) + "\n")
    ratio = next(row["time_ratio"] for row in rows if row["case"] == "P5" and row["objects"] == 100)
    sys.stdout.write(f"ratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
