"""Weight files: ours, and the state dicts of the original.

Our file is a dictionary of tensors and plain values that ``torch.load(weights_only=True)`` reads, with the model
definition inside. The original's state dicts map by position: its layers and ours are created in the same order, and
every tensor is checked by shape (spec of checkpoints, section 5).
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.config import InputError, write_atomically
from yolov7.model.blocks import Conv, RepConv
from yolov7.model.detector import Detector
from yolov7.model.heads import AnchorHead
from yolov7.model.reparam import is_fused, reparameterize
from yolov7.model.spec import ModelSpec, parse_spec, read_spec

logger = logging.getLogger(__name__)

FORMAT = "yolov7-weights"
VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its user needs to know of it."""

    model: Detector
    names: tuple[str, ...]
    image_size: int
    data: str  # the --data it was trained on, '' where unknown
    epoch: int  # -1 where unknown


# --- our files -------------------------------------------------------------------------------------------------------


def describe(model: Detector, names: tuple[str, ...], image_size: int, data: str = "") -> dict[str, Any]:
    """The plain-value part of a weight file: what is needed to build the model again."""
    return {
        "format": FORMAT, "version": VERSION, "form": "fused" if is_fused(model) else "training",
        "definition": dict(model.spec.definition), "names": list(names), "image_size": image_size, "data": data,
    }


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a weight file or checkpoint atomically: a reader sees the old one or the new one, never half of it."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(path, buffer.getvalue())


def read(path: str | Path) -> dict[str, Any]:
    """Read one of our files without executing anything in it; anything else is an `InputError`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--weights {str(path)!r}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: is not a weight file of this project: {reason[:200]}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; accepted: a weight file or a state dict")
    if content.get("format") == FORMAT and content.get("version") != VERSION:
        raise InputError(f"{path}: format version {content.get('version')}; accepted: {VERSION}")
    return content


def load_model(path: str | Path, cfg: str | None = None) -> LoadedModel:
    """Build the model of a weight file or checkpoint (its EMA weights where it has both), in evaluation mode.

    A bare state dict in the original's layout needs ``cfg``; its class count follows from the tensors.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        return _load_original(content, path, cfg)
    spec = parse_spec(content["definition"], f"{path}, definition")
    names = tuple(content["names"])
    model = Detector(spec, len(names))
    if content["form"] == "fused":
        model = reparameterize(model)
    state = content.get("ema") or content["model"]
    _load_strictly(model, state, str(path))
    return LoadedModel(model.eval(), names, content["image_size"], content.get("data", ""), content.get("epoch", -1))


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            wanted = tuple(own[key].shape) if key in own else "nothing"
            raise InputError(f"{where}: weights of another model: {key} is {found}, expected {wanted}")
    model.load_state_dict(state)


def initialize_from(model: Detector, path: str | Path) -> int:
    """Copy the weights of a file into a training-form model; returns how many tensors were copied.

    Ours or a state dict of the original. The detection convolutions are left out where the class count differs.
    Weights of another model are an `InputError`.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        return import_state_dict(model, _state_dict_of(content, path), str(path))
    if content["form"] == "fused":
        raise InputError(f"{path}: is re-parameterized and cannot be trained; accepted: best.pt or last.pt of a run")
    state, own = content.get("ema") or content["model"], model.state_dict()
    same_classes = len(content["names"]) == model.num_classes
    kept = {key: value for key, value in state.items() if same_classes or not _depends_on_classes(key)}
    missing = {key: value for key, value in own.items() if not same_classes and _depends_on_classes(key)}
    if missing:
        logger.warning("%s has %d classes, the data %d: the detection convolutions start fresh", path,
                       len(content["names"]), model.num_classes)
    _load_strictly(model, kept | missing, str(path))
    return len(kept)


def _depends_on_classes(key: str) -> bool:
    return key.startswith(("head.convs.", "head.implicit_multiply."))


# --- the original's state dicts --------------------------------------------------------------------------------------

_LEAF_KEYS = (  # (kind, pattern of the part of the key that belongs to the leaf)
    ("Conv", re.compile(r"^(.*)\.(conv\.weight|bn\.\w+)$")),
    ("RepConv", re.compile(r"^(.*)\.(rbr_\w+\..*)$")),
    ("head", re.compile(r"^(.*)\.(anchors|anchor_grid|(?:m|ia|im)\.\d+\.\w+)$")),
)


def _original_leaves(state: Mapping[str, Tensor], where: str) -> list[tuple[str, str, dict[str, Tensor]]]:
    """Group a state dict of the original into leaves, in order: (kind, prefix, tensors by rest of key)."""
    leaves: dict[str, tuple[str, str, dict[str, Tensor]]] = {}
    for key, value in state.items():
        for kind, pattern in _LEAF_KEYS:
            match = pattern.match(key)
            if match:
                leaves.setdefault(match[1], (kind, match[1], {}))[2][match[2]] = value
                break
        else:
            raise InputError(f"{where}: the tensor {key!r} is none of the original's detection models")
    return list(leaves.values())


def _own_leaves(model: Detector) -> Iterator[tuple[str, str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, Conv):
            yield "Conv", name, module
        elif isinstance(module, RepConv):
            yield "RepConv", name, module
        elif isinstance(module, AnchorHead):
            yield "head", name, module


def _original_names(module: nn.Module, rest: str) -> str | None:
    """The original's name of one of our leaf's tensors; None where it derives from another."""
    if isinstance(module, Conv):
        return rest
    if isinstance(module, RepConv):
        branch, _, name = rest.partition(".")
        return {"identity": "rbr_identity", "dense": "rbr_dense", "point": "rbr_1x1"}[branch] + "." + name
    kind, _, name = rest.partition(".")
    return {"anchors": "anchor_grid", "convs": f"m.{name}", "implicit_add": f"ia.{name}.implicit",
            "implicit_multiply": f"im.{name}.implicit"}[kind]


@torch.no_grad()
def import_state_dict(model: Detector, state: Mapping[str, Tensor], where: str) -> int:
    """Copy a state dict of the original (training or deploy form) into a training-form model.

    A deploy file has no implicit knowledge: it becomes the neutral 0 and 1. Returns how many tensors were copied.
    Where only the class count differs, the detection convolutions keep their fresh weights.
    """
    theirs, ours = _original_leaves(state, where), list(_own_leaves(model))
    copied = 0
    for index in range(max(len(theirs), len(ours))):
        left = f"{theirs[index][0]} {theirs[index][1]}" if index < len(theirs) else "nothing more"
        right = f"{ours[index][0]} {ours[index][1]}" if index < len(ours) else "nothing more"
        if index >= min(len(theirs), len(ours)) or theirs[index][0] != ours[index][0]:
            raise InputError(f"{where}: weights of another model: found {left} where {model.spec.name} has {right}")
        copied += _copy_leaf(ours[index][2], theirs[index][2], f"{where}: {left} -> {model.spec.name}, {right}")
    return copied


def _copy_leaf(module: nn.Module, tensors: dict[str, Tensor], where: str) -> int:
    own = module.state_dict(keep_vars=True)
    copied = 0
    for key, target in own.items():
        name = _original_names(module, key)
        source = tensors.pop(name, None) if name else None
        if source is None and key.startswith("implicit_"):
            target.data.fill_(1.0 if key.startswith("implicit_multiply") else 0.0)
            continue
        if source is None:
            raise InputError(f"{where}: weights of another model: {name} is missing")
        source = source.reshape(target.shape) if name == "anchor_grid" and source.numel() == target.numel() else source
        if source.shape != target.shape:
            if _depends_on_classes(f"head.{key}") and source.ndim == target.ndim and _same_inputs(source, target):
                logger.warning("%s: another class count; %s keeps its fresh weights", where, key)
                continue
            raise InputError(f"{where}: weights of another model: {name} is {tuple(source.shape)}, "
                             f"expected {tuple(target.shape)}")
        target.data.copy_(source)
        copied += 1
    tensors.pop("anchors", None)  # the same anchors in cells
    if tensors:
        raise InputError(f"{where}: weights of another model: {next(iter(tensors))} has no place")
    return copied


def _same_inputs(source: Tensor, target: Tensor) -> bool:
    """Whether two tensors of a detection convolution differ in its outputs alone."""
    return source.ndim < 4 or source.shape[0] == 1 or source.shape[1:] == target.shape[1:]


def _state_dict_of(content: Mapping[str, Any], path: str | Path) -> Mapping[str, Tensor]:
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: is neither a weight file of this project nor a state dict of the original")
    return content


def _load_original(content: Mapping[str, Any], path: str | Path, cfg: str | None) -> LoadedModel:
    state = _state_dict_of(content, path)
    if cfg is None:
        raise InputError(f"{path}: a bare state dict says nothing of its model; name it with --cfg")
    spec: ModelSpec = read_spec(cfg)
    anchors = len(spec.head.anchors[0])
    biases = [value for key, value in state.items() if re.search(r"\.m\.\d+\.bias$", key)]
    if not biases or biases[-1].numel() % anchors or biases[-1].numel() // anchors <= 5:
        raise InputError(f"{path}: weights of another model: no detection convolution of {anchors} anchors")
    num_classes = biases[-1].numel() // anchors - 5
    model = Detector(spec, num_classes)
    import_state_dict(model, state, str(path))
    names = tuple(f"class{i}" for i in range(num_classes))
    return LoadedModel(model.eval(), names, spec.image_size, "", -1)
