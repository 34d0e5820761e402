"""An exported file as a `Network`, and the runtimes that open one."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from yolov7.config import InputError, RunError, from_mapping, option, to_mapping, unknown
from yolov7.config.errors import reason_of, shown
from yolov7.config.names import check_names, readable_names
from yolov7.config.options import MAX_COUNT, MAX_SIDE
from yolov7.config.schema import convert, is_finite
from yolov7.inference.torchscript import checked_archive
from yolov7.model.detector import MAX_STRIDE
from yolov7.model.heads.base import Channels, Decoder, Head, Predictions, find_head, head_arguments
from yolov7.model.spec import checked_size, parse_anchors
from yolov7.model.stored import checked_tensors
from yolov7.model.weights import ModelInfo
from yolov7.structures import HeadOutput

FORMAT, VERSION = "yolov7-exported", 1
KEY = "yolov7"  # of the metadata
INPUT = "RGB, the long side scaled to image_size, padded with grey 114 to multiples of stride"
FIXED_INPUT = "RGB, scaled to fit into {height} x {width}, padded with grey 114 to exactly that"
MAX_VALUES, MAX_TEXT, MAX_DEPTH = 1000, 200, 4  # of the arguments of a head: of a list, a text, of lists in lists
TASK_FACTS = ("block", "channels", "columns", "maps", "masks", "task_package", "arguments")
Run = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Thresholds:
    """What the NMS of an end-to-end graph keeps: detection's rules, the best class of each box alone."""

    confidence: float = option(0.25, "minimum score", low=0, high=1)
    iou: float = option(0.45, "maximum IoU of two detections of one class", low=0, high=1)
    most: int = option(100, "detections of an image", low=1, most=MAX_COUNT)  # named so in the files


@dataclass(frozen=True)
class ExportFacts:
    """What the user of an exported file needs to know."""

    model: str
    names: tuple[str, ...]
    image_size: int
    stride: int
    head: Literal["decoded", "raw", "end2end"]
    anchors: tuple[tuple[tuple[float, ...], ...], ...]  # [L, A, 2] pixels
    strides: tuple[int, ...]  # of the levels
    batch: int | None = None  # None: any
    height: int | None = None
    width: int | None = None
    thresholds: Thresholds | None = None  # of an end-to-end graph
    preprocess: bool = False  # input uint8 [B, H, W, 3] instead of float32 [B, 3, H, W] in 0..1
    data: str = ""
    merged: tuple[str, ...] = ()
    input: str = INPUT
    package: str = ""  # version
    format: str = FORMAT
    version: int = VERSION
    block: str = "AnchorHead"  # the head's name; this and what follows only where it is not a detector's
    channels: dict[str, int] = field(default_factory=dict)  # of the logits, in order
    columns: tuple[str, ...] = ()  # the task's outputs behind boxes and scores
    maps: tuple[str, ...] = ()  # behind those, one of each for an image
    masks: Literal["", "low", "full"] = ""  # the last output of an end-to-end graph, made of those: docs/deployment.md
    task_package: str = ""  # that the head comes with
    arguments: dict[str, Any] = field(default_factory=dict)  # of the head in the model's YAML


def facts_text(facts: ExportFacts) -> str:
    """The metadata of a file as JSON; a detector's says nothing of tasks, as before there were any."""
    detector = to_mapping(ExportFacts("", (), 0, 0, "raw", (), ()))
    mapping = {key: value for key, value in sorted(to_mapping(facts).items())
               if key not in TASK_FACTS or value != detector[key]}
    return json.dumps(mapping)  # not sorted below: the order of the channels counts


def read_facts(text: str | None, path: Path) -> ExportFacts:
    """The facts of a file's metadata; `InputError` where there are none, or for a head that is not installed."""
    try:
        mapping = json.loads(text or "{}")
    except (ValueError, RecursionError):
        mapping = {}
    if not isinstance(mapping, dict) or mapping.get("format") != FORMAT:
        raise InputError(f"{path}: holds no description of the network; accepted: files that export.py wrote")
    if mapping.get("version") != VERSION:
        raise InputError(f"{path}: format version {mapping.get('version')}; accepted: {VERSION}")
    facts = from_mapping(ExportFacts, mapping, f"{path}, metadata")
    _check_facts(facts, f"{path}, metadata")
    head = find_head(facts.block, str(path), facts.task_package)
    if facts.maps != head.map_names:
        raise InputError(f"{path}, metadata, maps: found {shown(facts.maps)}; accepted: those of {facts.block}, "
                         f"{', '.join(head.map_names) or 'none'}")
    arguments = _checked_arguments(facts, head, f"{path}, metadata")
    return replace(facts, names=readable_names(facts.names), merged=readable_names(facts.merged), arguments=arguments)


def _check_facts(facts: ExportFacts, where: str) -> None:
    check_names(facts.names, f"{where}, names")
    checked_size(facts.image_size, f"{where}, image_size")
    for key, values, most in (("stride", (facts.stride,), MAX_STRIDE), ("strides", facts.strides, MAX_STRIDE),
                              ("batch", (facts.batch,), MAX_COUNT), ("height", (facts.height,), MAX_SIDE),
                              ("width", (facts.width,), MAX_SIDE)):
        if wrong := [value for value in values if value is not None and not 1 <= value <= most]:
            raise InputError(f"{where}, {key}: found {shown(wrong[0])}; accepted: 1 to {most}")
    if facts.anchors or facts.block == "AnchorHead":  # the head of another task may have none
        parse_anchors(facts.anchors, len(facts.strides), f"{where}, anchors")
    if facts.channels and facts.channels.get("classes") != len(facts.names):
        raise InputError(f"{where}, channels: found {shown(facts.channels)}; accepted: {len(facts.names)} classes, as "
                         "names has")
    if facts.masks and facts.head != "end2end":
        raise InputError(f"{where}, masks: found {facts.masks} with the head {facts.head}; accepted: none")
    if facts.head == "end2end" and facts.thresholds is None:  # a graph without its NMS still has them
        raise InputError(f"{where}: the key 'thresholds' is missing; accepted: those of the graph's NMS")


def _checked_arguments(facts: ExportFacts, head: type[Head], where: str) -> dict[str, Any]:
    """The arguments of the head, of the types of its constructor: results, drawing and files read them."""
    if not _is_plain(facts.arguments):
        raise InputError(f"{where}, arguments: found {shown(facts.arguments)}; accepted: finite numbers, texts and "
                         f"lists of them, at most {MAX_VALUES} in each list")
    own = head_arguments(head)
    for key in facts.arguments:
        if key not in own:
            raise InputError(f"{where}, arguments: {unknown('key', key, own)}")
    checked = {key: convert(value, own[key].annotation, f"{where}, arguments, {key}")
               for key, value in facts.arguments.items()}
    if "keypoints" in facts.channels:
        _check_layout(checked, facts.channels["keypoints"] // 3, f"{where}, arguments")
    return checked


def _check_layout(arguments: Mapping[str, Any], count: int, where: str) -> None:
    """Names, limbs and sigmas of key points, as `yolov7.keypoints.layout_of` takes them."""
    names, limbs, sigmas = (arguments.get(key, ()) for key in ("keypoints", "limbs", "sigmas"))
    fits = (len(names) in (0, count) and len(set(names)) == len(names) and len(sigmas) in (0, count)
            and all(sigma > 0 for sigma in sigmas)
            and all(len(limb) == 2 and all(0 <= end < count for end in limb) for limb in limbs))
    if not fits:
        raise InputError(f"{where}: found {shown(dict(arguments))}; accepted: {count} different names of key points, "
                         "pairs of them as limbs, and sigmas above 0")


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is one that a model's YAML has for a head, and not more than anybody needs."""
    if isinstance(value, (dict, list, tuple)):
        parts = list(value.values()) if isinstance(value, dict) else value
        keys = list(value) if isinstance(value, dict) else []
        return depth < MAX_DEPTH and len(value) <= MAX_VALUES and all(_is_plain(part, depth + 1)
                                                                      for part in (*keys, *parts))
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    return value is None or (isinstance(value, (int, float)) and is_finite(value))


class ExportedNetwork:
    """A graph on the CPU behind ``run``: an input array -> its outputs in order.

    The outputs of a task stand behind a detector's: its columns, row by row beside the boxes, then its maps; with raw
    logits its maps alone.
    """

    device = torch.device("cpu")

    opened: tuple[Path, str] | None = None  # file and precision, by which a copy in another process opens it again
    gives_masks = False  # whether those that the graph makes are a column, too: a task makes its own

    def __init__(self, facts: ExportFacts, run: Run) -> None:
        self.facts, self.run, self._checked = facts, run, False
        self.info = ModelInfo(facts.names, facts.image_size, facts.data, facts.merged, facts.block, facts.model,
                              facts.arguments)
        self.stride = facts.stride
        self.shape = (facts.height, facts.width) if facts.height and facts.width else None
        self.task_outputs = (*facts.columns, *facts.maps)
        head = find_head(facts.block, facts.model, facts.task_package)
        channels = Channels(facts.channels or Channels.of(len(facts.names), {}).widths, reach=head.reach)
        self._decoder = Decoder(channels, torch.tensor(facts.anchors), facts.strides, head.decode_columns,
                                facts.arguments.get("class_score", False))

    def __reduce__(self) -> tuple[Callable[[Path, str], ExportedNetwork], tuple[Path, str]]:
        """Runtimes cannot be copied: what is pickled is the way to open the file."""
        if self.opened is None:
            raise TypeError("an exported network that no file was opened for cannot be pickled")
        return open_exported, self.opened

    def __call__(self, images: Tensor, confidence: float) -> list[Predictions]:
        """See `yolov7.inference.network.Network`."""
        if self.shape and tuple(images.shape[-2:]) != self.shape:
            raise ValueError(f"input of {tuple(images.shape[-2:])}; the file takes {self.shape}")
        array = images.numpy()
        if self.facts.preprocess:
            array = np.rint(array.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        read = {"decoded": self._rows, "raw": self._levels, "end2end": self._detections}[self.facts.head]
        found: list[Predictions] = []
        for part in self._batches(array):
            outputs = self._outputs(part)
            self._check(outputs)
            found += read(outputs, confidence)
        return found[: len(images)]

    def _outputs(self, images: np.ndarray) -> list[Tensor]:
        """What the runtime gives. Raises `InputError` for a graph that never ran, else `RunError`."""
        try:
            return [torch.from_numpy(output) for output in self.run(images)]
        except Exception as error:  # runtimes have no common base
            kind = RunError if self._checked else InputError
            raise kind(f"{self.facts.model}: the graph cannot be run on an input of {images.shape}: "
                       f"{reason_of(error)}") from None

    def _check(self, outputs: list[Tensor]) -> None:
        """Once: what the graph gives is what its description says, in finite numbers. Raises `InputError`."""
        if self._checked:
            return
        own = {"decoded": 2, "raw": len(self.facts.strides), "end2end": 4}[self.facts.head]
        of_task = (*(self.facts.columns if self.facts.head != "raw" else ()), *self.facts.maps)
        if len(outputs) != own + len(of_task) + bool(self.facts.masks):
            raise InputError(f"{self.facts.model}: the graph has {len(outputs)} outputs, not those of its metadata")
        place, expected = (0, self._decoder.channels.size) if self.facts.head == "raw" else (1, len(self.facts.names))
        if self.facts.head != "end2end" and tuple(outputs[place].shape[-1:]) != (expected,):
            raise InputError(f"{self.facts.model}: the graph has {tuple(outputs[place].shape[-1:])} columns where its "
                             f"description, of {len(self.facts.names)} classes, has {expected}")
        if not all(bool(torch.isfinite(output).all()) for output in outputs if output.is_floating_point()):
            raise InputError(f"{self.facts.model}: the graph gives numbers that are not finite (NaN or infinity): its "
                             "weights are damaged")
        self._checked = True

    def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Of the file's batch size, where it has one; the last is filled up."""
        size = self.facts.batch or len(images)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
            yield np.ascontiguousarray(filled)

    def _rows(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        boxes, scores, *others = outputs  # [B, M, 4], [B, M, C], multiplied already
        return [rows_above(boxes[index], scores[index], confidence, *self._of_task(others, index))
                for index in range(len(boxes))]

    def _levels(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        count = len(self.facts.strides)
        maps = dict(zip(self.facts.maps, outputs[count:], strict=True))
        return self._decoder.above(HeadOutput(tuple(outputs[:count]), maps=maps), confidence)

    def _detections(self, outputs: list[Tensor], confidence: float) -> list[Predictions]:
        boxes, scores, labels, counts, *others = outputs  # [B, K, 4], [B, K], [B, K], [B]
        found = []
        for index, count in enumerate(counts.flatten().tolist()):
            label = labels[index, :count].long()
            of_class = torch.zeros(count, len(self.info.names)).scatter_(1, label[:, None], scores[index, :count, None])
            columns, maps = self._of_task(others[:-1] if self.facts.masks else others, index)
            if self.facts.masks and self.gives_masks:
                columns["masks"] = others[-1][index]
            columns = {name: column[:count] for name, column in columns.items()}
            found.append(rows_above(boxes[index, :count], of_class, confidence, columns, maps))
        return found

    def _of_task(self, outputs: list[Tensor], index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Columns and maps of an image, of the outputs behind a detector's."""
        of_image, count = [output[index] for output in outputs], len(self.facts.columns)
        return (dict(zip(self.facts.columns, of_image[:count], strict=True)),
                dict(zip(self.facts.maps, of_image[count:], strict=True)))


def rows_above(boxes: Tensor, scores: Tensor, confidence: float, columns: Mapping[str, Tensor] = MappingProxyType({}),
               maps: Mapping[str, Tensor] = MappingProxyType({})) -> Predictions:
    """The rows of an image with a score above: boxes ``[M, 4]``, scores ``[M, C]``, multiplied already, a task's
    columns ``[M, ...]``."""
    row = (scores.amax(dim=-1) > confidence).nonzero().flatten()
    boxes, scores = boxes[row], scores[row]
    objectness = scores[:, 0] if scores.shape[-1] == 1 else torch.ones(len(scores))
    return Predictions(boxes, objectness, scores, {name: column[row] for name, column in columns.items()}, dict(maps))


# --- runtimes --------------------------------------------------------------------------------------------------


OPENVINO_FORMATS = {"fp32": "f32", "bf16": "bf16"}


def open_onnx(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """A file of ONNX Runtime, on as many threads as torch uses."""
    _as_exported(path, precision)
    onnxruntime = _package("onnxruntime", path)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4  # errors are raised too, and its log is in colour
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds without a common base
        raise _unreadable(path, "ONNX Runtime", error) from None
    name = session.get_inputs()[0].name
    facts = read_facts(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    return ExportedNetwork(facts, lambda images: session.run(None, {name: images}))


def open_torchscript(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """A traced graph."""
    _as_exported(path, precision)
    extra = {KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that this format grows old
            graph = torch.jit.load(checked_archive(path), map_location="cpu", _extra_files=extra).eval()  # type: ignore[no-untyped-call]
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _unreadable(path, "TorchScript", error) from None
    checked_tensors(graph.state_dict(), str(path))
    text: Any = extra[KEY]
    facts = read_facts(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, path)

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        tensor = torch.from_numpy(images)
        if tensor.is_floating_point():  # bytes [B, H, W, 3] are in this order already
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return [output.numpy() for output in graph(tensor)]

    return ExportedNetwork(facts, run)


def open_openvino(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """An ``.xml`` file with its ``.bin`` beside it; the runtime can compute it in bfloat16, all layers of it."""
    if precision not in OPENVINO_FORMATS:
        raise InputError(f"--precision {precision!r}: OpenVINO computes {path} in one of {', '.join(OPENVINO_FORMATS)} "
                         "(or export it with --fp16)")
    openvino = _package("openvino", path)
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        facts = read_facts(text, path)
        compiled = core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": OPENVINO_FORMATS[precision], "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads()})
    except RuntimeError as error:
        raise _unreadable(path, "OpenVINO", error) from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled.create_infer_request().infer([images])  # a request of its own: threads may share the network
        return [np.array(found[index]) for index in range(len(compiled.outputs))]

    return ExportedNetwork(facts, run)


OPENERS: dict[str, Callable[[Path, str], ExportedNetwork]] = {  # by suffix
    ".onnx": open_onnx, ".torchscript": open_torchscript, ".xml": open_openvino}


def open_exported(path: Path, precision: str = "fp32") -> ExportedNetwork:
    """The file's runtime by its suffix. Raises `InputError`."""
    network = OPENERS[path.suffix](path, precision)
    network.opened = Path(os.path.abspath(path)), precision
    return network


def _as_exported(path: Path, precision: str) -> None:
    if precision != "fp32":
        raise InputError(f"--precision {precision} is for weights and OpenVINO; {path} computes as it was exported")


def _package(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{path}: needs the package {name!r}: pip install 'yolov7-framework[export]'") from None


def _unreadable(path: Path, runtime: str, error: Exception) -> InputError:
    reason = next((line for line in reversed(str(error).strip().splitlines()) if line.strip()), type(error).__name__)
    return InputError(f"{path}: {runtime} cannot read it: {reason.strip()[:200]}")
