"""The layout of the MIT-licensed rewrite's v7 weights -> that of the reference implementation.

Its layers have the same numbers; parts of a layer have other names, and anchors are not stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from yolov7.config import InputError
from yolov7.config.errors import shown

ANCHORS = (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)), ((142, 110), (192, 243), (459, 401)))
_PREFIX = re.compile(r"^(?:(?:model|layers|module|ema)\.)*(?=\d+\.)")
_HEAD = re.compile(r"^\d+\.heads\.\d+\.head_conv\.")
_POOLING = {"pre_conv.0": "cv1", "short_conv": "cv2", "pre_conv.1": "cv3", "pre_conv.2": "cv4", "post_conv.0": "cv5",
            "post_conv.1": "cv6", "merge_conv": "cv7"}
_BRANCHES = {"conv1.conv": "rbr_dense.0", "conv1.bn": "rbr_dense.1", "conv2.conv": "rbr_1x1.0", "conv2.bn": "rbr_1x1.1"}
_PARTS = {**_POOLING, **_BRANCHES}


def is_mit(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the rewrite's head, under any of its prefixes."""
    return any(_HEAD.match(_PREFIX.sub("", str(key))) for key in state)


def from_mit(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The same tensors under the reference implementation's names, in its order, with v7's anchors.

    Of an average beside the weights (``ema.``) the average is taken. Raises `InputError` for keys of other networks.
    """
    averaged = {key: value for key, value in state.items() if str(key).startswith("ema.")}
    found: dict[str, Tensor] = {}
    for key, value in (averaged or state).items():
        found[_renamed(_PREFIX.sub("", str(key)), where)] = value
    norms = [key.removesuffix("running_var") for key in found if key.endswith("running_var")]
    for norm in norms:
        found.setdefault(f"{norm}num_batches_tracked", torch.tensor(0))
    head = next(key for key in found if ".m.0." in key).partition(".m.")[0]
    found[f"{head}.anchor_grid"] = torch.tensor(ANCHORS, dtype=torch.float32).view(3, 1, 3, 1, 1, 2)
    return {key: found[key] for key in sorted(found, key=_place)}


def _renamed(key: str, where: str) -> str:
    layer, _, rest = key.partition(".")
    head = re.fullmatch(r"heads\.(\d+)\.(head_conv|implicit_a|implicit_m)\.(weight|bias|implicit)", rest)
    if head:
        part = {"head_conv": "m", "implicit_a": "ia", "implicit_m": "im"}[head[2]]
        return f"model.{layer}.{part}.{head[1]}.{head[3]}"
    for name, theirs in _PARTS.items():
        if rest.startswith(f"{name}."):
            return f"model.{layer}.{theirs}{rest[len(name):]}"
    if not layer.isdecimal() or not rest.startswith(("conv.", "bn.")):
        raise InputError(f"{where}: the tensor {shown(key)} is not part of the MIT-licensed v7 network")
    return f"model.{layer}.{rest}"


def _place(key: str) -> tuple[int, str]:
    """Layers in their order, and the convolutions of one by their numbers."""
    _, layer, rest = key.split(".", 2)
    return int(layer), rest.partition(".")[0] if rest.startswith("cv") else ""
