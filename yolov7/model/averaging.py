"""The mean of several weight files of one model, such as the last epochs of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov7.config import InputError
from yolov7.model import weights
from yolov7.runtime.progress import Progress

ALIKE = ("form", "definition", "names", "merged", "package")  # what all files must have the same


def average_weights(paths: Sequence[Path]) -> dict[str, Any]:
    """The content of a weight file: the mean of every parameter and of the statistics of norms, summed in float64.

    Whole numbers, and what a file says beside its tensors, are those of the last file. One file is in memory at a time.
    Raises `InputError` for files that are not of one model.
    """
    sums: dict[str, Tensor] = {}
    content: Mapping[str, Any] = {}
    for path in Progress(paths, "average", unit="files"):
        found = weights.read(path)
        if not isinstance(found, dict):
            raise InputError(f"{path}: is a file of the reference implementation; accepted: weights of this project")
        if content:
            _check_alike(found, content, path, paths[0])
        for name, value in found["model"].items():
            if value.is_floating_point():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
        content = found
    state = {name: (sums[name] / len(paths)).to(value.dtype) if name in sums else value
             for name, value in content["model"].items()}
    return {key: value for key, value in content.items() if key in (*ALIKE, "format", "version", "image_size", "data",
                                                                    "epoch")} | {"model": state}


def _check_alike(found: Mapping[str, Any], first: Mapping[str, Any], path: Path, first_path: Path) -> None:
    for key in ALIKE:
        if found.get(key) != first.get(key):
            raise InputError(f"{path}: has another {key} than {first_path}; accepted: weights of one model and one "
                             "data set")
    for name, value in first["model"].items():
        other = found["model"].get(name)
        if not isinstance(other, torch.Tensor) or other.shape != value.shape:
            raise InputError(f"{path}: has no tensor {name} as {first_path} has it; accepted: weights of one model")
