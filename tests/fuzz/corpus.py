"""The sound inputs that are mutated: small ones of each kind, made once."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

HERE = Path(__file__).parents[1]
NAMES = ("circle", "square", "triangle", "star", "cross", "ring")  # of the weights
FORMATS = ("jpg", "progressive.jpg", "png", "palette.png", "deep.png", "alpha.png", "tif", "lzw.tif", "float.tif",
           "webp", "lossless.webp", "bmp", "gif")
DATA = {"path": "data", "train": "images", "val": "images", "names": list(NAMES)}  # relative to its file
LABELS = ("0 0.5 0.5 0.2 0.4\n1 0.1 0.2 0.3 0.2 0.3 0.6\n", "1 0.25 0.5 0.5 0.25\n5 0.5 0.5 0.1 0.1\n",
          "".join(f"{i % 6} 0.5 0.5 0.{i} 0.{i}5\n" for i in range(1, 10)), "")


def build(folder: Path) -> None:
    """Everything but the run, which needs the package."""
    for name in ("best.pt", "best-original.pt", "best.onnx", "best.torchscript", "picture.jpg", "compat.yaml"):
        shutil.copy(HERE / "compat" / name, folder)
    shutil.copy(HERE / "micro.yaml", folder)
    (folder / "recipe.yaml").write_text((HERE.parent / "data" / "hyp.scratch.tiny.yaml").read_text(encoding="utf-8"))
    for name in FORMATS:
        (folder / f"picture.{name}").write_bytes(encoded(name))
    write_data(folder)
    write_videos(folder)
    (folder / "reference.pt").write_bytes(reference_checkpoint(folder / "best-original.pt"))


def encoded(name: str) -> bytes:
    """A picture of 64 x 48 in a format."""
    from PIL import Image

    rows = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    image = Image.fromarray(rows).resize((64, 48))
    kind, _, suffix = name.rpartition(".")
    if kind == "palette":
        image = image.convert("P")
    elif kind == "alpha":
        image = image.convert("RGBA")
    elif kind in ("deep", "float"):
        grey = np.asarray(image.convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257 if kind == "deep" else grey.astype(np.float32))
    options: dict[str, Any] = {"progressive": {"progressive": True}, "lzw": {"compression": "tiff_lzw"},
                               "lossless": {"lossless": True}}.get(kind, {})
    stream = io.BytesIO()
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return stream.getvalue()


def write_data(folder: Path) -> None:
    """Four pictures, their label files, the same as COCO JSON, and data files for both."""
    for index, label in enumerate(LABELS):
        for kind in ("images", "labels"):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "data" / "images" / f"{index}.jpg").write_bytes(encoded("jpg"))
        (folder / "data" / "labels" / f"{index}.txt").write_text(label)
    (folder / "data" / "coco.json").write_text(json.dumps(coco()))


def coco() -> dict[str, Any]:
    """Boxes, an outline, a run-length mask, key points, a crowd."""
    rows: list[tuple[int, int, list[float], Any, int]] = [
        (0, 3, [1, 2, 30, 40], [[1, 2, 31, 2, 31, 42]], 0), (0, 1, [4, 4, 20, 10], [], 0),
        (1, 5, [10, 10, 20, 20], {"size": [48, 64], "counts": [490, 20, 2562]}, 1), (2, 6, [0, 0, 64, 48], [], 0)]
    annotations = [{"id": i, "image_id": image, "category_id": category, "bbox": box, "segmentation": outline,
                    "area": box[2] * box[3], "iscrowd": crowd, "keypoints": [5 * i, 6, 2], "num_keypoints": 1}
                   for i, (image, category, box, outline, crowd) in enumerate(rows, 1)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(len(LABELS))]
    categories: list[dict[str, Any]] = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    categories[0]["keypoints"] = ["nose"]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write_videos(folder: Path) -> None:
    """Three frames, in two containers."""
    import cv2

    for suffix, code in (("mp4", "mp4v"), ("avi", "MJPG")):
        writer = cv2.VideoWriter(str(folder / f"film.{suffix}"), cv2.VideoWriter_fourcc(*code), 10, (64, 48))
        for shade in range(3):
            writer.write(np.full((48, 64, 3), 80 * shade, np.uint8))
        writer.release()


def reference_checkpoint(weights: Path) -> bytes:
    """The tensors of a bare state dict in a pickled tree of modules, as the reference implementation writes it."""
    state = torch.load(weights, weights_only=True)
    modules = {name: types.ModuleType(name) for name in ("models", "models.yolo", "models.common")}
    with _installed(modules):
        root = _instance(modules["models.yolo"], "Model")
        root.names = list(NAMES)
        for key, value in state.items():
            module = root
            *path, name = key.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part,
                                      nn.Sequential() if part == "model" else _instance(modules["models.common"],
                                                                                        "Conv"))
                module = module._modules[part]
            module.register_buffer(name, value)
        stream = io.BytesIO()
        torch.save({"model": root, "ema": None, "epoch": -1, "best_fitness": np.array([0.5])}, stream)
    return stream.getvalue()


@contextlib.contextmanager
def _installed(modules: dict[str, types.ModuleType]) -> Any:
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _instance(module: types.ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        setattr(module, name, type(name, (nn.Module,), {"__module__": module.__name__}))
    return getattr(module, name)()


class Saves(nn.Module):
    """Writes a file while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.zeros(1)

    def forward(self, images: Tensor) -> Tensor:
        return images

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.x, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "in/owned")
        self.x, self.training = state


class ReadsFiles(nn.Module):
    """Overwrites bytes of a file that is there."""

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.from_file("in/victim", True, 4, dtype=torch.uint8).fill_(65).sum()


class RunsForEver(nn.Module):
    """Never returns."""

    def forward(self, images: Tensor) -> Tensor:
        while bool((images > -1.0).any()):
            images = images + 0
        return images


class AsksForMemory(nn.Module):
    """Makes 12 GB."""

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.ones([3_000_000_000]).sum()


def hostile_torchscript(facts: str) -> dict[str, bytes]:
    """Programs that do what no exported network does, with the description of one."""
    made = {}
    for kind in (Saves, ReadsFiles, RunsForEver, AsksForMemory):
        stream = io.BytesIO()
        torch.jit.save(torch.jit.script(kind()), stream, _extra_files={"yolov7": facts})
        made[kind.__name__] = stream.getvalue()
    return made


def read_yaml(path: Path) -> Any:
    """A tree of plain values."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
