"""Try our ONNX files in runtimes old and new, each in an environment of its own, against PyTorch.

    python scripts/compare_runtimes.py [--environments FOLDER] [--networks micro yolov7-tiny] [--runtimes "OpenCV 5"]

Exports networks of every kind, as plain outputs and end-to-end, for one batch, any batch, and any batch and size, and
runs every file by `run_onnx.py`. The runtimes come from where pip is configured to look; FOLDER keeps the environments
for another time (without it they are removed at the end). The runtimes of 2023 have wheels for Python 3.8 to 3.11
alone: ``--python`` names one. Writes `scripts/results/runtimes.json` and prints the table of docs/reference.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from torch import nn

from yolov7.config.options import ExportOptions
from yolov7.exporting.run import make_request
from yolov7.exporting.writers import write_onnx
from yolov7.inference.exported import rows_above
from yolov7.inference.nms import NMSOptions, nms_image
from yolov7.model.detector import Detector
from yolov7.model.spec import read_spec
from yolov7.model.weights import LoadedModel, load_model
from yolov7.structures import Instances

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from golden_numbers import golden_state_dict  # noqa: E402

RUNTIMES = {  # NumPy 2 is younger than some of them
    "OpenCV 4.8": ("opencv-python-headless==4.8.*", "numpy<2"),
    "OpenCV 4.11": ("opencv-python-headless==4.11.*", "numpy<2"),
    "OpenCV 5": ("opencv-python-headless==5.*",),
    "ONNX Runtime 1.15": ("onnxruntime==1.15.*", "numpy<2"),
    "ONNX Runtime 1.17": ("onnxruntime==1.17.*", "numpy<2"),
    "ONNX Runtime 1.20": ("onnxruntime==1.20.*",),
    "ONNX Runtime, newest": ("onnxruntime",),
}
NETWORKS = {"micro": 0.0, "yolov7-tiny": 0.9, "yolov7": 1.0, "yolov7-w6": 1.0}  # gains of the golden weights
FORMS = {
    "plain, one batch": ("decoded", {}),
    "plain, any batch": ("decoded", {"dynamic_batch": True}),
    "plain, any batch and size": ("decoded", {"dynamic": True}),
    "end-to-end, one batch": ("end2end", {}),
    "end-to-end, any batch": ("end2end", {"dynamic_batch": True}),
    "end-to-end, any batch and size": ("end2end", {"dynamic": True}),
}
CLASSES = 3  # of the micro network
SIZE, OTHER_SIZE = (128, 192), (192, 128)
ROWS = 200  # of an image, that pass the threshold of an end-to-end file
INSTALL_LIMIT, RUN_LIMIT = 900, 180  # seconds
REASON = 160  # characters
RESULTS = ROOT / "scripts" / "results" / "runtimes.json"


@dataclass(frozen=True)
class Trial:
    """What became of a file in a runtime; ``boxes`` in pixels, of the inputs of one file."""

    runtime: str
    version: str
    network: str
    form: str
    loads: bool = False
    runs: bool = False
    boxes: float | None = None
    scores: float | None = None
    unlike: int = 0  # detections without a counterpart
    reason: str = ""


@dataclass(frozen=True)
class File:
    """An exported file, its inputs, and what PyTorch makes of them."""

    network: str
    form: str
    path: Path
    inputs: dict[str, np.ndarray]
    expected: dict[str, list[Instances]] | dict[str, dict[str, np.ndarray]]


# --- the files -------------------------------------------------------------------------------------------------------


def make_network(name: str, folder: Path) -> LoadedModel:
    """With weights that find a lot."""
    if name != "micro":
        path = folder / f"{name}.pt"
        torch.save(golden_state_dict(f"{name}.training", NETWORKS[name]), path)
        return load_model(path, name)
    torch.manual_seed(5)
    model = Detector(read_spec(str(ROOT / "tests" / "micro.yaml")), CLASSES)
    for weight in model.parameters():
        if weight.ndim == 4:
            nn.init.kaiming_normal_(weight, nonlinearity="leaky_relu")
    return LoadedModel(model.eval(), tuple(f"class{index}" for index in range(CLASSES)), SIZE[1], "", -1)


def make_inputs(form: str) -> dict[str, np.ndarray]:
    """One image; three where the batch is free, and of another size where that is, too."""
    shapes = [(1, *SIZE)]
    if "any batch" in form:
        shapes.append((3, *SIZE))
    if "size" in form:
        shapes.append((2, *OTHER_SIZE))
    random = np.random.default_rng(0)
    return {f"{batch}x{height}x{width}": random.random((batch, 3, height, width), np.float32)
            for batch, height, width in shapes}


@torch.inference_mode()
def write_files(network: str, folder: Path) -> Iterator[File]:
    """Every form of a network, one at a time: each is removed when the next is asked for."""
    loaded = make_network(network, folder)
    for form, (head, flags) in FORMS.items():
        inputs = make_inputs(form)
        rows = {name: _rows(loaded.model, images) for name, images in inputs.items()}
        confidence = min(float(np.sort(scores.max(-1))[-ROWS:][0]) for _, every in rows.values() for scores in every)
        threshold = {"conf_thres": confidence} if head == "end2end" else {}
        with torch.inference_mode(False):
            request = make_request(ExportOptions(head=head, **flags, **threshold), loaded, SIZE)  # type: ignore[arg-type]
            path = folder / "file.onnx"
            write_onnx(request, path)
        expected = {name: {"boxes": boxes, "scores": scores} if head == "decoded" else _kept(boxes, scores, confidence)
                    for name, (boxes, scores) in rows.items()}
        yield File(network, form, path, inputs, expected)  # type: ignore[arg-type]
        path.unlink()


def _rows(model: Detector, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    decoded = model.decode(model(torch.from_numpy(images)))
    return decoded.boxes.numpy(), (decoded.objectness[..., None] * decoded.classes).numpy()


def _kept(boxes: np.ndarray, scores: np.ndarray, confidence: float) -> list[Instances]:
    options = NMSOptions(confidence, ExportOptions().iou_thres, ExportOptions().max_det)
    return [nms_image(rows_above(torch.from_numpy(own), torch.from_numpy(its), confidence), options)
            for own, its in zip(boxes, scores, strict=True)]


# --- the environments ------------------------------------------------------------------------------------------------


def make_environment(name: str, python: str, folder: Path) -> Path:
    """The interpreter of an environment with a runtime, which may stand there already. Raises `RuntimeError`."""
    home = folder / re.sub(r"\W+", "-", name)
    interpreter, finished = home / "bin" / "python", home / "finished"
    if not finished.exists():
        _call([python, "-m", "venv", "--clear", str(home)])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *RUNTIMES[name]])
        finished.touch()
    return interpreter


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from None
    if done.returncode:
        raise RuntimeError(reason_of(done.stderr))


def reason_of(text: str) -> str:
    """What an error says, without the place in its source code."""
    inmost = re.match(r"\([^)]*\) *(.*?)\s+in function '(\w+)'", "(" + text.rpartition("error: (")[2], re.DOTALL)
    if not inmost:  # not OpenCV's
        lines = [line for line in text.splitlines() if line.strip()]
        return " ".join(lines[-1].split())[:REASON] if lines else "no message"
    missing = re.fullmatch(r'Can\'t create layer ".*" of type "(\w+)"', inmost[1])
    return f"no layer of type {missing[1]}" if missing else f"{inmost[2]}: {' '.join(inmost[1].split())}"[:REASON]


# --- a trial ---------------------------------------------------------------------------------------------------------


def try_file(runtime: str, interpreter: Path, file: File) -> Trial:
    """Load and run a file in a process of its own, which may crash or hang."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, **file.inputs)  # type: ignore[arg-type]
        command = [str(interpreter), "-I", str(ROOT / "scripts" / "run_onnx.py"), str(file.path), str(given), str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return Trial(runtime, "", file.network, file.form, reason=f"no answer in {RUN_LIMIT} s")
        version, *said = done.stdout.split() or [""]
        reason = f"ends by signal {-done.returncode}" if done.returncode < 0 else reason_of(done.stderr)
        if said != ["loaded", "done"]:
            return Trial(runtime, version, file.network, file.form, loads="loaded" in said, reason=reason)
        with np.load(made) as arrays:
            found: dict[str, dict[str, np.ndarray]] = {name: {} for name in file.inputs}
            for key in arrays.files:  # the largest batch comes last
                name, output = key.split("/")
                found[name][output] = arrays[key]
    boxes, scores, unlike = compare(file, found)
    if not math.isfinite(boxes + scores):
        shapes = ", ".join(dict.fromkeys(str(array.shape) for array in found[name].values()))
        return Trial(runtime, version, file.network, file.form, loads=True, reason=f"wrong shapes for {name}: {shapes}")
    return Trial(runtime, version, file.network, file.form, True, True, boxes, scores, unlike)


def compare(file: File, found: dict[str, dict[str, np.ndarray]]) -> tuple[float, float, int]:
    """The largest differences in boxes and scores, and the number of detections without a counterpart."""
    apart = [(0.0, 0.0, 0)]
    for name, expected in file.expected.items():
        got = found[name]
        if isinstance(expected, dict):
            apart.append((_apart(expected["boxes"], got["boxes"]), _apart(expected["scores"], got["scores"]), 0))
        else:
            apart += [_apart_in_detections(own, *(got[key][index] for key in ("boxes", "scores", "classes", "count")))
                      for index, own in enumerate(expected)]
    boxes, scores, unlike = zip(*apart, strict=True)
    return max(boxes), max(scores), sum(unlike)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).max()) if a.shape == b.shape else math.inf


def _apart_in_detections(own: Instances, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray,
                         count: np.ndarray) -> tuple[float, float, int]:
    """Each of ours beside the nearest of its class; those further than a pixel apart have no counterpart."""
    count = int(count)
    distance = np.abs(own.boxes.numpy()[:, None] - boxes[:count]).max(-1)  # [N, K]
    distance[own.labels.numpy()[:, None] != classes[:count]] = math.inf
    if not distance.size:
        return 0.0, 0.0, len(own) + count
    nearest, paired = distance.argmin(1), distance.min(1) <= 1
    unlike = int((~paired).sum() + max(count - len(own), 0))
    score = np.abs(own.scores.numpy() - scores[nearest])[paired]
    return float(distance.min(1)[paired].max(initial=0)), float(score.max(initial=0)), unlike


# --- the table -------------------------------------------------------------------------------------------------------


def table_of(trials: Sequence[Trial]) -> str:
    """Markdown: one row a runtime and form, over all networks."""
    lines = ["| runtime | file | loads and runs | boxes, px | scores | why not |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys((trial.runtime, trial.form) for trial in trials):
        own = [trial for trial in trials if (trial.runtime, trial.form) == key]
        good = [trial for trial in own if trial.runs]
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in own if trial.reason))
        if unlike := sum(trial.unlike for trial in own):
            reasons += f"{unlike} detections differ"
        boxes, scores = (f"{max(getattr(trial, name) for trial in good):.1e}" if good else "-"
                         for name in ("boxes", "scores"))
        version = next((trial.version for trial in own if trial.version), "")
        runtime = f"{key[0].split(',')[0].rstrip('0123456789. ')} {version}"
        shown = {0: "no", len(own): "yes"}.get(len(good), f"{len(good)} of {len(own)}")
        lines.append(f"| {runtime} | {key[1]} | {shown} | {boxes} | {scores} | {reasons.replace('|', '/')} |")
    return "\n".join(lines)


def tell(text: str) -> None:
    """Progress, beside the table."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def try_all(options: argparse.Namespace, folder: Path, files: Path) -> list[Trial]:
    """Every file in every runtime; one that cannot be installed is told in its rows."""
    interpreters: dict[str, Path | str] = {}
    for name in options.runtimes:
        tell(f"{name}: {', '.join(RUNTIMES[name])}")
        try:
            interpreters[name] = make_environment(name, options.python, folder)
        except RuntimeError as error:
            interpreters[name] = f"cannot be installed: {error}"
    trials = []
    for network in options.networks:
        for file in write_files(network, files):
            for name, place in interpreters.items():
                trials.append(try_file(name, place, file) if isinstance(place, Path) else
                              Trial(name, "", network, file.form, reason=place))
                tell(f"{network}, {file.form}, {name}: {trials[-1].reason or 'runs'}")
    return sorted(trials, key=lambda trial: (list(RUNTIMES).index(trial.runtime), list(FORMS).index(trial.form)))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary) / "files"
        files.mkdir()
        trials = try_all(options, options.environments or Path(temporary), files)
    content = {"machine": describe_machine(), "python": platform.python_version(), "size": SIZE,
               "trials": [asdict(trial) for trial in trials]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table_of(trials) + "\n")


if __name__ == "__main__":
    main()
