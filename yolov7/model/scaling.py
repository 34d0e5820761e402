"""Compound scaling of concatenation-based models (paper, section 3.2), and models that are another one scaled.

With depth factor d a computational block gets d times its chained convolutions. Its concatenation then grows to
(1 + d) / 2 of its width while the branches keep theirs, so every transition is widened by that factor: one number
makes X, E6 and D6 from their bases, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from yolov7.config import InputError, convert, from_mapping, option, unknown
from yolov7.model.blocks import BLOCKS

DERIVED_KEYS = ("scale_of", "scale", "blocks")  # applied here; a plain definition has none of them
MAX_NUMBER = 2**31  # what exceeds it stays as it is, and is refused when it is parsed
OWN_KEYS = ("name", "paper")  # of one model, not inherited


@dataclass(frozen=True)
class Scale:
    """Factors on the arguments of all nodes."""

    depth: float = option(1.0, "factor on `depth`, the number of chained convolutions", low=0.01, high=16)
    width: float | None = option(None, "factor on `out`; default: (1 + depth) / 2", low=0.01, high=16)
    hidden_width: float = option(1.0, "factor on `hidden` and `chain`, the widths inside a block", low=0.01, high=16)

    def factors(self) -> dict[str, float]:
        """Argument name -> factor."""
        width = (1 + self.depth) / 2 if self.width is None else self.width
        return {"depth": self.depth, "out": width, "hidden": self.hidden_width, "chain": self.hidden_width}


class Rounding(NamedTuple):
    """An argument whose scaled value the block does not accept."""

    node: str
    key: str
    exact: float
    rounded: int

    def __str__(self) -> str:
        return f"{self.node}: {self.key} {self.exact:g} is rounded to {self.rounded}"


def resolve(definition: Mapping[str, Any], where: str,
            read_base: Callable[[str], Mapping[str, Any]]) -> tuple[dict[str, Any], list[Rounding]]:
    """A plain definition: ``scale_of``, ``blocks`` and ``scale`` are applied, in this order.

    ``read_base`` reads the definition that ``scale_of`` names. Also returns the values that had to be rounded.
    """
    plain = {key: value for key, value in definition.items() if key not in DERIVED_KEYS}
    if "scale_of" in definition:
        base = read_base(convert(definition["scale_of"], str, f"{where}, scale_of"))
        derived = [key for key in DERIVED_KEYS if key in base]
        if derived:
            raise InputError(f"{where}, scale_of: {definition['scale_of']} has a {derived[0]!r} of its own; accepted: "
                             "a model that is written out")
        plain = _derive(base, plain, where)
    plain["nodes"] = _change_blocks(plain.get("nodes"), definition.get("blocks", {}), where)
    scale = from_mapping(Scale, definition.get("scale", {}), f"{where}, scale")
    return apply_scale(plain, scale, str(plain.get("name", where)))


def _derive(base: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The base with keys replaced, inside nodes and head key by key.

    A node that is ``null`` is removed; one that the base does not have, with a block, stands behind those of the base.
    """
    result = {key: value for key, value in base.items() if key not in OWN_KEYS} | dict(changes)
    nodes = dict(base["nodes"])
    for name, change in convert(changes.get("nodes", {}), dict[str, Any], f"{where}, nodes").items():
        if name not in nodes and not _kind_of(change):
            raise InputError(f"{where}, nodes: {unknown('node', name, nodes)} (a new node needs a block)")
        nodes[name] = None if change is None else nodes.get(name, {}) | convert(change, dict[str, Any],
                                                                                f"{where}, nodes, {name}")
    result["nodes"] = {name: node for name, node in nodes.items() if node is not None}
    result["head"] = base["head"] | convert(changes.get("head", {}), dict[str, Any], f"{where}, head")
    return result


def _change_blocks(nodes: Any, changes: Any, where: str) -> Any:
    """``blocks: {ELAN: {block: EELAN}}`` changes keys of all nodes of a kind."""
    if not isinstance(nodes, dict) or not changes:
        return nodes
    kinds = list(dict.fromkeys(map(_kind_of, nodes.values())))
    for block in convert(changes, dict[str, dict[str, Any]], f"{where}, blocks"):
        if block not in kinds:
            raise InputError(f"{where}, blocks: {unknown('block', block, kinds)}")
    return {name: node | changes.get(_kind_of(node), {}) if isinstance(node, dict) else node
            for name, node in nodes.items()}


def _kind_of(node: Any) -> str:
    """The block of a node; '' where there is none that could be one, which is reported when it is parsed."""
    block = node.get("block") if isinstance(node, dict) else None
    return block if isinstance(block, str) else ""


def apply_scale(definition: Mapping[str, Any], scale: Scale, name: str) -> tuple[dict[str, Any], list[Rounding]]:
    """Multiply the arguments of all nodes; also returns the values that had to be rounded.

    Widths are rounded up to multiples of 8 (both halves of a transition), depths to the nearest that the block accepts.
    """
    factors = scale.factors()
    roundings: list[Rounding] = []
    nodes = definition.get("nodes")
    if not isinstance(nodes, dict) or all(factor == 1 for factor in factors.values()):
        return dict(definition), roundings
    scaled = {}
    for node, content in nodes.items():
        scaled[node] = dict(content) if isinstance(content, dict) else content
        for key in sorted(factors.keys() & _numbers(content)):
            exact = content[key] * factors[key]
            scaled[node][key] = _round(key, exact, content) if factors[key] != 1 else content[key]
            if abs(scaled[node][key] - exact) > 1e-6:
                roundings.append(Rounding(f"{name}.{node}", key, exact, scaled[node][key]))
    return {**definition, "nodes": scaled}, roundings


def _numbers(content: Any) -> set[str]:
    """Keys of a node whose values are whole numbers; other values are reported when the definition is parsed."""
    if not isinstance(content, dict):
        return set()
    return {key for key, value in content.items() if isinstance(value, int) and not isinstance(value, bool)
            and abs(value) < MAX_NUMBER}


def _round(key: str, exact: float, content: Mapping[str, Any]) -> int:
    block = BLOCKS.get(_kind_of(content))
    if key == "depth":  # a single layer stays single
        step = block.depth_step if block else 1
        return content[key] if content[key] == 1 else max(step * round(exact / step), step)
    step = block.width_step if block and key == "out" else 8
    return step * math.ceil(exact / step - 1e-9)
