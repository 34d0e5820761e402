"""Model YAML -> `ModelSpec`: checked by name and type, before a single tensor is made.

The YAML holds facts only: composite blocks with named nodes, each fed by the node above it unless ``from`` names
others. Nothing in it is evaluated.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yolov7.config import InputError, convert, find_yaml, read_yaml, unknown
from yolov7.model.blocks import ACTIVATIONS, BLOCKS

IMAGE = "image"  # name of the network input
KEYS = ("name", "recipe", "image_size", "activation", "nodes", "head")
HEAD_KEYS = ("block", "from", "anchors", "implicit")


@dataclass(frozen=True)
class NodeSpec:
    """One node of the graph."""

    name: str
    block: str
    inputs: tuple[str, ...]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class HeadSpec:
    """The detection head: which nodes feed its levels (finest first), and its anchors in pixels."""

    inputs: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]  # [L, A, 2] width, height
    implicit: bool


@dataclass(frozen=True)
class ModelSpec:
    """A whole network, and what it is to be trained with."""

    name: str
    recipe: str
    image_size: int
    activation: str
    nodes: tuple[NodeSpec, ...]
    head: HeadSpec
    definition: Mapping[str, Any]  # as read: travels inside weight files


def read_spec(name: str) -> ModelSpec:
    """Read a model by path or by its shipped name (``--cfg``)."""
    path = find_yaml(name, "cfg", "--cfg")
    return parse_spec(read_yaml(path), str(path))


def parse_spec(definition: Mapping[str, Any], where: str) -> ModelSpec:
    """Check a model definition; ``where`` names its source in messages."""
    for key in definition:
        if key not in KEYS:
            raise InputError(f"{where}: {unknown('key', key, KEYS)}")
    for key in ("name", "nodes", "head"):
        if key not in definition:
            raise InputError(f"{where}: the key {key!r} is missing")
    name = convert(definition["name"], str, f"{where}, name")
    activation = definition.get("activation", "silu")
    if activation not in ACTIVATIONS:
        raise InputError(f"{where}, activation: {unknown('activation', activation, ACTIVATIONS)}")
    nodes = _parse_nodes(definition["nodes"], name, where)
    return ModelSpec(
        name=name,
        recipe=convert(definition.get("recipe", "custom"), str, f"{where}, recipe"),
        image_size=convert(definition.get("image_size", 640), int, f"{where}, image_size"),
        activation=activation,
        nodes=nodes,
        head=_parse_head(definition["head"], [node.name for node in nodes], name, where),
        definition=definition,
    )


def _parse_nodes(mapping: Any, model: str, where: str) -> tuple[NodeSpec, ...]:
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{where}, nodes: found {mapping!r}; accepted: node names, each with a block")
    nodes: list[NodeSpec] = []
    for name, content in mapping.items():
        known = [IMAGE, *(node.name for node in nodes)]
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or name == IMAGE:
            raise InputError(f"{where}: node name {name!r}; accepted: letters, digits and _, not {IMAGE!r}")
        nodes.append(_parse_node(name, content, known, list(mapping), f"{where}, {model}.{name}"))
    return tuple(nodes)


def _parse_node(name: str, content: Any, known: list[str], later: list[str], where: str) -> NodeSpec:
    if not isinstance(content, dict) or "block" not in content:
        raise InputError(f"{where}: found {content!r}; accepted: {{block: ..., ...}}")
    block = content["block"]
    if block not in BLOCKS:
        raise InputError(f"{where}: {unknown('block', block, sorted(BLOCKS))}")
    inputs = _parse_inputs(content.get("from", known[-1]), known, later, where)
    wanted = BLOCKS[block].inputs
    if (wanted and len(inputs) != wanted) or (not wanted and len(inputs) < 2):
        raise InputError(f"{where}: {block} takes {wanted or 'two or more'} inputs, found {len(inputs)}")
    arguments = {key: value for key, value in content.items() if key not in ("block", "from")}
    return NodeSpec(name, block, inputs, _check_arguments(block, arguments, where))


def _parse_inputs(value: Any, known: list[str], later: list[str], where: str) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for name in names:
        if name in later and name not in known:
            raise InputError(f"{where}, from: {name!r} stands further below; a node takes nodes above it only")
        if name not in known:
            raise InputError(f"{where}, from: {unknown('node', name, known)}")
    return names


def _check_arguments(block: str, arguments: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = dict(inspect.signature(BLOCKS[block].__init__).parameters)
    hints = typing.get_type_hints(BLOCKS[block].__init__)
    accepted = [name for name in parameters if name not in ("self", "in_channels")]
    for key in arguments:
        if key not in accepted:
            raise InputError(f"{where}: {block} has no argument {key!r}: {unknown('argument', key, accepted)}")
    for key in accepted:
        if key not in arguments and parameters[key].default is inspect.Parameter.empty:
            raise InputError(f"{where}: {block} needs the argument {key!r}")
    checked = {key: convert(value, hints[key], f"{where}, {key}") for key, value in arguments.items()}
    for key, value in checked.items():
        if hints[key] is int and value < 1:
            raise InputError(f"{where}, {key}: found {value}; accepted: at least 1")
    return checked


def _parse_head(content: Any, known: list[str], model: str, where: str) -> HeadSpec:
    where = f"{where}, {model}.head"
    if not isinstance(content, dict):
        raise InputError(f"{where}: found {content!r}; accepted: keys {', '.join(HEAD_KEYS)}")
    for key in content:
        if key not in HEAD_KEYS:
            raise InputError(f"{where}: {unknown('key', key, HEAD_KEYS)}")
    if content.get("block") != "AnchorHead":
        raise InputError(f"{where}: {unknown('block', content.get('block'), ['AnchorHead'])}")
    for key in ("from", "anchors"):
        if key not in content:
            raise InputError(f"{where}: the key {key!r} is missing")
    inputs = _parse_inputs(content["from"], known, [], where)
    anchors = convert(content["anchors"], tuple[tuple[tuple[float, ...], ...], ...], f"{where}, anchors")
    counts = {len(level) for level in anchors}
    if len(anchors) != len(inputs) or len(counts) != 1 or any(len(pair) != 2 for level in anchors for pair in level):
        raise InputError(f"{where}, anchors: found {[len(level) for level in anchors]} anchors for {len(inputs)} "
                         "inputs; accepted: one list per input, equally long, of [width, height] pairs")
    return HeadSpec(inputs, anchors, convert(content.get("implicit", True), bool, f"{where}, implicit"))
