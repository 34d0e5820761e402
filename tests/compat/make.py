"""Write the files of this folder with the code that Python finds as ``yolov7``: see README.md."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import yolov7

HERE = Path(__file__).parent
FLAGS = ["--data", "shapes", "--precision", "fp32", "--device", "cpu", "--workers", "0", "--project", "train", "--set",
         "optimizer.clip_grad=10", "loss.box=0.1", "loss.cls=3", "loss.obj=4", "augment.scale=0.1",
         "augment.flipud=0.5", "augment.translate=0.05", "augment.hsv_s=0.4", "augment.hsv_v=0.3"]
LEARN = ["augment.mosaic=0", "augment.mixup=0", "augment.paste_in=0", "optimizer.lr0=0.01",
         "optimizer.warmup_epochs=1.5"]
CONFIDENCE = 0.1
FILES = ("best.pt", "best-deploy.pt", "best-original.pt", "best.torchscript", "best.onnx", "best.xml")
WHEN = 1_700_000_000  # seconds: when the files of the small data set are said to have changed
CLASSES = ("cat", "dog")
LABELS = ("0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.3 0.2 0.3 0.6\n", "1 0.25 0.5 0.5 0.25\n0 0.5 0.5 0 0.1\n", "0 0.5 nan 1 1\n",
          "")


def call(*arguments: str) -> None:
    """A command of the package."""
    subprocess.run([sys.executable, "-m", "yolov7.cli", *arguments], check=True)


# --- weights, runs and exported files --------------------------------------------------------------------------


def train_best() -> None:
    """Weights that find something."""
    call("train", "--cfg", "compat.yaml", "--img-size", "160", "--epochs", "60", "--batch-size", "4",
         "--nominal-batch", "4", "--name", "best", *FLAGS, *LEARN)
    shutil.copy("train/best/weights/best.pt", "best.pt")


def interrupt_run() -> None:
    """A run of three epochs, ended by SIGTERM in the second one."""
    command = ["train", "--cfg", "compat.yaml", "--weights", "best.pt", "--img-size", "128", "--epochs", "3",
               "--batch-size", "16", "--nominal-batch", "32", "--name", "run", *FLAGS, "augment.mosaic=0.3",
               "augment.copy_paste=0.2", "optimizer.lr0=0.0003", "optimizer.warmup_epochs=0.5"]
    process = subprocess.Popen([sys.executable, "-m", "yolov7.cli", *command])
    record = Path("train/run/results.csv")
    while process.poll() is None and not (record.is_file() and len(record.read_text().splitlines()) > 1):
        time.sleep(0.01)
    time.sleep(1)  # some batches of the next epoch
    process.send_signal(signal.SIGTERM)
    process.wait()
    place = torch.load("train/run/weights/last.pt", weights_only=True)["place"]
    assert place["epoch"] == 1 and place["batch"] > 2, place
    for name in ("config.yaml", "results.csv", "weights/last.pt", "weights/best.pt"):
        target = Path("run", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("train/run", name), target)


def write_exports() -> None:
    """OpenVINO for one size, the others for any."""
    call("export", "--weights", "best.pt", "--format", "weights", "original", "torchscript", "onnx", "--dynamic")
    call("export", "--weights", "best.pt", "--format", "openvino")
    shutil.move("best.torchscript", "whole.torchscript")
    with zipfile.ZipFile("whole.torchscript") as whole, zipfile.ZipFile("best.torchscript", "w") as kept:
        for name in whole.namelist():
            if not name.endswith(".debug_pkl"):  # where each line of code stood on the machine that traced it
                kept.writestr(zipfile.ZipInfo(name), whole.read(name))


def write_picture() -> None:
    """One of the built-in pictures, half as large."""
    with Image.open("datasets/shapes/images/val/000003.jpg") as picture:
        picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX).save("picture.jpg", quality=90)


# --- the small data set and its caches -------------------------------------------------------------------------


def write_labels() -> None:
    """Four pictures with label files and as COCO JSON, and what is kept of both."""
    root = Path("labels")
    for number, text in enumerate(LABELS, 1):
        for folder, suffix in (("images", ".jpg"), ("labels", ".txt")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = root / folder / f"{number}{suffix}"
            path.write_text(text) if suffix == ".txt" else Image.new("RGB", (64, 48), (90, 20 * number, 110)).save(path)
    (root / "train.json").write_text(json.dumps(coco(), indent=1))
    (root / "txt.yaml").write_text(f"train: images\nnames: [{', '.join(CLASSES)}]\n")
    (root / "json.yaml").write_text("train: {images: images, annotations: train.json}\n")
    for path in root.rglob("*.*"):
        os.utime(path, (WHEN, WHEN))
    code = "import sys; from yolov7.data.catalog import *; open_split(open_data(sys.argv[1]), 'train')"
    for kind in ("txt", "json"):
        caches = Path(f"caches-{kind}")
        environment = os.environ | {"YOLOV7_CACHE_DIR": str(caches.absolute())}
        subprocess.run([sys.executable, "-c", code, str(root / f"{kind}.yaml")], env=environment, check=True)
        (file,) = caches.iterdir()
        shutil.copyfile(file, root / f"labels_{kind}.npz")


def coco() -> dict[str, Any]:
    """Boxes, an outline, key points, a crowd, a box without area."""
    rows = [(1, 3, [1, 2, 30, 40], [[1, 2, 31, 2, 31, 42]], 0), (1, 7, [4, 4, 20, 10], [], 0),
            (2, 7, [10, 10, 20, 20], [], 1), (2, 3, [8, 6, 0, 4], [], 0), (3, 3, [0, 0, 64, 48], [], 0)]
    annotations = [{"id": i, "image_id": image, "category_id": category, "bbox": box, "segmentation": outline,
                    "area": box[2] * box[3], "iscrowd": crowd, "keypoints": [5 * i, 6, 2], "num_keypoints": 1}
                   for i, (image, category, box, outline, crowd) in enumerate(rows, 1)]
    return {"images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(1, 5)],
            "annotations": annotations,
            "categories": [{"id": 3, "name": CLASSES[0], "keypoints": ["nose"]}, {"id": 7, "name": CLASSES[1]}]}


# --- what is expected ------------------------------------------------------------------------------------------


def detections() -> dict[str, Any]:
    """What each file finds in the picture."""
    found = {}
    for name in FILES:
        cfg = "compat.yaml" if name == "best-original.pt" else None
        one = yolov7.load(name, device="cpu", precision="fp32", cfg=cfg)("picture.jpg", conf=CONFIDENCE, size=160)
        boxes = [[round(x, 5) for x in box] for box in one.boxes.tolist()]
        scores = [round(score, 8) for score in one.scores.tolist()]
        found[name] = {"labels": one.labels.tolist(), "scores": scores, "boxes": boxes}
    return found


def finished_run() -> dict[str, Any]:
    """What the interrupted run becomes."""
    shutil.copytree("run", "finished/run")
    call("train", "--resume", "finished/run", "--workers", "0")
    with open("finished/run/results.csv", newline="") as stream:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]
    tensors = torch.load("finished/run/weights/best.pt", weights_only=True)["model"]
    weights = {name: {"sha256": hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest(),
                      "norm": float(tensor.double().norm())} for name, tensor in tensors.items()}
    return {"results": rows, "weights": weights}


def describe() -> dict[str, Any]:
    """What the bits of a run depend on, beside the code."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {"processor": processor, "instructions": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
            "threads": torch.get_num_threads()}


def main() -> None:
    """Everything, in the folder that is named: it must be new."""
    folder = Path(sys.argv[1])
    folder.mkdir()
    shutil.copy(HERE / "compat.yaml", folder)
    os.chdir(folder)
    train_best()
    interrupt_run()
    write_exports()
    write_picture()
    write_labels()
    stamp = json.loads(Path("datasets/shapes/generated.json").read_text())
    expected = {
        "made with": describe(),
        "confidence": CONFIDENCE, "when": WHEN, "shapes": stamp, "detections": detections(), "run": finished_run()}
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
