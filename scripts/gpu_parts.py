"""The parts of ``benchmark_gpu.py`` that measure: ``python scripts/gpu_parts.py train 32|64|128``, ``inference``,
``bounded`` or ``profile``. Each row is written as soon as it is there; a row of the same settings is replaced.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_train import Mode, Runner
from machine import describe_machine
from torch.profiler import ProfilerActivity, profile

from yolov7.config import atomic_write
from yolov7.data.synthetic import generate
from yolov7.inference.network import TorchNetwork
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.model.summary import node_costs
from yolov7.structures import Batch, ImageMeta, Targets

RESULTS = Path(__file__).parent / "results"
WARM_UP, STEPS, ROUNDS = 10, 8, 3
BATCHES = 4  # that take turns
MAX_OBJECTS = 24  # of an image, one at least
FORMATS = ("fp16", "bf16")
GIB = 1 << 30
DEVICE = torch.device("cuda:0")
RESUMED = False  # rows that are there are not measured again
# kinds of kernels by their names, the first that fits
KINDS = {
    "norm and activation, fused": r"^_(moments|join|apply|gradient_sums|input_gradient|bias_activation)",
    "batch norm": r"batch_norm|bn_(fw|bw)|batchnorm", "SiLU": r"silu", "max pools": r"max_pool",
    "concatenations": r"CatArray", "optimizer and average": r"multi_tensor_apply|FusedSgd|FusedAdam",
    "copies": r"copy|Memcpy|Memset|transpose", "convolutions":
        r"conv|cutlass|xmma|implicit|wgrad|dgrad|fprop|gemm|nchwToNhwc|sm\d\d",
    "additions": r"add|Add", "other": r"",
}


def keep_row(name: str, row: dict[str, Any], keys: tuple[str, ...], **facts: Any) -> None:
    """Put a row into a file of results, in place of one with the same ``keys``, and print it."""
    path = RESULTS / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if content.get("machine") != machine():
        content = {"machine": machine(), "rows": []}
    content["rows"] = [old for old in content["rows"] if any(old.get(key) != row[key] for key in keys)] + [row]
    atomic_write(path, json.dumps(content | facts, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(row)}\n")
    sys.stdout.flush()


def has_row(name: str, **wanted: Any) -> bool:
    """Whether this machine has measured such a row, where a part goes on."""
    path = RESULTS / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return RESUMED and content.get("machine") == machine() and any(
        all(row.get(key) == value for key, value in wanted.items()) for row in content["rows"])


def machine() -> str:
    """What results belong to."""
    return f"{describe_machine()}, {torch.cuda.get_device_name()}"


def random_batches(size: int, batch: int) -> Iterator[Batch]:
    """Random pictures in pinned memory, 1 to 24 boxes in each."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(BATCHES):
        counts = rng.integers(1, MAX_OBJECTS + 1, batch)
        width = -(-int(counts.max()) // 8) * 8
        valid = torch.from_numpy(np.arange(width) < counts[:, None])
        centre, side = rng.uniform(0, size, (batch, width, 2)), size * np.exp(rng.uniform(-4, -1, (batch, width, 2)))
        boxes = np.concatenate((centre - side / 2, centre + side / 2), axis=-1).clip(0, size).astype(np.float32)
        labels = torch.from_numpy(rng.integers(0, 6, (batch, width)))
        targets = Targets(torch.where(valid[..., None], torch.from_numpy(boxes), 0.0), torch.where(valid, labels, 0),
                          valid, tuple(counts.tolist()))
        images = torch.from_numpy(rng.integers(0, 256, (batch, 3, size, size), dtype=np.uint8))
        made.append(Batch(images, targets, (ImageMeta(""),) * batch).pin_memory())
    return cycle(made)


def product_flops() -> float:
    """FLOP/s of an 8192-cubed product in bfloat16."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 10)
    return 2 * 8192**3 / statistics.median(times)


def step_flops(model: str, size: int) -> float:
    """Of a training step, for each image: forward, and twice that backward."""
    return 3e9 * sum(cost.gflops for cost in node_costs(read_spec(model), size, size, fused=False))


def training_row(model: str, size: int, mode: Mode, data: Path) -> dict[str, Any]:
    """A mode of training: milliseconds of a step, of the host until it is sent off, and memory."""
    runner = Runner(mode, data, model, size, DEVICE, random_batches(size, mode.batch))
    for _ in range(WARM_UP):
        runner.step(next(runner.batches))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(ROUNDS):
        runner.take(STEPS)
    host = []
    for _ in range(STEPS):
        batch = next(runner.batches)
        torch.cuda.synchronize()
        start = time.perf_counter()
        runner.step(batch)
        host.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    seconds = statistics.median(runner.seconds)
    return {"model": model, "size": size, "mode": mode.name, "step_ms": 1e3 * seconds,
            "host_ms": 1e3 * statistics.median(host), "images_per_second": mode.batch / seconds,
            "peak_gib": torch.cuda.max_memory_allocated() / GIB, "reserved_gib": torch.cuda.memory_reserved() / GIB,
            "tflops": step_flops(model, size) * mode.batch / seconds / 1e12}


def train(settings: list[tuple[str, int, Mode]], data: Path) -> None:
    """Measure the modes one after the other; what has no room or cannot run is a row that says so."""
    speed = product_flops()
    best = 0.0
    for model, size, mode in settings:
        if has_row("train-gpu.json", model=model, size=size, mode=mode.name):
            continue
        try:
            row = training_row(model, size, mode, data)
        except RuntimeError as error:  # out of memory is one
            row = {"model": model, "size": size, "mode": mode.name, "images_per_second": 0.0,
                   "error": str(error).splitlines()[0]}
        best = max(best, _best_share("train-gpu.json", speed), row.get("tflops", 0.0) * 1e12 / speed)
        keep_row("train-gpu.json", row, ("model", "size", "mode"), product_flops=speed, share_of_product=best)
        gc.collect()
        torch.cuda.empty_cache()


def _best_share(name: str, speed: float) -> float:
    path = RESULTS / name
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return max((row.get("tflops", 0.0) * 1e12 / speed for row in rows), default=0.0)


def modes(batch: int) -> list[Mode]:
    """Ours as it is, then with all that there is, then one by one; at last the plain loop."""
    ways = ({}, {"fused": True, "graphs": True}, {"fused": True}, {"graphs": True})
    ours = [Mode(precision, batch, **way) for way, precision in product(ways, FORMATS)]
    return [*ours, *([Mode("fp16", batch, plain=True)] if batch == 32 else []),
            *([Mode("bf16", batch, compile=True)] if batch == 32 else [])]


def bounded(data: Path) -> None:
    """Small or deep networks, of which the host decided the pace."""
    train([(model, size, Mode(precision, batch, **way)) for model, size, batch in
           (("yolov7-tiny", 640, 32), ("yolov7-w6", 1280, 8)) for precision in FORMATS
           for way in ({}, {"graphs": True}, {"fused": True, "graphs": True})], data)


def median_ms(work: Callable[[], object], repeats: int = 60) -> float:
    """Of calls that are each waited for."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[repeats // 6 :])


def inference() -> None:
    """yolov7: network with decoding, and from a decoded image of 640 x 480 to boxes; about 300 rows an image."""
    torch.manual_seed(0)
    model = Detector(read_spec("yolov7"), 80).eval()
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for precision, fast in product(FORMATS, (False, True)):
        network = TorchNetwork(model, DEVICE, precision, fast=fast)
        for batch in (1, 32):
            if has_row("infer-gpu.json", precision=precision, fast=fast, batch=batch):
                continue
            images = torch.rand(batch, 3, 640, 640, device=DEVICE).to(memory_format=torch.channels_last)
            objectness = torch.cat([rows.objectness for rows in network(images, 0.0)])
            threshold = float(objectness.topk(300 * batch).values[-1])
            row = {"model": "yolov7", "precision": precision, "fast": fast, "batch": batch,
                   "network_ms": median_ms(lambda: network(images, threshold))}  # noqa: B023  # called at once
            if batch == 1:
                predictor = Predictor(network, NMSOptions(threshold), 640)
                row["end_to_end_ms"] = median_ms(lambda: predictor([image]))  # noqa: B023  # likewise
            keep_row("infer-gpu.json", row, ("model", "precision", "fast", "batch"))


def profile_steps(data: Path) -> None:
    """Milliseconds of a step on the device by kind of kernel: ours as it is, and with all that there is."""
    for mode in (Mode("fp16", 32), Mode("bf16", 32, fused=True, graphs=True), Mode("fp16", 32, fused=True)):
        if has_row("profile-gpu.json", mode=mode.name):
            continue
        runner = Runner(mode, data, "yolov7", 640, DEVICE, random_batches(640, 32))
        for _ in range(WARM_UP):
            runner.step(next(runner.batches))
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(3):
                runner.step(next(runner.batches))
            torch.cuda.synchronize()
        spent, count = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
        for event in profiler.key_averages():
            kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
            spent[kind] += event.self_device_time_total / 3e3
            count[kind] += event.count // 3
        row = {"mode": mode.name, "milliseconds": spent, "kernels": count}
        keep_row("profile-gpu.json", row, ("mode",))
        del runner
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("train", "inference", "bounded", "profile"))
    parser.add_argument("batch", type=int, nargs="?", default=32)
    parser.add_argument("--resume", action="store_true", help="leave out rows that this machine has measured")
    options = parser.parse_args()
    global RESUMED  # noqa: PLW0603  # of this script alone
    RESUMED = options.resume
    logging.getLogger("yolov7").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        generate(data, train=max(2 * options.batch, 64), val=4)
        if options.part == "train":
            train([("yolov7", 640, mode) for mode in modes(options.batch)], data)
        elif options.part == "bounded":
            bounded(data)
        elif options.part == "profile":
            profile_steps(data)
        else:
            inference()


if __name__ == "__main__":
    main()
