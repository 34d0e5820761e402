"""What a training step launches, moves and keeps, counted without a device: plain, with cast weights, with fused norms.

Forward and backward of a network in bfloat16 on tensors without memory. ``kernels`` are operations that compute or copy
(views are free); ``moved`` are the bytes that they read and write, each tensor once, the inputs of norms twice;
``kept`` are the bytes that the forward pass keeps for the backward pass, without the weights. A fused norm counts as
its six launches, which read and write what `yolov7.runtime.norm_kernels` says: two reads and a write forward, four
reads and a write backward.

Writes ``scripts/results/step_counts.json``. The last line is the ratio of what is kept, plain over fused.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from yolov7.config import atomic_write
from yolov7.model import norms
from yolov7.model.convolutions import HeldWeights
from yolov7.model.detector import Detector
from yolov7.model.norms import fuse_norms
from yolov7.model.spec import read_spec

RESULTS = Path(__file__).parent / "results"
FREE = {"device", "detach", "view", "_unsafe_view", "expand", "permute", "transpose", "t", "as_strided", "slice",
        "select", "split", "chunk", "unbind", "unsqueeze", "squeeze", "alias", "empty", "empty_like", "new_empty",
        "_reshape_alias", "new_empty_strided", "empty_strided", "unsafe_split", "split_with_sizes", "reshape"}
TWICE = {"native_batch_norm": 1, "native_batch_norm_backward": 2}  # how many inputs a norm reads twice
GIB = 1 << 30


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def size_of(tensor: Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()


class Counter(TorchDispatchMode):
    """Operations that are no views, and what they move."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in FREE:
            self.kernels += 1
            self.moved += sum(map(size_of, {id(t): t for t in tensors_in((args, kwargs, result))}.values()))
            if func.overloadpacket.__name__ in TWICE:  # first for the sums, then for the values
                self.moved += sum(map(size_of, tensors_in(args[: TWICE[func.overloadpacket.__name__]])))
        return result


class KernelsOnPaper:
    """Stands for `yolov7.runtime.norm_kernels`: shapes, launches and bytes."""

    SILU, LEAKY_RELU = 0, 1

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def forward(self, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Two reads and a write."""
        self._count(3, 3 * size_of(x))
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Four reads and a write."""
        self._count(3, 5 * size_of(x))
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

    def _count(self, kernels: int, moved: int) -> None:
        self.counter.kernels += kernels
        self.counter.moved += moved


def count(name: str, size: int, batch: int, way: str) -> dict[str, Any]:
    """One row: ``plain``, ``cast`` (weights cast once a step) or ``fused`` (that, and norms with activations)."""
    network = Detector(read_spec(name)).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(batch, 3, size, size).to(memory_format=torch.channels_last)
        return _counted(network, images, name, way)


def _counted(network: Detector, images: Tensor, name: str, way: str) -> dict[str, Any]:
    counter = Counter()
    held = HeldWeights(network, torch.bfloat16) if way != "plain" else None
    if way == "fused":
        fuse_norms(network)
        norms._suits = lambda x: True
        import yolov7.runtime

        sys.modules["yolov7.runtime.norm_kernels"] = yolov7.runtime.norm_kernels = KernelsOnPaper(counter)  # type: ignore[assignment,attr-defined]
    kept: dict[StorageWeakRef, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {StorageWeakRef(value.untyped_storage()) for value in network.state_dict().values()}
    with counter:
        if held is not None:
            held.refresh()
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            output = network(images)
        torch.autograd.backward(list(output.levels), [torch.empty_like(level) for level in output.levels])
    return {"network": name, "way": way, "kernels": counter.kernels, "moved_gib": counter.moved / GIB,
            "kept_gib": sum(size for place, size in kept.items() if place not in weights) / GIB}


def main() -> None:
    """Print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--networks", nargs="+", default=["yolov7:640", "yolov7-tiny:640", "yolov7-w6:1280"])
    parser.add_argument("--output", type=Path, default=RESULTS / "step_counts.json")
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        name, _, size = network.partition(":")
        for way in ("plain", "cast", "fused"):
            rows.append(count(name, int(size), options.batch, way) | {"size": int(size), "batch": options.batch})
            sys.stdout.write("{network:12} {way:6} {kernels:6} kernels, {moved_gib:7.1f} GiB moved, "
                             "{kept_gib:6.2f} GiB kept\n".format(**rows[-1]))
    atomic_write(options.output, json.dumps({"rows": rows}, indent=1) + "\n")
    first = {row["way"]: row["kept_gib"] for row in rows[:3]}
    sys.stdout.write(f"ratio {first['plain'] / first['fused']:.2f}\n")


if __name__ == "__main__":
    main()
