"""The numbers of the reference implementation, and the weights they were made with."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
_LAST: dict[tuple[str, tuple[int, ...], float], Tensor] = {}  # of the form before: two forms of a model share most


def read_manifest(form: str) -> dict[str, Any]:
    """Keys, shapes and counts of ``<model>.<form>`` in the reference implementation."""
    return json.loads((GOLDEN / "forward" / f"{form}.manifest.json").read_text())  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def golden_state_dict(form: str, gain: float) -> dict[str, Tensor]:
    """The golden weights of ``<model>.<form>`` in the reference implementation's layout, from its keys and shapes.

    The same dictionary is returned to callers in a row: copy it before changing it.
    """
    manifest = read_manifest(form)
    state = {}
    for key, shape in ((entry[0], tuple(entry[1])) for entry in manifest["parameters"]):
        known = None if "anchor" in key else _LAST.get((key, shape, gain))
        state[key] = torch.from_numpy(_golden_tensor(key, shape, gain, manifest)) if known is None else known
    _LAST.clear()
    _LAST.update({(key, tuple(tensor.shape), gain): tensor for key, tensor in state.items()})
    return state


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Convolutions are made with whatever stands in memory: for networks whose weights all come from elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "reset_parameters", lambda self: None)
        yield


def _golden_tensor(key: str, shape: tuple[int, ...], gain: float, manifest: dict) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith(("anchors", "anchor_grid")):
        anchors = np.array(manifest["anchors"], np.float32)
        cells = anchors / np.array(manifest["strides"], np.float32)[:, None, None]
        return (cells if key.endswith("anchors") else anchors).reshape(shape).astype(np.float32)
    if key.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        value = 0.1 * random.standard_normal(shape)
    elif key.endswith(".implicit"):
        value = 0.02 * random.standard_normal(shape) + (1 if ".im." in key else 0)
    elif key.endswith(".bias"):
        value = 0.1 * random.standard_normal(shape)
    elif len(shape) == 4:
        value = gain * np.sqrt(2 / (shape[1] * shape[2] * shape[3])) * random.standard_normal(shape)
    else:
        value = random.uniform(0.5, 1.5, shape)
    return np.asarray(value, np.float32)
