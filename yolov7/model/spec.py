"""Model YAML -> `ModelSpec`, checked by name and type before a tensor is made.

The YAML lists named nodes with their blocks; each is fed by the node above it unless ``from`` names others. Nothing in
it is evaluated. A model may be another one scaled (``scale_of``, see `scaling`).
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import yolov7.model.csp
import yolov7.model.merging  # noqa: F401  # these register blocks
from yolov7.config import InputError, convert, find_yaml, from_mapping, read_yaml, unknown
from yolov7.config.errors import shown
from yolov7.config.options import MAX_SIDE
from yolov7.model import scaling
from yolov7.model.blocks import BLOCKS
from yolov7.model.heads.base import Anchors, find_head, head_arguments
from yolov7.model.norms import ACTIVATIONS

logger = logging.getLogger(__name__)

IMAGE = "image"  # name of the network input
KEYS = ("name", "recipe", "image_size", "activation", "nodes", "head", "paper")
MIN_SIDE = 32
MAX_NAME = 200
MAX_NODES, MAX_LEVELS, MAX_ANCHORS, MAX_ANCHOR = 500, 8, 32, 100_000.0  # the last one in pixels
LIMITS = {"depth": 100, "keypoint_depth": 100, "kernel": 31, "stride": 8}  # the largest published: 15, 7 and 2
MAX_CHANNELS = 16_384  # of a node, and of every other whole number of a block; the largest published: 1536
TAKEN = frozenset(dir(nn.ModuleDict()))  # no node can have these names
HEAD_KEYS = ("block", "from", "auxiliary", "maps", "anchors", "implicit")


@dataclass(frozen=True)
class NodeSpec:
    """One node of the graph. Its inputs are nodes, or extra outputs of nodes: ``node.output``."""

    name: str
    block: str
    inputs: tuple[str, ...]
    arguments: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the feature maps that the node returns."""
        return (self.name, *(f"{self.name}.{extra}" for extra in BLOCKS[self.block].extra_outputs))


@dataclass(frozen=True)
class HeadSpec:
    """The detection head: which nodes feed its levels (finest first), and its anchors in pixels.

    ``auxiliary`` feeds the head that is used in training alone; empty, or as many nodes as levels. ``maps`` are nodes
    that the head reads beside its levels, such as the bases of masks.
    """

    inputs: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]  # [L, A, 2] width, height
    implicit: bool
    auxiliary: tuple[str, ...] = ()
    block: str = "AnchorHead"
    arguments: Mapping[str, Any] = field(default_factory=dict)  # those of `block` alone
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperFigures:
    """What the paper says of a model: millions of parameters, GFLOPs and AP on val2017."""

    parameters: float | None = None
    gflops: float | None = None
    AP: float | None = None  # noqa: N815  # the field's name for it
    size: int | None = None  # of gflops and AP, where it is not the model's nominal size
    note: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A whole network, with the recipe and image size of its training."""

    name: str
    recipe: str
    image_size: int
    activation: str
    nodes: tuple[NodeSpec, ...]
    head: HeadSpec
    definition: Mapping[str, Any]  # plain values, already scaled; stored in weight files
    paper: PaperFigures = PaperFigures()

    def deployed(self) -> ModelSpec:
        """The graph without auxiliary heads and the nodes that only they read."""
        nodes = self.nodes_of((*self.head.inputs, *self.head.maps))
        return dataclasses.replace(self, nodes=nodes, head=dataclasses.replace(self.head, auxiliary=()))

    def nodes_of(self, outputs: Sequence[str]) -> tuple[NodeSpec, ...]:
        """The nodes that some outputs depend on."""
        needed = set(outputs)
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
        return tuple(node for node in self.nodes if needed & set(node.outputs))

    def with_anchors(self, anchors: Anchors) -> ModelSpec:
        """The same network with other anchors ``[L, A, 2]`` in pixels, also in its definition."""
        plain = [[[float(side) for side in pair] for pair in level] for level in anchors]
        checked = parse_anchors(plain, len(self.head.inputs), f"{self.name}.head, anchors")
        definition = {**self.definition, "head": {**self.definition["head"], "anchors": plain}}
        return dataclasses.replace(self, head=dataclasses.replace(self.head, anchors=checked), definition=definition)

    def with_head_arguments(self, arguments: Mapping[str, Any]) -> ModelSpec:
        """The same network with other arguments of its head, also in its definition. Raises `InputError`."""
        return parse_spec({**self.definition, "head": {**self.definition["head"], **arguments}}, self.name)


def read_spec(name: str) -> ModelSpec:
    """Read a model by path or by its shipped name (``--cfg``); raises `InputError`."""
    path = find_yaml(name, "cfg", "--cfg")
    definition, roundings = scaling.resolve(read_yaml(path), str(path), _read_base)
    for rounding in roundings:
        logger.log(logging.DEBUG if rounding.key == "depth" else logging.WARNING, "%s", rounding)
    return parse_spec(definition, str(path))


def _read_base(name: str) -> Mapping[str, Any]:
    path = find_yaml(name, "cfg", "scale_of")
    definition = read_yaml(path)
    if "scale_of" not in definition:
        parse_spec({key: value for key, value in definition.items() if key not in scaling.DERIVED_KEYS}, str(path))
    return definition


def scaled_spec(spec: ModelSpec, scale: scaling.Scale, name: str = "") -> tuple[ModelSpec, list[scaling.Rounding]]:
    """A model with its arguments scaled, called ``name``, and the values that had to be rounded."""
    definition, roundings = scaling.apply_scale({**spec.definition, "name": name or f"{spec.name}-scaled"}, scale,
                                                spec.name)
    return parse_spec(definition, f"{spec.name}, scaled"), roundings


def parse_spec(definition: Mapping[str, Any], where: str, package: str = "") -> ModelSpec:
    """Check a model definition. ``where`` names its source in messages, ``package`` the package of its head."""
    if not isinstance(definition, Mapping):
        raise InputError(f"{where}: found {shown(definition)}; accepted: keys {', '.join(KEYS)}")
    for key in definition:
        if key not in KEYS:
            raise InputError(f"{where}: {unknown('key', key, (*KEYS, *scaling.DERIVED_KEYS))}")
    for key in ("name", "nodes", "head"):
        if key not in definition:
            raise InputError(f"{where}: the key {key!r} is missing")
    name = convert(definition["name"], str, f"{where}, name")
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
        raise InputError(f"{where}, name: found {shown(name)}; accepted: 1 to {MAX_NAME} printable characters")
    activation = convert(definition.get("activation", "silu"), str, f"{where}, activation")
    if activation not in ACTIVATIONS:
        raise InputError(f"{where}, activation: {unknown('activation', activation, ACTIVATIONS)}")
    nodes = _parse_nodes(definition["nodes"], name, where)
    head = _parse_head(definition["head"], nodes, f"{where}, {name}.head", package)
    _check_all_read(nodes, head, f"{where}, {name}")
    return ModelSpec(
        name=name,
        recipe=convert(definition.get("recipe", "custom"), str, f"{where}, recipe"),
        image_size=checked_size(definition.get("image_size", 640), f"{where}, image_size"),
        activation=activation,
        nodes=nodes,
        head=head,
        definition={key: value for key, value in definition.items() if key != "paper"},
        paper=from_mapping(PaperFigures, definition.get("paper", {}), f"{where}, paper"))


def checked_size(value: Any, where: str) -> int:
    """The side of a network input, in pixels. Raises `InputError`."""
    size: int = convert(value, int, where)
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise InputError(f"{where}: found {shown(size)}; accepted: {MIN_SIDE} to {MAX_SIDE}")
    return size


def _parse_nodes(mapping: Any, model: str, where: str) -> tuple[NodeSpec, ...]:
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{where}, nodes: found {shown(mapping)}; accepted: node names, each with a block")
    if len(mapping) > MAX_NODES:
        raise InputError(f"{where}, nodes: found {len(mapping)} nodes; accepted: at most {MAX_NODES}")
    nodes: list[NodeSpec] = []
    for name, content in mapping.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w{0,99}", name) or name == IMAGE:
            raise InputError(f"{where}: node name {shown(name)}; accepted: letters, digits and _ (at most 100), not "
                             f"{IMAGE!r}")
        if name in TAKEN:
            raise InputError(f"{where}: node name {name!r}; accepted: another one, such as '{name}_1' (PyTorch has its "
                             "own use for this name)")
        nodes.append(_parse_node(name, content, nodes, list(mapping), f"{where}, {model}.{name}"))
    return tuple(nodes)


def _parse_node(name: str, content: Any, above: Sequence[NodeSpec], later: list[str], where: str) -> NodeSpec:
    if not isinstance(content, dict) or "block" not in content:
        raise InputError(f"{where}: found {shown(content)}; accepted: {{block: ..., ...}}")
    block = convert(content["block"], str, f"{where}, block")
    if block not in BLOCKS:
        raise InputError(f"{where}: {unknown('block', block, sorted(BLOCKS))}")
    inputs = _parse_inputs(content.get("from", above[-1].name if above else IMAGE), above, later, where)
    count = BLOCKS[block].inputs
    if (count and len(inputs) != count) or (not count and len(inputs) < 2):
        raise InputError(f"{where}: {block} takes {count or 'two or more'} inputs, found {len(inputs)}")
    arguments = {key: value for key, value in content.items() if key not in ("block", "from")}
    parameters = dict(inspect.signature(BLOCKS[block], eval_str=True).parameters)
    del parameters["in_channels"]
    return NodeSpec(name, block, inputs, _check_arguments(block, parameters, arguments, where))


def _parse_inputs(value: Any, above: Sequence[NodeSpec], later: list[str], where: str) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if len(names) > MAX_NODES:
        raise InputError(f"{where}, from: found {len(names)} nodes; accepted: at most {MAX_NODES}")
    known = [IMAGE, *(output for node in above for output in node.outputs)]
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{where}, from: found {shown(name)}; accepted: names of nodes")
        if name in later and name not in known:
            raise InputError(f"{where}, from: {name!r} stands further below; a node takes nodes above it only")
        if name not in known:
            raise InputError(f"{where}, from: {unknown('node', name, known)}")
    return names


def _check_all_read(nodes: Sequence[NodeSpec], head: HeadSpec, where: str) -> None:
    read = {name for node in nodes for name in node.inputs} | {*head.inputs, *head.auxiliary, *head.maps}
    for node in nodes:
        if not read & set(node.outputs):
            raise InputError(f"{where}.{node.name}: is read by no other node and not by the head; accepted: a node "
                             "that something reads, or none")


def _check_arguments(block: str, parameters: Mapping[str, inspect.Parameter], arguments: dict[str, Any],
                     where: str) -> dict[str, Any]:
    """The arguments of a block or head, checked against the signature of its constructor."""
    for key in arguments:
        if key not in parameters:
            raise InputError(f"{where}: {block} has no argument {shown(key)}: {unknown('argument', key, parameters)}")
    for key, parameter in parameters.items():
        if key not in arguments and parameter.default is inspect.Parameter.empty:
            raise InputError(f"{where}: {block} needs the argument {key!r}")
    checked = {key: convert(value, parameters[key].annotation, f"{where}, {key}") for key, value in arguments.items()}
    for key, value in checked.items():
        limit = LIMITS.get(key, MAX_CHANNELS)
        if parameters[key].annotation is int and not 1 <= value <= limit:
            raise InputError(f"{where}, {key}: found {shown(value)}; accepted: at least 1 and at most {limit}")
    return checked


def _parse_head(content: Any, nodes: Sequence[NodeSpec], where: str, package: str) -> HeadSpec:
    if not isinstance(content, dict):
        raise InputError(f"{where}: found {shown(content)}; accepted: keys {', '.join(HEAD_KEYS)}")
    block = convert(content.get("block"), str, f"{where}, block")
    own = head_arguments(find_head(block, where, package))
    for key in content:
        if key not in (*HEAD_KEYS, *own):
            raise InputError(f"{where}: {unknown('key', key, (*HEAD_KEYS, *own))}")
    for key in ("from", "anchors"):
        if key not in content:
            raise InputError(f"{where}: the key {key!r} is missing")
    inputs = _parse_inputs(content["from"], nodes, [], where)
    auxiliary = _parse_inputs(content.get("auxiliary", ()), nodes, [], f"{where}, auxiliary")
    if auxiliary and len(auxiliary) != len(inputs):
        raise InputError(f"{where}, auxiliary: found {len(auxiliary)} nodes; accepted: none, or one for each of the "
                         f"{len(inputs)} levels")
    maps = _parse_inputs(content.get("maps", ()), nodes, [], f"{where}, maps")
    anchors = parse_anchors(content["anchors"], len(inputs), f"{where}, anchors")
    given = {key: value for key, value in content.items() if key in own}
    return HeadSpec(inputs, anchors, convert(content.get("implicit", True), bool, f"{where}, implicit"), auxiliary,
                    block, _check_arguments(block, own, given, where), maps)


def parse_anchors(content: Any, levels: int, where: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Sides ``[L, A, 2]`` of anchors in pixels. Raises `InputError`."""
    rows = content if isinstance(content, (list, tuple)) else ()
    if len(rows) > MAX_LEVELS or any(isinstance(row, (list, tuple)) and len(row) > MAX_ANCHORS for row in rows):
        raise InputError(f"{where}: found {shown(content)}; accepted: at most {MAX_LEVELS} levels of {MAX_ANCHORS}")
    anchors: tuple[tuple[tuple[float, float], ...], ...] = convert(content, tuple[tuple[tuple[float, ...], ...], ...],
                                                                   where)
    counts = {len(level) for level in anchors}
    if len(anchors) != levels or len(counts) != 1 or 0 in counts or any(len(pair) != 2 for level in anchors
                                                                        for pair in level):
        raise InputError(f"{where}: found {[len(level) for level in anchors]} anchors for {levels} inputs; accepted: "
                         "one list per input, equally long, of [width, height] pairs")
    for side in (side for level in anchors for pair in level for side in pair):
        if not 0 < side <= MAX_ANCHOR:
            raise InputError(f"{where}: found a side of {side:g} pixels; accepted: above 0, at most {MAX_ANCHOR:g}")
    return anchors
