"""Weight files: ours, and through `reference` those of the reference implementation.

Our file is a dictionary of tensors and plain values, including the model definition, that
``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yolov7.config import InputError, atomic_write, from_mapping, is_file, to_mapping
from yolov7.config.errors import shown
from yolov7.config.names import check_names, readable_names
from yolov7.model.detector import Detector
from yolov7.model.missing import no_weights
from yolov7.model.reference.layout import (
    NOT_IN_FILE,
    OTHER_CLASSES,
    ImportReport,
    count_classes,
    depends_on_classes,
    head_of,
    identify,
    import_state_dict,
)
from yolov7.model.reference.mit import from_mit, is_mit
from yolov7.model.reference.reader import ReferenceCheckpoint, is_state_dict, read_reference, select_network
from yolov7.model.reparam import is_fused, reparameterize
from yolov7.model.spec import ModelSpec, checked_size, parse_spec, read_spec
from yolov7.model.stored import check_archive, check_values, checked_tensors, is_archive
from yolov7.model.transfer import transfer
from yolov7.runtime.plugins import package_of

logger = logging.getLogger(__name__)

FORMAT = "yolov7-weights"
HEADER = "yolov7"  # key of our plain values in a file of the reference implementation's layout
VERSION = 1


@dataclass(frozen=True)
class ModelInfo:
    """Names, sizes and head of a network, whatever it runs on."""

    names: tuple[str, ...]
    image_size: int = 640
    data: str = ""  # the --data it was trained on, '' where unknown
    merged: tuple[str, ...] = ()  # the classes of the data that are its only one, after --single-cls
    head: str = "AnchorHead"  # its task is found by this name
    model: str = ""  # name of the definition, '' where unknown
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the head in the definition


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
        return ModelInfo(self.names, self.image_size, self.data, self.merged, self.model.spec.head.block,
                         self.model.spec.name, self.model.spec.head.arguments)


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
    atomic_write(path, packed(content))


def packed(content: Mapping[str, Any]) -> memoryview:
    """The bytes of a weight file: a copy of everything in it."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getbuffer()


def read(path: str | Path) -> dict[str, Any] | ReferenceCheckpoint:
    """Read a weight file, ours or the reference implementation's, without executing anything in it.

    What is returned of ours has all keys of `_Header`, checked. Raises `InputError` for any other file.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(no_weights(path))
    if not is_archive(path):  # a bare pickle, as torch wrote before 1.6, has no bounds that could be checked
        raise InputError(f"{path}: is not a weight file of this project or the reference implementation, which are zip "
                         "archives that torch.save wrote (one of torch before 1.6: load and save it again)")
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for damaged and foreign files
        return read_reference(path)
    check_values(content, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; accepted: a weight file or a state dict")
    if content.get("format") == FORMAT:
        return content | to_mapping(_header(content, path), whole=True)
    state = select_network(content)
    if not is_state_dict(state):
        raise InputError(f"{path}: is neither a weight file of this project nor a state dict of the reference "
                         "implementation")
    if is_mit(state):
        logger.info("%s: MIT-licensed weights of v7; its pools are taken as parallel", path)
        state = from_mit(state, str(path))
    return ReferenceCheckpoint(state, (), "", _reference_header(content, path))


def reference_content(description: Mapping[str, Any], state: Mapping[str, Tensor], epoch: int) -> dict[str, Any]:
    """A state dict in the reference implementation's layout as its commands look for it, with what `describe` gives.

    They read ``model``, and what else a checkpoint of theirs has; a module is made of it there (docs/deployment.md).
    """
    nothing = dict.fromkeys(("ema", "updates", "optimizer", "best_fitness", "training_results", "wandb_id"))
    return {"epoch": epoch, **nothing, "model": dict(state), "names": description["names"],
            HEADER: dict(description) | {"epoch": epoch}}


def _reference_header(content: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """What `reference_content` wrote beside the state, checked."""
    if (found := content.get(HEADER)) is None:
        return None
    if not isinstance(found, dict):
        raise InputError(f"{path}, {HEADER}: found {shown(found)}; accepted: what export.py writes")
    return to_mapping(_header(found, path), whole=True)


@dataclass(frozen=True)
class _Header:
    """The plain values of a weight file."""

    form: Literal["fused", "training"]
    definition: dict[str, Any]
    names: tuple[str, ...]
    image_size: int
    data: str = ""
    merged: tuple[str, ...] = ()
    package: str = ""
    epoch: int = -1


def _header(content: dict[Any, Any], path: Path) -> _Header:
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise InputError(f"{path}: format version {shown(version)}; accepted: {VERSION}")
    known = [field.name for field in dataclasses.fields(_Header)]
    header = from_mapping(_Header, {key: content[key] for key in known if key in content}, str(path))
    check_names(header.names, f"{path}, names")
    checked_size(header.image_size, f"{path}, image_size")
    return header


def _state_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights of a file, those of the average where it has both."""
    key = "model" if content.get("ema") is None else "ema"
    if key not in content:
        raise InputError(f"{path}: the key 'model' is missing; accepted: a file that train.py or export.py wrote")
    return checked_tensors(content[key], f"{path}, {key}")


Content = dict[str, Any] | ReferenceCheckpoint  # what `read` gives


def spec_of(path: str | Path, content: Content | None = None) -> ModelSpec:
    """The model of a weight file, ours or the reference implementation's, whose ``content`` may be read already."""
    content = read(path) if content is None else content
    if isinstance(content, ReferenceCheckpoint):
        return _spec_of_reference(content, path, None)
    return parse_spec(content["definition"], f"{path}, definition", content["package"])


def stored_size(content: Content) -> int | None:
    """The size of network input that the weights of a file were trained for; None where it does not say."""
    if isinstance(content, ReferenceCheckpoint):
        return content.header["image_size"] if content.header else None
    return int(content["image_size"])


def load_model(path: str | Path, cfg: str | None = None) -> LoadedModel:
    """Build the model of a weight file or checkpoint (its EMA weights where it has both), in evaluation mode.

    The model of weights of the reference implementation is found by their layers; ``cfg`` names it where several fit.
    """
    content = read(path)
    if isinstance(content, ReferenceCheckpoint):
        return _load_reference(content, path, cfg)
    spec = parse_spec(content["definition"], f"{path}, definition", content["package"])
    if cfg and read_spec(cfg).definition != spec.definition:
        raise InputError(f"--cfg {cfg!r}: {path} holds its own model, {spec.name}, which is another one; leave the "
                         "flag out")
    names = readable_names(content["names"])
    with torch.device("meta"):  # the weights are in the file
        model = Detector(spec, len(names))
        if content["form"] == "fused":
            model = reparameterize(model)
    _load_strictly(model, _state_of(content, path), str(path))
    return LoadedModel(model.eval(), names, content["image_size"], content["data"], content["epoch"],
                       readable_names(content["merged"]))


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            expected = tuple(own[key].shape) if key in own else "nothing"
            raise InputError(f"{where}: weights of another model: {str(key)[:100]} is {found}, expected {expected}")
        if own[key].is_floating_point() != state[key].is_floating_point():
            raise InputError(f"{where}: {key} is of type {state[key].dtype}; accepted: {own[key].dtype}")
    model.load_state_dict(state, assign=any(value.is_meta for value in own.values()))


def initialize_from(model: Detector, path: str | Path, content: Content | None = None) -> ImportReport:
    """Copy the weights of a file, ours or the reference implementation's, into a training-form model.

    Its ``content`` may be read already.
    The detection convolutions of a detector keep their random weights where the class count differs; masks and key
    points start from detectors, too, and from other classes or key points (see `transfer`). Raises `InputError` for
    weights of another model.
    """
    content = read(path) if content is None else content
    if isinstance(content, ReferenceCheckpoint):
        if {head_of(content.state), type(model.head).__name__} == {"AnchorHead"}:
            return import_state_dict(model, checked_tensors(content.state, str(path)), str(path))
        with torch.random.fork_rng(devices=[]):  # what is random in the run stays what it is without this
            return transfer(_source_of_reference(content, path, model), model, str(path))
    if content["form"] == "fused":
        raise InputError(f"{path}: is re-parameterized and cannot be trained; accepted: best.pt or last.pt of a run")
    head = content["definition"].get("head")
    if {model.spec.head.block, head.get("block") if isinstance(head, dict) else None} != {"AnchorHead"}:
        with torch.random.fork_rng(devices=[]):
            return transfer(_in_training_form(content, path), model, str(path))
    state, own = _state_of(content, path), model.state_dict()
    same_classes = len(content["names"]) == model.num_classes
    kept = {key: value for key, value in state.items() if same_classes or not depends_on_classes(key)}
    missing = {key: value for key, value in own.items() if not same_classes and depends_on_classes(key)}
    _load_strictly(model, kept | missing, str(path))
    return ImportReport(len(kept), {OTHER_CLASSES: list(missing)} if missing else {})


def _in_training_form(content: dict[str, Any], path: str | Path) -> Detector:
    """The network of one of our files, as it was trained."""
    spec = spec_of(path, content)
    with torch.device("meta"):  # the weights are in the file
        model = Detector(spec, len(content["names"]))
    _load_strictly(model, _state_of(content, path), str(path))
    return model


def _source_of_reference(content: ReferenceCheckpoint, path: str | Path, model: Detector) -> Detector:
    """The network of a file of the reference implementation, which may be one that is not shipped: the model's own."""
    state = checked_tensors(content.state, str(path))
    activation = content.activation or model.spec.activation
    try:
        spec = _spec_of_reference(dataclasses.replace(content, activation=activation), path, None)
    except InputError:
        if head_of(state) != type(model.head).__name__:
            raise
        spec = model.spec
    source = Detector(spec, count_classes(state, len(spec.head.anchors[0]), str(path)))
    report = import_state_dict(source, state, str(path))
    if any("auxiliary" in key for key in report.fresh.get(NOT_IN_FILE, ())):
        source.drop_auxiliary()
    return source


def _load_reference(content: ReferenceCheckpoint, path: str | Path, cfg: str | None) -> LoadedModel:
    state = checked_tensors(content.state, str(path))
    spec, header = _spec_of_reference(content, path, cfg), content.header
    num_classes = count_classes(state, len(spec.head.anchors[0]), str(path))
    model = Detector(spec, num_classes)
    report = import_state_dict(model, state, str(path))
    logger.info("%s: weights of the reference implementation for %s: %s", path, spec.name, report.text())
    if header is None:
        return LoadedModel(model.eval(), _reference_names(content.names, num_classes, path), spec.image_size, "", -1)
    return LoadedModel(model.eval(), _reference_names(tuple(header["names"]), num_classes, path), header["image_size"],
                       header["data"], header["epoch"], readable_names(header["merged"]))


def _spec_of_reference(content: ReferenceCheckpoint, path: str | Path, cfg: str | None) -> ModelSpec:
    """The model that ``cfg`` names, that the file names, or that its layers are of."""
    if content.header is not None and not cfg:
        return parse_spec(content.header["definition"], f"{path}, definition", content.header["package"])
    spec = read_spec(cfg) if cfg else identify(content.state, content.activation, str(path))
    if spec.head.block == "PublishedPoseHead" and content.header is None:
        return spec.with_head_arguments({"class_score": True})  # as its scores were made, and its results measured
    return spec


def _reference_names(names: tuple[str, ...], num_classes: int, path: str | Path) -> tuple[str, ...]:
    """The file's names where they fit; a state dict has none."""
    if len(names) == num_classes:
        names = readable_names(names)
        check_names(names, f"{path}, names")
        return names
    return tuple(f"class{i}" for i in range(num_classes))
