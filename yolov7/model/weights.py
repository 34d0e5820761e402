"""Weight files: ours, and through `reference` those of the reference implementation.

Our file is a dictionary of tensors and plain values, including the model definition, that
``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.config import InputError, atomic_write, reason_of
from yolov7.config.names import readable_names
from yolov7.model.detector import Detector
from yolov7.model.reference.layout import (
    OTHER_CLASSES,
    ImportReport,
    count_classes,
    depends_on_classes,
    identify,
    import_state_dict,
)
from yolov7.model.reference.reader import ReferenceCheckpoint, is_state_dict, read_reference, select_network
from yolov7.model.reparam import is_fused, reparameterize
from yolov7.model.spec import ModelSpec, parse_spec, read_spec
from yolov7.runtime.plugins import package_of

logger = logging.getLogger(__name__)

FORMAT = "yolov7-weights"
VERSION = 1


@dataclass(frozen=True)
class ModelInfo:
    """Names, sizes and head of a network, whatever it runs on."""

    names: tuple[str, ...]
    image_size: int = 640
    data: str = ""  # the --data it was trained on, '' where unknown
    merged: tuple[str, ...] = ()  # the classes of the data that are its only one, after --single-cls
    head: str = "AnchorHead"  # its task is found by this name


@dataclass(frozen=True)
class LoadedModel:
    """A model of a weight file, with what else the file says of it."""

    model: Detector
    names: tuple[str, ...]
    image_size: int
    data: str  # the --data it was trained on, '' where unknown
    epoch: int  # -1 where unknown
    merged: tuple[str, ...] = ()

    @property
    def info(self) -> ModelInfo:
        """The part that exported files have too."""
        return ModelInfo(self.names, self.image_size, self.data, self.merged, self.model.spec.head.block)


# --- our files -------------------------------------------------------------------------------------------------------


def describe(model: Detector, names: tuple[str, ...], image_size: int, data: str = "",
             merged: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain values of a weight file, from which the model is built again."""
    package = package_of(type(model.head))
    return {
        "format": FORMAT, "version": VERSION, "form": "fused" if is_fused(model) else "training",
        "definition": dict(model.spec.definition), "names": list(names), "image_size": image_size, "data": data,
        "merged": list(merged), **({"package": package} if package else {})}


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a weight file or checkpoint atomically: a reader sees the old one or the new one, never half of it."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    atomic_write(path, buffer.getvalue())


def read(path: str | Path) -> dict[str, Any] | ReferenceCheckpoint:
    """Read a weight file, ours or the reference implementation's, without executing anything in it.

    Raises `InputError` for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--weights {str(path)!r}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        if zipfile.is_zipfile(path):
            return read_reference(path)
        raise InputError(f"{path}: is not a weight file of this project or the reference implementation: "
                         f"{reason_of(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; accepted: a weight file or a state dict")
    if content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise InputError(f"{path}: format version {content.get('version')}; accepted: {VERSION}")
        return content
    state = select_network(content)
    if not is_state_dict(state):
        raise InputError(f"{path}: is neither a weight file of this project nor a state dict of the reference "
                         "implementation")
    return ReferenceCheckpoint(state, (), "")


def spec_of(path: str | Path) -> ModelSpec:
    """The model of a weight file, ours or the reference implementation's."""
    content = read(path)
    if isinstance(content, ReferenceCheckpoint):
        return identify(content.state, content.activation, str(path))
    return parse_spec(content["definition"], f"{path}, definition", content.get("package", ""))


def load_model(path: str | Path, cfg: str | None = None) -> LoadedModel:
    """Build the model of a weight file or checkpoint (its EMA weights where it has both), in evaluation mode.

    The model of weights of the reference implementation is found by their layers; ``cfg`` names it where several fit.
    """
    content = read(path)
    if isinstance(content, ReferenceCheckpoint):
        return _load_reference(content, path, cfg)
    spec = parse_spec(content["definition"], f"{path}, definition", content.get("package", ""))
    if cfg and read_spec(cfg).definition != spec.definition:
        raise InputError(f"--cfg {cfg!r}: {path} holds its own model, {spec.name}, which is another one; leave the "
                         "flag out")
    names = readable_names(content["names"])
    with torch.device("meta"):  # the weights are in the file
        model = Detector(spec, len(names))
        if content["form"] == "fused":
            model = reparameterize(model)
    state = content.get("ema") or content["model"]
    _load_strictly(model, state, str(path))
    return LoadedModel(model.eval(), names, content["image_size"], content.get("data", ""), content.get("epoch", -1),
                       readable_names(content.get("merged", ())))


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            expected = tuple(own[key].shape) if key in own else "nothing"
            raise InputError(f"{where}: weights of another model: {key} is {found}, expected {expected}")
    model.load_state_dict(state, assign=any(value.is_meta for value in own.values()))


def initialize_from(model: Detector, path: str | Path) -> ImportReport:
    """Copy the weights of a file, ours or the reference implementation's, into a training-form model.

    The detection convolutions keep their random weights where the class count differs. Raises `InputError` for weights
    of another model.
    """
    content = read(path)
    if isinstance(content, ReferenceCheckpoint):
        return import_state_dict(model, content.state, str(path))
    if content["form"] == "fused":
        raise InputError(f"{path}: is re-parameterized and cannot be trained; accepted: best.pt or last.pt of a run")
    state, own = content.get("ema") or content["model"], model.state_dict()
    same_classes = len(content["names"]) == model.num_classes
    kept = {key: value for key, value in state.items() if same_classes or not depends_on_classes(key)}
    missing = {key: value for key, value in own.items() if not same_classes and depends_on_classes(key)}
    _load_strictly(model, kept | missing, str(path))
    return ImportReport(len(kept), {OTHER_CLASSES: list(missing)} if missing else {})


def _load_reference(content: ReferenceCheckpoint, path: str | Path, cfg: str | None) -> LoadedModel:
    spec = read_spec(cfg) if cfg else identify(content.state, content.activation, str(path))
    num_classes = count_classes(content.state, len(spec.head.anchors[0]), str(path))
    model = Detector(spec, num_classes)
    report = import_state_dict(model, content.state, str(path))
    logger.info("%s: weights of the reference implementation for %s: %s", path, spec.name, report.text())
    fits = len(content.names) == num_classes
    names = readable_names(content.names if fits else (f"class{i}" for i in range(num_classes)))
    return LoadedModel(model.eval(), names, spec.image_size, "", -1)
