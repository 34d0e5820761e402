"""Checkpoints of the reference implementation, read without executing their code (docs/reference.md, Safe reading).

Such a file is a pickled module. Here every class in it becomes an inert stub, and its tensors are rebuilt by functions
of this module; a file that refers to anything that no checkpoint needs is refused before an object is made.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov7.config import InputError, reason_of
from yolov7.model.norms import EPSILON
from yolov7.model.stored import check_archive

MAX_MODULES = 100_000
MAX_DEPTH = 50

DTYPES = {
    "HalfStorage": torch.float16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
# Modules whose classes and functions occur in checkpoints. They become stubs all the same.
HARMLESS = ("models.", "torch.", "numpy", "_codecs", "utils.", "pathlib", "argparse")
LAYERS = {  # classes of the models that can be read, behind "models."
    *(f"common.{name}" for name in (
        "Conv", "Concat", "MP", "SP", "SPP", "SPPCSPC", "RepConv", "ReOrg", "DownC", "Shortcut", "Stem",
        "Bottleneck", "BottleneckCSPA", "BottleneckCSPB", "BottleneckCSPC", "Res", "ResCSPA", "ResCSPB", "ResCSPC",
        "ResXCSPA", "ResXCSPB", "ResXCSPC", "ImplicitA", "ImplicitM", "Proto", "Merge", "Refine",
    )),
    *(f"yolo.{name}" for name in ("Model", "SegmentationModel", "Detect", "IDetect", "IAuxDetect", "Segment",
                                  "ISegment", "IKeypoint", "MT")),
}

BRANCHES = {"IRSegment": "YOLOv7-seg (with a refine module)", "IBin": "YOLOv7-bin"}


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """The network in a file of the reference implementation."""

    state: Mapping[str, Tensor]  # in the order of its layers, types as stored
    names: tuple[str, ...]  # of the classes; () where unknown
    activation: str  # as in our configs; "" where unknown
    header: dict[str, Any] | None = None  # what `export.py --format original` adds: model, names, size


class _Stub:
    """Replaces an object whose class is not loaded: keeps its attributes, does nothing."""

    path = ""  # full name of the class

    def __new__(cls, *_: Any, **__: Any) -> _Stub:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({key: value for key, value in state.items() if isinstance(key, str)})

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Items of unknown list classes are not kept."""

    def extend(self, items: Any) -> None:
        """Items of unknown list classes are not kept."""


class _Storage:
    """Replaces a storage class: the element type of a persistent id."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(pickle._Unpickler):
    """Builds plain values, tensors and stubs; never looks up a real class.

    Of Python, not of C, whose memory grows to the largest number that the file gives to one of its values.
    """

    def __init__(self, archive: zipfile.ZipFile, entry: str) -> None:
        super().__init__(io.BytesIO(archive.read(entry)), encoding="utf-8")
        self._archive = archive
        self._folder = entry.removesuffix(".pkl")
        self._storages: dict[str, Tensor] = {}
        self._stubs: dict[str, type[_Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A harmless replacement of a global; raises `InputError` with its name for any other."""
        path = f"{module}.{name}"
        replacements: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict, "__builtin__.set": set, "builtins.set": set,
            "__builtin__.getattr": _Stub, "builtins.getattr": _Stub,  # of the branch for segments: nothing is looked up
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor, "torch._utils._rebuild_parameter": _first_argument}
        if path in replacements:
            return replacements[path]
        if module == "torch" and name in DTYPES:
            return _Storage(DTYPES[name])
        if not path.startswith(HARMLESS):
            raise InputError(f"the file refers to {path[:200]}, which no checkpoint of the reference implementation "
                             "needs; it was not opened")
        if path not in self._stubs:
            self._stubs[path] = type("_Stub", (_Stub,), {"path": path})
        return self._stubs[path]

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor, read once."""
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError("compressed tensors")
            data = bytearray(self._archive.read(entry))
            size = torch.empty((), dtype=storage.dtype).element_size()
            if len(data) < count * size:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes of {count * size}")
            flat = torch.frombuffer(data, dtype=storage.dtype, count=count) if count else torch.empty(0)
            self._storages[key] = flat.to(storage.dtype)
        return self._storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a flat storage that stays inside it."""
    count = math.prod(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset), default=0) < 0 or count > len(storage) or (count and last >= len(storage)):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} lies outside its storage")
    return storage.as_strided(size, stride, offset)


def _first_argument(tensor: Any, *_: Any) -> Any:
    return tensor


def read_reference(path: str | Path) -> ReferenceCheckpoint:
    """Read a pickled checkpoint of the reference implementation: its EMA weights where it has them, else its weights.

    Raises `InputError` for anything else, such as damaged or malicious files; nothing in the file is executed.
    """
    root = select_network(_unpickle(path))
    if is_state_dict(root):
        return ReferenceCheckpoint(root, (), "")
    if not isinstance(root, _Stub) or not isinstance(vars(root).get("_modules"), dict):
        raise InputError(f"{path}: holds no network of the reference implementation; looked for 'ema', 'model' "
                         "and 'state_dict'")
    modules = list(islice(_walk(root, "", 0, path), MAX_MODULES + 1))
    if len(modules) > MAX_MODULES:
        raise InputError(f"{path}: has more than {MAX_MODULES} layers")
    for _, module in modules:
        if module.path.startswith("models.") and module.path.removeprefix("models.") not in LAYERS:
            branch = next((f"a {name} checkpoint, a network that is not yet supported; it" for part, name in
                           BRANCHES.items() if part in module.path), "of another kind: it")
            raise InputError(f"{path}: is {branch} has layers of the class {module.path[:200]}: a network of another "
                             "project, or of another branch of the reference implementation")
        if module.path.endswith("BatchNorm2d") and abs(vars(module).get("eps", 0) - EPSILON) > 1e-9:
            raise InputError(f"{path}: has batch norm with epsilon {vars(module).get('eps')}; accepted: "
                             f"{EPSILON}, as in the reference implementation's detection models")
    names = vars(root).get("names")
    if isinstance(names, dict) and list(names) == list(range(len(names))):  # of the branch for masks
        names = list(names.values())
    known = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
    return ReferenceCheckpoint(_state_dict(modules), tuple(known), _activation(modules))


def select_network(content: Any) -> Any:
    """The network in a checkpoint's dictionary (EMA weights first), or the content itself."""
    keys = ("ema", "model", "state_dict")
    if isinstance(content, dict):
        return next((content[key] for key in keys if content.get(key) is not None), content)
    return content


def is_state_dict(content: Any) -> bool:
    """Whether this is a dictionary of tensors, and not an empty one."""
    return isinstance(content, dict) and bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _unpickle(path: str | Path) -> Any:
    check_archive(Path(path))
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(entries) != 1:
                raise InputError(f"{path}: is an archive without data.pkl; accepted: a file that torch.save wrote")
            order = entries[0].replace("data.pkl", "byteorder")
            if order in archive.namelist() and archive.read(order) != b"little":
                raise InputError(f"{path}: was written on a machine of another byte order")
            return _Unpickler(archive, entries[0]).load()
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path}: is not a file of torch.save, or one of a version before 1.6 or cut off; accepted: "
                         "a zip archive (load and save it again with a newer torch)") from None
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path}: is damaged: {reason_of(error)}") from None


def _walk(module: _Stub, prefix: str, depth: int, path: str | Path) -> Iterator[tuple[str, _Stub]]:
    """Modules with their dotted names, depth first, in stored order."""
    if depth > MAX_DEPTH:
        raise InputError(f"{path}: has a network nested deeper than {MAX_DEPTH} layers")
    yield prefix, module
    children = vars(module).get("_modules")
    for name, child in (children if isinstance(children, dict) else {}).items():
        if isinstance(child, _Stub):
            yield from _walk(child, f"{prefix}{name}.", depth + 1, path)


def _state_dict(modules: list[tuple[str, _Stub]]) -> dict[str, Tensor]:
    """Parameters, then buffers, module by module: the order of a state dict."""
    return {f"{prefix}{name}".removeprefix("module."): value
            for prefix, module in modules for name, value in _own_tensors(module)}


def _own_tensors(module: _Stub) -> Iterator[tuple[str, Tensor]]:
    hidden = vars(module).get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set) else set()
    for group in (vars(module).get("_parameters"), vars(module).get("_buffers")):
        entries = group.items() if isinstance(group, dict) else ()
        yield from ((name, value) for name, value in entries if isinstance(value, Tensor) and name not in hidden)


def _activation(modules: list[tuple[str, _Stub]]) -> str:
    kinds = {"torch.nn.modules.activation.LeakyReLU": "leaky_relu", "torch.nn.modules.activation.SiLU": "silu"}
    return next((kinds[module.path] for _, module in modules if module.path in kinds), "")
