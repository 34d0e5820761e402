"""Do two states of the code make the same things? Trains, evaluates, detects and exports with both and compares it all.

Each state runs at the same path, on one thread, with this environment's packages and public flags alone, on the
built-in shapes: some of them as label files, some as COCO JSON with outlines and every step of the augmentation.
Files are compared by their bytes; where those differ, by what is in them: tensors, values, pixels. Exit code 1 where
anything else than what ``ALLOWED`` names differs, or a step fails.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
WORKING_TREE = "working tree"
BASE = "ed08ed3"
SIZE = 160  # pixels
COUNTS = {"train": 80, "val": 32}  # images of the data set that are used
DETECTED = 6  # images
GROUPED = 3  # files of one kind in a folder; more are one line of the table
SHARES = ("mixup", "copy_paste", "paste_in", "flipud", "cutout", "clahe", "brightness_contrast", "gamma", "blur",
          "median_blur", "gray", "jpeg")  # half of the samples have it
PIPELINE = ("mosaic", "copy_paste", "perspective", "mixup", "clahe", "brightness_contrast", "gamma", "blur",
            "median_blur", "gray", "jpeg", "hsv", "paste_in", "cutout", "flipud", "fliplr")

ALLOWED: dict[str, str] = {}  # what is known to differ from BASE, `item` or `item: key` with wildcards -> why

LEFT_OUT = {  # what two runs of the same code do not share
    "*/results.csv: *.seconds": "time",
    "*/results.json: milliseconds.*": "time",
    "*/results.json: settings.date": "time",
    "*/results.png": "shows the seconds of each epoch",
    "*/events.out.tfevents.*": "TensorBoard's records hold times; results.csv has the numbers",
    "*/.lock": "number of the process",
    "caches/*": "times of change of files",
}


# --- the steps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A command in the work folder, and what is to be written before it."""

    name: str
    arguments: tuple[str, ...]  # behind the interpreter
    prepare: Callable[[Path], None] = field(default=lambda work: None)


def script(name: str, *flags: str) -> tuple[str, ...]:
    """One of the four scripts, on this processor."""
    return f"../code/{name}.py", *flags, *(() if name == "export" else ("--device", "cpu"))


def training(name: str, *flags: str) -> tuple[str, ...]:
    """20 batches or fewer of yolov7-tiny, in two epochs."""
    return script("train", "--cfg", "yolov7-tiny", "--hyp", "p5", "--precision", "fp32", "--seed", "0", "--epochs", "2",
                  "--img-size", str(SIZE), "--batch-size", "8", "--workers", "0", "--project", "train",
                  "--name", name, "--data", f"{name}.yaml", *flags)


def testing(name: str, weights: str, *flags: str) -> tuple[str, ...]:
    """Both metrics, all tables and images."""
    return script("test", "--weights", weights, "--metric", "v7", "--precision", "fp32", "--workers", "0",
                  "--project", "test", "--name", name, *flags)


def detection(name: str, weights: str, *flags: str) -> tuple[str, ...]:
    """Everything that can be saved."""
    saved = [f"--save-{kind}" for kind in ("txt", "conf", "json", "jsonl", "coco", "csv", "crop")]
    return script("detect", "--weights", weights, "--source", "pictures.txt", "--precision", "fp32", "--max-det", "20",
                  "--project", "detect", "--name", name, *saved, *flags)


def steps(data: str) -> list[Step]:
    """All commands, in their order."""
    convert = ("-m", "yolov7.cli", "data", "convert")
    best, low = "train/txt/weights/best.pt", ("--conf-thres", "0.0005")
    changes = ["optimizer.warmup_epochs=1", "augment.degrees=10", "augment.shear=5", "augment.perspective=0.0005",
               *(f"augment.{name}=0.5" for name in SHARES), f"augment.pipeline=[{', '.join(PIPELINE)}]"]
    return [
        Step("import", ("-c", "import pathlib, yolov7; assert pathlib.Path('../code').resolve() in "
                        "pathlib.Path(yolov7.__file__).resolve().parents, yolov7.__file__")),
        Step("convert to yolo", (*convert, "--data", data, "--to", "yolo", "--output", "yolo")),
        Step("convert to coco", (*convert, "--data", "yolo/data.yaml", "--to", "coco", "--output", "coco")),
        Step("train txt", training("txt", "--nominal-batch", "8", "--set", changes[0]), write_txt),
        Step("train json", training("json", "--nominal-batch", "16", "--multi-scale", "--image-weights", "--set",
                                    *changes), write_json),
        Step("test", testing("trained", best, *low)),
        Step("detect", detection("trained", best, *low)),
        Step("export", script("export", "--weights", best, "--output", "exported", "--format", "weights", "original",
                              "torchscript", "onnx")),
        Step("detect onnx", detection("onnx", "exported/best.onnx", *low)),
        Step("test older weights", testing("older", "older.pt"), copy_older),
        Step("detect older weights", detection("older", "older.pt")),
    ]


def copy_older(work: Path) -> None:
    """Weights that find something."""
    shutil.copyfile(ROOT / "tests" / "compat" / "best.pt", work / "older.pt")


def write_txt(work: Path) -> None:
    """A data set of some of the images with label files, and the list of those to detect in."""
    known = yaml.safe_load((work / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    for split, count in COUNTS.items():
        images = sorted((work / "yolo" / "images" / split).iterdir())[:count]
        lines = [picture.relative_to(work).as_posix() for picture in images]
        (work / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    (work / "pictures.txt").write_text("\n".join(lines[:DETECTED]), encoding="utf-8")
    content = {"train": "train.txt", "val": "val.txt", "names": known["names"]}
    (work / "txt.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def write_json(work: Path) -> None:
    """A data set of some of the images as COCO JSON; fewer to train on, as their samples take longer."""
    entries = {}
    for split, count in COUNTS.items():
        content = json.loads((work / "coco" / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        content["images"] = content["images"][: count // 2]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
        (work / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        entries[split] = {"images": f"coco/images/{split}", "annotations": f"{split}.json"}
    (work / "json.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")


# --- running ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check_out(state: str, code: Path) -> None:
    """The code of a commit, or the package, configs and scripts of the working tree as they are."""
    if state != WORKING_TREE:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", state], stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(code, filter="data")
        return
    code.mkdir()
    for folder in ("yolov7", "cfg", "data"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    for path in ROOT.glob("*.py"):
        shutil.copy2(path, code)


def run_all(state: str, data: str, here: Path) -> list[str]:
    """Check a state out into a folder and run every step there; returns the names of those that failed."""
    work, failed = here / "work", []
    work.mkdir(parents=True)
    check_out(state, here / "code")
    environment = os.environ | {"PYTHONPATH": str(here / "code"), "YOLOV7_CACHE_DIR": str(work / "caches"),
                                "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for step in steps(data):
        started = time.perf_counter()
        reason = run_step(step, work, environment)
        say(f"{state}, {step.name}: {time.perf_counter() - started:.0f} s{f'; FAILED: {reason}' if reason else ''}")
        failed += [step.name] if reason else []
    return failed


def run_step(step: Step, work: Path, environment: dict[str, str]) -> str:
    """Run a command; returns why it failed, or nothing."""
    try:
        step.prepare(work)
    except (OSError, KeyError, ValueError) as error:  # what an earlier step should have left
        return f"{type(error).__name__}: {error}"
    done = subprocess.run([sys.executable, *step.arguments], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return f"exit code {done.returncode}: {lines[-1] if lines else 'no output'}" if done.returncode else ""


# --- what is in a file -----------------------------------------------------------------------------------------

def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists, with their places."""
    if isinstance(value, (dict, list, tuple)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(entry, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def read_weights(path: Path) -> Any:
    """Tensors and values of a checkpoint."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def read_torchscript(path: Path) -> Any:
    """Tensors and metadata of a graph, and what it makes of noise: names of classes and lines of code may differ."""
    import torch

    warnings.filterwarnings("ignore", category=FutureWarning)  # that this format grows old
    extra = {"yolov7": ""}
    graph = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    noise = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = graph(noise)
    return {"metadata": json.loads(extra["yolov7"]), "outputs": outputs, "weights": graph.state_dict()}


def read_onnx(path: Path) -> Any:
    """Metadata, tensors and nodes of a graph."""
    import onnx

    model = onnx.load(str(path))
    return {
        "metadata": {entry.key: json.loads(entry.value) for entry in model.metadata_props},
        "tensors": {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer},
        "nodes": [onnx.helper.printable_node(node) for node in model.graph.node],
        "ends": [str(value) for value in (*model.graph.input, *model.graph.output)],
        "opsets": {entry.domain: entry.version for entry in model.opset_import},
    }


def read_table(path: Path) -> Any:
    """The cells of a table."""
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read_image(path: Path) -> Any:
    """The pixels of an image."""
    with Image.open(path) as picture:
        return {"pixels": np.asarray(picture)}


READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": read_weights, ".torchscript": read_torchscript, ".onnx": read_onnx, ".csv": read_table,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().splitlines()],
    ".yaml": lambda path: yaml.safe_load(path.read_bytes()),
    ".txt": lambda path: path.read_text(encoding="utf-8").splitlines(),
    ".jpg": read_image, ".png": read_image,
}


# --- comparing -------------------------------------------------------------------------------------------------

SAME_BYTES, SAME_CONTENT, ALLOWED_DIFFERENCE, DIFFERS = "same bytes", "same content", "allowed", "differs"
VERDICTS = (SAME_BYTES, SAME_CONTENT, ALLOWED_DIFFERENCE, DIFFERS)  # the last that any file has counts


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    item: str
    verdict: str
    note: str = ""


def compare_folders(base: Path, other: Path) -> list[Row]:
    """Every file that either state has left, those of one kind in a folder together."""
    names = {path.relative_to(work) for work in (base, other) for path in work.rglob("*") if path.is_file()}
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if not reason_for(name.as_posix(), LEFT_OUT):
            groups.setdefault(f"{name.parent / '*'}{name.suffix}", []).append(name.as_posix())
    rows = []
    for pattern, members in groups.items():
        found = [compare_files(name, base / name, other / name) for name in members]
        rows += found if len(found) <= GROUPED else [together(f"{pattern} ({len(found)} files)", found)]
    return rows


def together(item: str, rows: Sequence[Row]) -> Row:
    """One line for many: the worst verdict, and the first file that has it."""
    worst = max(rows, key=lambda row: VERDICTS.index(row.verdict))
    like = [row.verdict for row in rows].count(worst.verdict)
    note = f"{like} of them, the first is {Path(worst.item).name}: {worst.note}"
    return Row(item, worst.verdict, "" if worst.verdict == SAME_BYTES else note)


def compare_files(item: str, base: Path, other: Path) -> Row:
    """Bytes first, then content."""
    if not (base.is_file() and other.is_file()):
        return judged(item, {"": f"only {'BASE' if base.is_file() else 'OTHER'} has it"})
    if len({hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, other)}) == 1:
        return Row(item, SAME_BYTES, "" if base.stat().st_size else "empty")
    if base.suffix not in READERS:
        return judged(item, {"": f"{base.stat().st_size} and {other.stat().st_size} bytes"})
    try:
        expected, found = (dict(flat(READERS[base.suffix](path))) for path in (base, other))
    except Exception as error:  # of any library, for a file of any content
        return judged(item, {"": f"cannot be read: {' '.join(str(error).split())[:120]}"})
    keys = dict.fromkeys([*expected, *found])
    return judged(item, {key: note for key in keys if (note := difference(key, expected, found))})


def judged(item: str, differences: dict[str, str]) -> Row:
    """The verdict on what differs, by its place in the file."""
    left_out, allowed, wrong = set(), set(), []
    for key, note in differences.items():
        name = f"{item}: {key}" if key else item
        if reason := reason_for(name, LEFT_OUT):
            left_out.add(reason)
        elif reason := reason_for(name, ALLOWED) or reason_for(item, ALLOWED):
            allowed.add(reason)
        else:
            wrong.append(f"{key}: {note}" if key else note)
    if wrong:
        return Row(item, DIFFERS, wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    if allowed:
        return Row(item, ALLOWED_DIFFERENCE, "; ".join(sorted(allowed)))
    return Row(item, SAME_CONTENT, f"without {', '.join(sorted(left_out))}" if left_out else "")


def reason_for(name: str, reasons: dict[str, str]) -> str:
    """The reason that stands beside the first pattern that fits."""
    return next((reason for pattern, reason in reasons.items() if fnmatchcase(name, pattern)), "")


def difference(key: str, base: dict[str, Any], other: dict[str, Any]) -> str:
    """How two values differ, to the bit; nothing where they do not."""
    if key not in base or key not in other:
        return f"only {'BASE' if key in base else 'OTHER'} has it"
    a, b = (np.asarray(content[key]) if hasattr(content[key], "shape") else content[key] for content in (base, other))
    if type(a) is not type(b):
        return f"{type(a).__name__} and {type(b).__name__}"
    if not isinstance(a, np.ndarray):
        return "" if repr(a) == repr(b) else f"{str(a)[:60]} and {str(b)[:60]}"
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
    if a.tobytes() == b.tobytes():
        return ""
    apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return f"{np.count_nonzero(apart)} of {a.size} values, by up to {apart.max():.3g}"


def show(rows: Sequence[Row], failed: dict[str, list[str]], seconds: float) -> int:
    """Print the table and the last line; returns the exit code."""
    width = max((len(row.item) for row in rows), default=0)
    for row in rows:
        say(f"{row.item:<{width}}  {row.verdict:<12}  {row.note}".rstrip())
    counts = ", ".join(f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in VERDICTS)
    for state, names in failed.items():
        if names:
            say(f"{state}: failed: {', '.join(names)}")
    wrong = any(failed.values()) or not rows or any(row.verdict == DIFFERS for row in rows)
    say(f"{'DIFFERENT' if wrong else 'equal'}: {counts}; {seconds:.0f} s")
    return int(wrong)


def main() -> int:
    """Run both states one after the other, at the same path, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", default=BASE, help=f"a commit; default: {BASE}")
    parser.add_argument("other", nargs="?", default=WORKING_TREE, help="a commit; default: the working tree as it is")
    parser.add_argument("--data", default="shapes", help="a data set with COCO JSON; default: the built-in one")
    parser.add_argument("--keep", type=Path, help="a new folder for what both have made; default: it is deleted")
    options = parser.parse_args()
    for state in {options.base, options.other} - {WORKING_TREE}:
        if subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{state}^{{commit}}"], check=False).returncode:
            parser.error(f"{state!r}: no commit of this repository")
    data = os.path.abspath(options.data) if os.path.exists(options.data) else options.data
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder is deleted then, too
    started, failed = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(prefix="yardstick-") as temporary:
        here, sides = Path(temporary, "here"), (Path(temporary, "base"), Path(temporary, "other"))
        for side, state in zip(sides, (options.base, options.other), strict=True):
            failed[f"{side.name} ({state})"] = run_all(state, data, here)
            here.rename(side)  # both had the same path: files that name it are the same
        rows = compare_folders(sides[0] / "work", sides[1] / "work")
        if options.keep:
            shutil.copytree(temporary, options.keep)
    return show(rows, failed, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
