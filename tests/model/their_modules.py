"""Networks as classes of the reference implementation, which exist only while files are written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

CLASSES = {**dict.fromkeys(("Conv", "MP", "MaskHead", "Proto", "Refine", "BottleneckCSPB"),
                                         "models.common"), **dict.fromkeys(
    ("Model", "SegmentationModel", "IDetect", "ISegment", "Segment", "IKeypoint", "MT"), "models.yolo")}
INSIDE = {"proto": "Proto", "cv1": "Conv", "cv2": "Conv", "cv3": "Conv"}  # parts of a head
LAYERS = {"MT": {"110": "BottleneckCSPB", "112": "Refine", "120": "Refine"}}  # of a network with this head


def build_their_module(state: Mapping[str, Tensor], make: Callable[[str], Any], activation: type[nn.Module],
                       head: tuple[str, str] = ("77", "IDetect"), root: str = "Model") -> Any:
    """A module tree with these tensors, of the classes that the reference implementation has there.

    ``head`` is the place of the head and its class.
    """
    network = make(root)
    network.names = [f"thing {i}" for i in range(80)]
    for key, value in state.items():
        *path, name = key.split(".")
        module = network
        for depth, part in enumerate(path):
            if part not in module._modules:
                module.add_module(part, _child(part, path[: depth + 1], make, activation, head))
            module = module._modules[part]
        if name in ("weight", "bias", "implicit"):
            module.register_parameter(name, nn.Parameter(value.half()))
        else:
            module.register_buffer(name, value.half() if value.is_floating_point() else value)
    return network


def _child(part: str, path: list[str], make: Callable[[str], Any], activation: type[nn.Module],
           head: tuple[str, str]) -> nn.Module:
    if path == ["model"]:
        return nn.Sequential()
    if part == "bn":
        layer = nn.BatchNorm2d(1, eps=1e-3)
        layer._parameters.clear()
        layer._buffers.clear()
        return layer
    if part == "conv":
        return nn.Conv2d(1, 1, 1, bias=False)
    if len(path) > 2:
        inside = INSIDE.get(part) if path[1] == head[0] else None
        return make(inside) if inside else nn.Module()
    module = make(head[1] if part == head[0] else LAYERS.get(head[1], {}).get(part, "Conv"))
    module.act = activation()
    return module


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can import the classes any more."""
    for module in {"models", *CLASSES.values()}:
        monkeypatch.delitem(sys.modules, module, raising=False)
