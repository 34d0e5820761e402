"""What an image costs: every paper model and format, one image and several; and the paper's AP over measured time.

On the CPU: PyTorch as it was trained (unfused, float32), re-parameterized in float32 and in bfloat16 (where it is
native), compiled, TorchScript, ONNX Runtime and OpenVINO, with one thread and with two. On a GPU (``--device cuda``):
unfused, re-parameterized in float32, bfloat16 and float16, in contiguous memory, compiled, and with CUDA graphs.

Each run goes from square JPEG files of the network's size to boxes ("end to end"); "network" is the part of it from the
batch in memory to decoded rows, of which about 300 an image pass the threshold. Settings of a model take turns of
half a second, so that the noise of the machine meets all of them (the first run of a turn does not count: threads of
the one before may still spin); those of models above 50 million parameters one after another, for
want of memory, where a first run of more than 15 seconds counts. "limit" is the rate of a large matrix product in the
setting's format, on as many threads.

Writes ``scripts/results/inference_<device>.json`` after every model (what it holds of other models and numbers of
threads stays, if it is of the same machine) and ``inference_<device>.png``; ``--table`` measures nothing. The
last line is the ratio of the main comparison: yolov7-tiny, one image, all threads: the unfused network's median over
that of the best setting.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe_machine
from torch import Tensor

from yolov7.config import atomic_write
from yolov7.data.images import letterbox, load_image
from yolov7.evaluation.plots import plot_study
from yolov7.exporting.writers import WRITERS, Request
from yolov7.inference.exported import OPENERS, ExportFacts
from yolov7.inference.network import Network, TorchNetwork, compile_frozen
from yolov7.inference.nms import NMSOptions
from yolov7.inference.predictor import Predictor
from yolov7.model.detector import Detector, network_input
from yolov7.model.heads.base import Predictions
from yolov7.model.reparam import reparameterize
from yolov7.model.spec import ModelSpec, read_spec
from yolov7.model.summary import model_cost
from yolov7.model.weights import ModelInfo
from yolov7.runtime.device import own_device
from yolov7.runtime.precision import FORMATS, is_native

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[2] / "shared" / "data" / "coco-mini" / "images" / "val2017"
PAPER_FPS = {  # one image on a V100, float16; of yolov7-tiny there is none at 640 px
    "yolov7-tiny": None, "yolov7-tiny-silu": 286, "yolov7": 161, "yolov7x": 114, "yolov7-w6": 84, "yolov7-e6": 56,
    "yolov7-d6": 44, "yolov7-e6e": 36}
FILES = ["torchscript", "onnx", "openvino"]
UNFUSED, PASSING, CERTAIN, TOGETHER, TURN = "unfused fp32", 300, 20.0, 50e6, 0.5
LONG, MANY = 15000, 20  # milliseconds of a run; runs that have a 99th percentile


class Plain:
    """A model in contiguous memory, with everything decoded: what one writes first."""

    shape = None
    task_outputs = ()

    def __init__(self, model: Detector, device: torch.device, precision: str = "fp32") -> None:
        self.device, self.stride, self.dtype = device, model.stride, FORMATS[precision]
        self.model = model.eval().to(device, self.dtype)
        self.info = ModelInfo(tuple(map(str, range(model.num_classes))), model.spec.image_size)

    @torch.inference_mode()
    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        decoded = self.model.decode(self.model(images.to(self.dtype).contiguous()))
        return decoded.images()


@dataclass(frozen=True)
class Setting:
    """A way to run a model; what it opens runs in this format."""

    open: Callable[[], Network]
    precision: str = "fp32"
    compiled: bool = False


@dataclass(frozen=True)
class Case:
    """One model on one device."""

    spec: ModelSpec
    model: Detector
    device: torch.device
    files: list[Path]
    confidence: float
    gflops: float


def make_case(name: str, device: torch.device, most: int, folder: Path) -> Case:
    """A fresh model; real images as square JPEG files; the objectness that 300 rows of the first one exceed.

    Its class scores are close to 1, as those of a trained model are where objectness is high.
    """
    torch.manual_seed(0)
    spec = read_spec(name)
    model = Detector(spec, 80).eval()
    for conv in model.head.convs:
        conv.bias.data.view(model.head.num_anchors, -1)[:, 5:] += CERTAIN
    sources, files = sorted(IMAGES.glob("*.jpg")), []
    for index in range(most):
        files.append(folder / f"{index}.jpg")
        cv2.imwrite(str(files[-1]), cv2.resize(cv2.imread(str(sources[index % len(sources)])), (spec.image_size,) * 2))
    boxed = letterbox(load_image(files[0]), (spec.image_size,) * 2, model.stride, auto=True)[0]
    images = network_input(torch.from_numpy(boxed).permute(2, 0, 1)[None], torch.device("cpu"))
    rows = TorchNetwork(model, torch.device("cpu"))(images, 0.0)[0]
    return Case(spec, model, device, files, float(rows.objectness.topk(PASSING).values[-1]), model_cost(spec).gflops)


def settings_of(case: Case, formats: list[str], folder: Path) -> dict[str, Setting]:
    """How to open each setting; opened anew for each number of threads."""
    return _cuda_settings(case) if case.device.type == "cuda" else _cpu_settings(case, formats, folder)


def _cpu_settings(case: Case, formats: list[str], folder: Path) -> dict[str, Setting]:
    model, device = case.model, case.device
    fused = reparameterize(model)
    best = "bf16" if is_native("bf16", device) else "fp32"
    settings = {UNFUSED: Setting(lambda: Plain(model, device)),
                "fused fp32": Setting(lambda: TorchNetwork(fused, device)),
                f"fused {best}": Setting(lambda: TorchNetwork(fused, device, best), best),
                f"compiled {best}": Setting(lambda: TorchNetwork(fused, device, best, compile=True), best, True)}
    anchors = tuple(tuple((w, h) for w, h in level) for level in fused.head.anchors.tolist())
    facts = ExportFacts(case.spec.name, tuple(map(str, range(80))), case.spec.image_size, model.stride, "decoded",
                        anchors, fused.head.strides)
    request = Request(fused, facts)
    for form in formats:
        write, suffix = WRITERS[form]
        write(request, path := folder / f"model{suffix}")
        for precision in dict.fromkeys(("fp32", best)) if form == "openvino" else ("fp32",):
            settings[f"{form} {precision}"] = Setting(
                lambda path=path, precision=precision: OPENERS[path.suffix](path, precision),  # type: ignore[misc]
                precision)
    return settings


def _cuda_settings(case: Case) -> dict[str, Setting]:
    model, device = case.model, case.device
    fused = reparameterize(model)

    def graphs(precision: str) -> Network:
        network = TorchNetwork(fused, device, precision)
        network.forward = compile_frozen(network.model, graphs=True)
        return network

    settings = {UNFUSED: Setting(lambda: Plain(model, device)),
                "fused fp32": Setting(lambda: TorchNetwork(fused, device)),
                "fused fp16 contiguous": Setting(lambda: Plain(reparameterize(model), device, "fp16"), "fp16")}
    for half in ("fp16", "bf16"):
        settings |= {
            f"fused {half}": Setting(lambda half=half: TorchNetwork(fused, device, half), half),  # type: ignore[misc]
            f"compiled {half}": Setting(
                lambda half=half: TorchNetwork(fused, device, half, compile=True), half, True),  # type: ignore[misc]
            f"graphs {half}": Setting(lambda half=half: graphs(half), half, True)}  # type: ignore[misc]
    return settings


class Subject:
    """An opened setting and its times for one batch."""

    def __init__(self, case: Case, setting: Setting, batch: int) -> None:
        self.files = case.files[:batch]
        self.predictor = Predictor(setting.open(), NMSOptions(case.confidence), case.spec.image_size)
        self.network: list[float] = []  # milliseconds
        self.total: list[float] = []

    def run(self) -> tuple[float, float]:
        """From files to boxes, once: milliseconds of the network, and of all."""
        started = time.perf_counter()
        _, spent = self.predictor.timed([load_image(file) for file in self.files])
        return spent["network"], 1000 * (time.perf_counter() - started)

    def first(self) -> None:
        """The first run; it counts where it is long, as what happens once is little of it then."""
        network, total = self.run()
        if total > LONG:
            self.network.append(network)
            self.total.append(total)

    def turn(self, warm: bool) -> None:
        """Half a second, but one run at least."""
        if warm:
            self.run()
        until = time.perf_counter() + TURN
        while not self.total or time.perf_counter() < until:
            network, total = self.run()
            self.network.append(network)
            self.total.append(total)

    def row(self) -> dict[str, Any]:
        """Milliseconds an image, images a second."""
        batch = len(self.files)
        found: dict[str, Any] = {"runs": len(self.total)}
        for stage, times in (("network", self.network), ("end_to_end", self.total)):
            median, slow = np.percentile(times, (50, 99)) / batch
            found |= {f"{stage}_median": round(float(median), 3), f"{stage}_p99": round(float(slow), 3)}
        return found | {"pictures_a_second": round(1000 * batch / float(np.median(self.network)), 2)}


def measure(case: Case, settings: dict[str, Setting], batch: int,
            seconds: float) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every setting for so many seconds, but once at least; in turn where they fit into the memory together."""
    together = sum(p.numel() for p in case.model.parameters()) < TOGETHER
    groups = [list(settings)] if together else [[name] for name in settings]
    for group in groups:
        subjects = {name: Subject(case, settings[name], batch) for name in group}
        for name, subject in subjects.items():
            if settings[name].compiled:
                subject.run()  # a graph is recorded at the second run
            subject.first()
        while waiting := [s for s in subjects.values() if not s.total or sum(s.total) < 1000 * seconds]:
            for subject in waiting:
                subject.turn(warm=together)
        for name, subject in subjects.items():
            yield name, subject.row()
        torch.compiler.reset()


def matrix_rate(precision: str, device: torch.device) -> float:
    """GFLOP/s of a large matrix product, the best of some."""
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions do
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(FORMATS[precision])
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e9


def rows_of(case: Case, options: argparse.Namespace, folder: Path) -> Iterable[dict[str, Any]]:
    """Everything about one model."""
    settings = settings_of(case, options.formats, folder)
    threads_used = options.threads if case.device.type == "cpu" else [torch.get_num_threads()]
    for threads, batch in itertools.product(threads_used, options.batches):
        torch.set_num_threads(threads)
        rates = {precision: matrix_rate(precision, case.device)
                 for precision in dict.fromkeys(setting.precision for setting in settings.values())}
        for name, row in measure(case, settings, batch, options.seconds):
            limit = 1000 * rates[settings[name].precision] / case.gflops / row["pictures_a_second"]
            yield {"model": case.spec.name, "size": case.spec.image_size, "threads": threads, "batch": batch,
                   "setting": name, **row, "share_of_limit": round(1000 / limit, 3)}


# --- tables ------------------------------------------------------------------------------------------------------


def tables(content: dict[str, Any]) -> str:
    """Markdown: for each number of threads and images a table of models by settings, milliseconds an image.

    Medians of the network; of the fastest setting also the 99th percentile, where there were many runs, and the median
    from file to boxes.
    """
    rows, text = content["rows"], ""
    for threads, batch in dict.fromkeys((row["threads"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["threads"], row["batch"]) == (threads, batch)]
        names = list(dict.fromkeys(row["setting"] for row in chosen))
        header = ["model", *names, "fastest: p99", "end to end", "images/s", "of the limit", "paper: FPS"]
        lines = [header, ["---"] * len(header)]
        for model in dict.fromkeys(row["model"] for row in chosen):
            of_model = {row["setting"]: row for row in chosen if row["model"] == model}
            best = min(of_model.values(), key=lambda row: row["network_median"])
            medians = [f"{of_model[name]['network_median']:.1f}" if name in of_model else "-" for name in names]
            slow = f"{best['network_p99']:.1f}" if best["runs"] >= MANY else "-"
            lines.append([model, *medians, slow, f"{best['end_to_end_median']:.1f}", f"{best['pictures_a_second']:.1f}",
                          f"{best['share_of_limit']:.0%}", str(PAPER_FPS[model] or "-")])
        text += f"\nBatch {batch}, threads: {threads}.\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text


def speedup(content: dict[str, Any]) -> float:
    """The main comparison; zero while its model is not measured."""
    rows = [row for row in content["rows"] if row["model"] == "yolov7-tiny" and row["batch"] == 1]
    most = max((row["threads"] for row in rows), default=0)
    medians = {row["setting"]: float(row["network_median"]) for row in rows if row["threads"] == most}
    return medians[UNFUSED] / min(medians.values()) if medians else 0.0


def plot(content: dict[str, Any]) -> bytes:
    """The paper's AP over the time of the network, one image, all threads."""
    most = max(row["threads"] for row in content["rows"])
    points = []
    for row in content["rows"]:
        if row["batch"] == 1 and row["threads"] == most:
            paper = read_spec(row["model"]).paper
            label = row["model"] + (f" (AP at {paper.size} px)" if paper.size else "")
            shown = label if row["setting"] == UNFUSED else ""  # the slowest one: free space at its right
            points.append({"weights": row["setting"], "size": shown, "AP": (paper.AP or 0) / 100,
                           "network_ms": row["network_median"]})
    return plot_study(points, "The paper's AP over measured time, one image", logarithmic=True)


def save(content: dict[str, Any], path: Path) -> None:
    """The file, its plot, its summary."""
    order = {name: index for index, name in enumerate(PAPER_FPS)}
    content["rows"].sort(key=lambda row: (-row["threads"], row["batch"], order[row["model"]]))
    content["ratio"] = round(speedup(content), 2)
    atomic_write(path, json.dumps(content, indent=1) + "\n")
    atomic_write(path.with_suffix(".png"), plot(content))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PAPER_FPS), choices=list(PAPER_FPS))
    parser.add_argument("--formats", nargs="*", default=FILES, choices=FILES)
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 8, on a GPU 1 8 32")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({os.cpu_count() or 1, 1}, reverse=True))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each setting, at least")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true", help="measure nothing: plot and tables of the file")
    options = parser.parse_args()
    device = own_device(options.device)
    options.batches = options.batches or ([1, 8, 32] if device.type == "cuda" else [1, 8])
    path = RESULTS / f"inference_{device.type}.json"
    machine = describe_machine() + (f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "")
    content = json.loads(path.read_text()) if path.exists() else {}
    if not options.table and content.get("machine") != machine:
        content = {"machine": machine, "rows": []}
    for name in () if options.table else options.models:
        with tempfile.TemporaryDirectory() as folder:
            case = make_case(name, device, max(options.batches), Path(folder))
            rows = []
            for row in rows_of(case, options, Path(folder)):
                rows.append(row)
                sys.stdout.write(f"{json.dumps(row)}\n")
                sys.stdout.flush()
        done = {(name, row["threads"]) for row in rows}
        content["rows"] = [row for row in content["rows"] if (row["model"], row["threads"]) not in done] + rows
        save(content, path)
    if options.table:
        save(content, path)
    sys.stdout.write(f"{tables(content)}\nratio {speedup(content):.2f}\n")


if __name__ == "__main__":
    main()
