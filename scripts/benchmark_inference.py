"""What a picture costs: every paper model and format, one picture and eight, one thread and two; and AP over time.

On the CPU: PyTorch as it was trained (unfused, float32), re-parameterized in float32 and in bfloat16 (where it is
native), TorchScript, ONNX Runtime and OpenVINO. "Network" is what gives boxes and scores of a batch in memory; "end to
end" is from the JPEG file to the detections. Settings run in turn, so that the noise of the machine meets all of them.

Writes ``scripts/results/inference.json`` and ``inference.png``. The last line is the ratio of the main comparison: the
first model, one picture, all threads: the unfused network's median over the best setting's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import Tensor

from yolov7.config import write_atomically
from yolov7.data.images import load_image
from yolov7.evaluation.plots import plot_study
from yolov7.export.suppression import Thresholds
from yolov7.export.writers import WRITERS, Request
from yolov7.inference.exported import ExportFacts
from yolov7.inference.network import Network, TorchNetwork, network_input
from yolov7.inference.predictor import Predictor
from yolov7.inference.runtimes import OPENERS
from yolov7.model.anchors import Predictions
from yolov7.model.detector import Detector
from yolov7.model.precision import is_native
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import read_spec
from yolov7.model.weights import ModelInfo

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[2] / "shared" / "data" / "coco-mini" / "images" / "val2017"
MODELS = {  # AP on val2017 as the paper states it; of yolov7-tiny at 416 px
    "yolov7-tiny": 35.2, "yolov7-tiny-silu": 38.7, "yolov7": 51.2, "yolov7x": 52.9, "yolov7-w6": 54.6,
    "yolov7-e6": 55.9, "yolov7-d6": 56.3, "yolov7-e6e": 56.8}
CPU = torch.device("cpu")
UNFUSED, LEAST_RUNS = "unfused fp32", 3


class Unfused:
    """The model as it was trained, with everything decoded: what one writes first."""

    device, shape = CPU, None

    def __init__(self, model: Detector) -> None:
        self.model, self.stride = model.eval(), model.stride
        self.info = ModelInfo(tuple(map(str, range(model.num_classes))), model.spec.image_size)

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        decoded = self.model.decode(self.model(images.contiguous()))
        return [Predictions(*picture) for picture in zip(*decoded, strict=True)]


def networks(name: str, formats: list[str], folder: Path) -> dict[str, Callable[[], Network]]:
    """How to open each setting; opened anew for each number of threads."""
    torch.manual_seed(0)
    model = Detector(read_spec(name), 80).eval()
    fused = reparameterize(model)
    facts = ExportFacts(name, tuple(map(str, range(80))), model.spec.image_size, model.stride, "decoded",
                        tuple(tuple((w, h) for w, h in level) for level in fused.head.anchors.tolist()),
                        fused.head.strides)
    request = Request(fused, facts, Thresholds())
    ways: dict[str, Callable[[], Network]] = {
        UNFUSED: lambda: Unfused(model), "fused fp32": lambda: TorchNetwork(fused, CPU)}
    if is_native("bf16", CPU):
        ways["fused bf16"] = lambda: TorchNetwork(fused, CPU, "bf16")
    for form in formats:
        write, suffix = WRITERS[form]
        path = folder / f"{name}{suffix}"
        write(request, path)
        ways[form] = lambda path=path: OPENERS[path.suffix](path)  # type: ignore[misc]
    return ways


def measure(ways: dict[str, Callable[[], Network]], batch: int, size: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Milliseconds a picture of every setting, in turn, for so many seconds each."""
    files = sorted(PICTURES.glob("*.jpg"))[:batch]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8))
    images = network_input(pixels, CPU)
    opened = {name: way() for name, way in ways.items()}
    predictors = {name: Predictor(network, image_size=size) for name, network in opened.items()}
    work: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, network in opened.items():
        work[name, "network"] = lambda network=network: network(images, 0.25)  # type: ignore[misc]
        work[name, "end to end"] = lambda p=predictors[name]: p([load_image(file) for file in files])  # type: ignore[misc]
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for run in work.values():
        run()
    while any(sum(times) < seconds or len(times) < LEAST_RUNS for times in spent.values()):
        for key, run in work.items():
            if sum(spent[key]) < seconds or len(spent[key]) < LEAST_RUNS:
                started = time.perf_counter()
                run()
                spent[key].append(time.perf_counter() - started)
    figures = {key: 1000 * np.percentile(times, (50, 99)) / batch for key, times in spent.items()}
    return {name: {f"{stage}_{part}": float(figures[name, stage][index])
                   for stage in ("network", "end to end") for index, part in enumerate(("median", "p99"))}
            for name in opened}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--formats", nargs="*", default=["torchscript", "onnx", "openvino"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each setting and stage")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            ways = networks(name, options.formats, Path(folder))
            size = read_spec(name).image_size
            for threads, batch in itertools.product(options.threads, options.batches):
                torch.set_num_threads(threads)
                for setting, times in measure(ways, batch, size, options.seconds).items():
                    rows.append({"model": name, "size": size, "threads": threads, "batch": batch, "setting": setting,
                                 **times, "pictures_a_second": 1000 / times["network_median"]})
                    sys.stdout.write(f"{json.dumps(rows[-1])}\n")
                    sys.stdout.flush()
    main_rows = [row for row in rows if row["model"] == options.models[0] and row["batch"] == options.batches[0]
                 and row["threads"] == max(options.threads)]
    unfused = next(row["network_median"] for row in main_rows if row["setting"] == UNFUSED)
    ratio = unfused / min(row["network_median"] for row in main_rows)
    content = {"machine": describe_machine(), "rows": rows, "ratio": ratio}
    write_atomically(RESULTS / "inference.json", json.dumps(content, indent=1) + "\n")
    chosen = [row for row in rows if row["batch"] == options.batches[0] and row["threads"] == max(options.threads)]
    points = [{"weights": row["setting"], "size": row["model"], "AP": MODELS[row["model"]] / 100,
               "network_ms": row["network_median"]} for row in chosen]
    write_atomically(RESULTS / "inference.png", plot_study(points))
    sys.stdout.write(f"ratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
