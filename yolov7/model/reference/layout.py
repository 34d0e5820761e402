"""Import and export of the reference implementation's layout of weights (docs/reference.md, Key layout).

Its layers and ours are created in the same order, so its state dicts are imported by position, and every tensor is
checked by its shape. For the export the same order gives each of our layers its place in its flat list of layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn

from yolov7.config import InputError, shipped_files
from yolov7.model.blocks import EELAN, ELAN, Conv, RepConv
from yolov7.model.detector import Detector
from yolov7.model.heads.base import Head
from yolov7.model.merging import Projection, Refine
from yolov7.model.spec import ModelSpec, NodeSpec, read_spec

Leaf = tuple[str, str, dict[str, Tensor]]  # kind, prefix, tensors by the rest of their key

_LEAF_KEYS = (  # (kind, pattern of the part of the key that belongs to the leaf)
    ("Conv", re.compile(r"^(.*)\.(conv\.weight|bn\.\w+)$")),
    ("RepConv", re.compile(r"^(.*)\.(rbr_\w+\..*)$")),
    ("outputs", re.compile(r"^((?:.*\.)?(?:m_kpt\.\d+|model)\.\d+)\.(weight|bias)$")),
    ("head", re.compile(r"^(.*)\.(anchors|anchor_grid|(?:m|m2|ia|im|attn_m)\.\d+\.\w+)$")),
)
_OUTPUTS = re.compile(r"(?:.*\.)?keypoint_paths\.\d+\.last")  # those of our layers that are "outputs" there
# Parts of keys that no other head has -> our head; AnchorHead has none.
HEADS = {".proto.": "SegmentHead", ".m_kpt.": "PublishedPoseHead", ".attn_m.": "MaskHead"}
EXPORTED = ("AnchorHead", *HEADS.values())  # our heads that it has, too
NOT_IN_FILE, OTHER_CLASSES = "the file does not have them", "the file is for another class count"
_BRANCHES = {"identity": "rbr_identity", "dense": "rbr_dense", "point": "rbr_1x1"}
_BY_CLASSES = ("convs.", "auxiliary_convs.", "implicit_multiply.")  # tensors whose shapes depend on the class count


@dataclass
class ImportReport:
    """Which tensors of a model were copied from a file, and which were not."""

    copied: int = 0
    fresh: dict[str, list[str]] = field(default_factory=dict)  # why -> our tensors that start fresh

    def leave_out(self, key: str, reason: str) -> None:
        """Record a tensor that the file does not give."""
        self.fresh.setdefault(reason, []).append(key)

    def text(self) -> str:
        """The report as a sentence."""
        left = (f"{len(keys)} start fresh, as {reason}: {', '.join(keys)}" for reason, keys in self.fresh.items())
        return "; ".join((f"{self.copied} tensors taken over", *left))


def depends_on_classes(key: str) -> bool:
    """Whether the shape of a tensor of a `Detector` follows from the number of classes."""
    return key.startswith(tuple(f"head.{part}" for part in _BY_CLASSES))


# --- leaves ----------------------------------------------------------------------------------------------------------


def _reference_leaves(state: Mapping[str, Tensor], where: str) -> list[Leaf]:
    """Group a state dict of the reference implementation into leaves, in order."""
    leaves: dict[str, Leaf] = {}
    for key, value in state.items():
        found = next(((kind, match) for kind, pattern in _LEAF_KEYS if (match := pattern.match(key))), None)
        if found is None:
            raise InputError(f"{where}: the tensor {key!r} is not part of the reference implementation's "
                             "models")
        kind, match = found
        leaves.setdefault(match[1], (kind, match[1], {}))[2][match[2]] = value
    return list(leaves.values())


def _own_leaves(model: Detector) -> Iterator[tuple[str, str, nn.Module]]:
    """Kind, name and module of every layer with weights, in order."""
    for name, module in model.named_modules():
        if kind := _kind_of(name, module):
            yield kind, name, module


def _kind_of(name: str, module: nn.Module) -> str:
    """The kind of a leaf; "" for a module that is none."""
    if isinstance(module, nn.Conv2d):
        return "outputs" if _OUTPUTS.fullmatch(name) else ""
    kinds: tuple[tuple[str, type[nn.Module]], ...] = (("Conv", Conv), ("RepConv", RepConv), ("head", Head),
                                                      ("outputs", Projection))
    return next((kind for kind, cls in kinds if isinstance(module, cls)), "")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of one of our leaves, without those of the leaves inside it."""
    inside = tuple(f"{name}." for name, part in module.named_modules() if name and _kind_of(name, part))
    return {key: value for key, value in module.state_dict(keep_vars=True).items() if not key.startswith(inside)}


def _reference_name(module: nn.Module, rest: str) -> str:
    """The reference implementation's name of a tensor of one of our leaves."""
    if isinstance(module, (Conv, nn.Conv2d)):
        return rest
    if isinstance(module, Projection):
        return rest.removeprefix("conv.")
    part, _, name = rest.partition(".")
    if isinstance(module, RepConv):
        return f"{_BRANCHES[part]}.{name}"
    return {"anchors": "anchor_grid", "convs": f"m.{name}", "auxiliary_convs": f"m2.{name}",
            "attention_convs": f"attn_m.{name}",
            "implicit_add": f"ia.{name}.implicit", "implicit_multiply": f"im.{name}.implicit"}[part]


# --- in --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def import_state_dict(model: Detector, state: Mapping[str, Tensor], where: str) -> ImportReport:
    """Copy a state dict of the reference implementation (training or deploy form) into a training-form model.

    Where a deploy file has no tensors, implicit knowledge becomes the neutral 0 and 1 and the auxiliary head keeps its
    random weights. Where only the class count differs, the detection convolutions keep their random weights. Raises
    `InputError`, with the names of the layers, for anything else that does not fit.
    """
    report = ImportReport()
    theirs = _reference_leaves(state, where)
    if head_of(state) != type(model.head).__name__:
        raise InputError(f"{where}: weights of another model: of one with {head_of(state)}, while {model.spec.name} "
                         f"has {type(model.head).__name__}")
    for (kind, left, tensors), (_, right, module) in _match(model, theirs, where):
        _copy_leaf(module, tensors, f"{where}: {kind} {left} -> {model.spec.name}, {kind} {right}", report)
    return report


def _match(model: Detector, theirs: list[Leaf], where: str) -> list[tuple[Leaf, tuple[str, str, nn.Module]]]:
    ours = list(_own_leaves(model))
    with_auxiliary = any(name.startswith("m2.") for kind, _, tensors in theirs if kind == "head" for name in tensors)
    if model.spec.head.auxiliary and not with_auxiliary:
        deployed = {node.name for node in model.spec.deployed().nodes}  # a deploy file has no auxiliary head
        ours = [leaf for leaf in ours if leaf[1].split(".")[0] == "head" or leaf[1].split(".")[1] in deployed]
    for left, right in zip_longest(theirs, ours, fillvalue=("nothing", "more")):
        if left[0] != right[0]:
            raise InputError(f"{where}: weights of another model: found {left[0]} {left[1]} where {model.spec.name} "
                             f"has {right[0]} {right[1]}")
    return list(zip(theirs, ours, strict=True))


def _copy_leaf(module: nn.Module, tensors: dict[str, Tensor], where: str, report: ImportReport) -> None:
    left = dict(tensors)
    if isinstance(module, Head) and "anchor_grid" not in left and "anchors" in left:
        left["anchor_grid"] = left["anchors"] * _strides_of(module, left["anchors"])
    for key, target in _tensors(module).items():
        name = _reference_name(module, key)
        source = left.pop(name, None)
        if source is None and key.startswith(("implicit_", "auxiliary_")):
            if key.startswith("implicit_"):
                target.data.fill_(1.0 if key.startswith("implicit_multiply") else 0.0)
            report.leave_out(f"head.{key}", NOT_IN_FILE)
            continue
        if source is None:
            raise InputError(f"{where}: weights of another model: {name} is missing")
        source = source.reshape(target.shape) if name == "anchor_grid" and source.numel() == target.numel() else source
        if source.shape == target.shape:
            target.data.copy_(source)
            report.copied += 1
        elif key.startswith(_BY_CLASSES) and _same_inputs(source, target):
            report.leave_out(f"head.{key}", OTHER_CLASSES)
        else:
            raise InputError(f"{where}: weights of another model: {name} is {tuple(source.shape)}, "
                             f"expected {tuple(target.shape)}")
    left.pop("anchors", None)  # the same anchors in cells
    if left:
        raise InputError(f"{where}: weights of another model: {next(iter(left))} has no place")


def _same_inputs(source: Tensor, target: Tensor) -> bool:
    """Whether two tensors of a detection convolution differ in its outputs alone."""
    if source.ndim != target.ndim:
        return False
    return source.ndim < 4 or source.shape[0] == 1 or source.shape[1:] == target.shape[1:]


def _strides_of(head: Head, like: Tensor) -> Tensor:
    """Pixels of a cell of each level, ``[L, 1, 1]``, in the format and on the device of another tensor."""
    return torch.tensor(head.strides, dtype=like.dtype, device=like.device)[:, None, None]


def head_of(state: Mapping[str, Tensor]) -> str:
    """The name of our head that has the channels of a state dict of the reference implementation."""
    return next((head for part, head in HEADS.items() for key in state if part in key), "AnchorHead")


def count_classes(state: Mapping[str, Tensor], anchors: int, where: str) -> int:
    """The class count of a state dict of the reference implementation, from its detection convolutions."""
    biases = [value for key, value in state.items() if re.search(r"\.m\.\d+\.bias$", key)]
    masks = next((len(value) for key, value in state.items() if key.endswith(".proto.cv3.conv.weight")), 0)
    if not biases or biases[-1].numel() % anchors or biases[-1].numel() // anchors <= 5 + masks:
        raise InputError(f"{where}: weights of another model: no detection convolution of {anchors} anchors")
    return biases[-1].numel() // anchors - 5 - masks


def identify(state: Mapping[str, Tensor], activation: str, where: str) -> ModelSpec:
    """The shipped model that a state dict of the reference implementation fits, by the order and shapes of its layers.

    ``activation`` decides between models that differ in nothing else. Raises `InputError` where no model fits, or
    several do and the activation is unknown.
    """
    theirs, head, found = _reference_leaves(state, where), head_of(state), []
    for path in (path for path in shipped_files("cfg").values() if path.parent.name != "ablation"):
        spec = read_spec(str(path))
        if head == spec.head.block and activation in ("", spec.activation):
            missing = _missing(spec, theirs, count_classes(state, len(spec.head.anchors[0]), where), where)
            found += [] if missing is None else [(missing, spec)]
    fewest = min((missing for missing, _ in found), default=0)  # plain heads fit models with implicit knowledge too
    chosen = [spec for missing, spec in found if missing == fewest]
    if not chosen:
        raise InputError(f"{where}: matches none of the shipped models; name its model with --cfg")
    if len({spec.activation for spec in chosen}) > 1:
        names = ", ".join(spec.name for spec in chosen)
        raise InputError(f"{where}: fits several models ({names}); name the model with --cfg")
    if head == "SegmentHead" and not any(".ia." in key for key in state):  # an older form of its own
        return chosen[0].with_head_arguments({"implicit": False})
    return chosen[0]


def _missing(spec: ModelSpec, theirs: list[Leaf], num_classes: int, where: str) -> int | None:
    """The number of tensors of a model that a file does not have; None where the file does not fit."""
    with torch.device("meta"):
        model = Detector(spec, num_classes)
    report = ImportReport()
    try:
        for (_, _, tensors), (_, _, module) in _match(model, theirs, where):
            _copy_leaf(module, {key: value.to("meta") for key, value in tensors.items()}, where, report)
    except InputError:
        return None
    return sum(map(len, report.fresh.values()))


# --- out -------------------------------------------------------------------------------------------------------------

# The layers that a block is in the reference implementation's list, by our names; "" for one without weights.
_PLACES: dict[str, tuple[str, ...]] = {
    "MPDown": ("", "pool", "reduce", "down", ""),
    "UpCat": ("coarse", "", "lateral", ""),
    "SPPCSPCTiny": ("bypass", "main", "", "", "", "", "merge", "", "out")}


def export_state_dict(model: Detector) -> dict[str, Tensor]:
    """The weights of a training-form model under the names of the reference implementation, in its order.

    Raises `InputError` for blocks that it does not have.
    """
    if type(model.head).__name__ not in EXPORTED:
        raise InputError(f"{model.spec.name}.head: {type(model.head).__name__} is not in the reference implementation; "
                         f"accepted: {', '.join(EXPORTED)}")
    state: dict[str, Tensor] = {}
    place = 0
    inner: dict[str, str] = {}  # our name of a leaf -> prefix of its keys there
    for node in model.spec.nodes:
        count, names = _node_places(node, model.nodes[node.name], model.spec)
        inner |= {f"nodes.{node.name}{'.' if name else ''}{name}": f"model.{place + offset}{rest}"
                  for name, (offset, rest) in names.items()}
        merged = bool(model.spec.head.maps) and node.name == model.spec.head.inputs[-1]
        place += count + merged  # with further maps, a layer there puts the levels together
    inner |= {f"head.{name}": f"model.{place}.{rest}" for name, rest in _keys_inside_head(model.head).items()}
    for _, name, module in _own_leaves(model):
        prefix = inner.get(name, f"model.{place}")
        own = {_reference_name(module, key): value.detach() for key, value in _tensors(module).items()}
        if isinstance(module, Head):
            own = _head_tensors(module, own)
        state |= {f"{prefix}.{key}": value for key, value in own.items()}
    return state


def _node_places(node: NodeSpec, block: nn.Module, spec: ModelSpec) -> tuple[int, dict[str, tuple[int, str]]]:
    """The number of layers that a node is there; for each of its leaves the layer and the rest of the key."""
    if node.block in ("EELANGrouped", "EELANHGrouped"):
        raise InputError(f"{spec.name}.{node.name}: {node.block} is not in the reference implementation; accepted: "
                         "EELAN")
    if node.block == "Cat" and _block_of(node.inputs[0], spec) == "MPDown":
        return 0, {}  # one concatenation there, two here
    places = _composite_places(block)
    if not places:
        return 1, {name: (0, rest) for name, rest in _keys_inside(block).items()}
    return len(places), {name: (offset, "") for offset, name in enumerate(places) if name}


def _composite_places(block: nn.Module) -> tuple[str, ...]:
    """The layers of a block that is several there; () for a block that is a single one."""
    if isinstance(block, ELAN):
        return ("bypass", "main", *(f"chain.{index}" for index in range(len(block.chain))), "", "out")
    if isinstance(block, EELAN):
        one = _composite_places(block.first)
        return (*(name and f"first.{name}" for name in one), *(name and f"second.{name}" for name in one), "")
    return _PLACES.get(type(block).__name__, ())


def _block_of(name: str, spec: ModelSpec) -> str:
    return next(node.block for node in spec.nodes if name in node.outputs)


def _keys_inside(block: nn.Module) -> dict[str, str]:
    """Leaves of a block that is a single layer there -> the rest of their keys.

    Convolutions of a block are cv1, cv2, ..., its residual layers m.0, m.1, ...
    """
    if isinstance(block, (Conv, RepConv, Projection)):
        return {"": ""}
    if isinstance(block, Refine):
        return {f"levels.{index}": f".refine.{index}" for index in range(len(block.levels))}
    keys, number = {}, 0
    for name, child in block.named_children():
        if isinstance(child, Conv):
            number += 1
            keys[name] = f".cv{number}"
    layers = getattr(block, "layers", ())
    for index, layer in enumerate(layers):
        middle = f".m.{index}" if number else f".{index}" if len(layers) > 1 else ""
        keys |= {f"layers.{index}.convs.{i}": f"{middle}.cv{i + 1}" for i in range(len(layer.convs))}
    return keys


def _keys_inside_head(head: Head) -> dict[str, str]:
    """Leaves inside a head -> the rest of their keys."""
    keys = {f"prototypes.{name}": f"proto.cv{number}" for number, name in enumerate(("first", "second", "last"), 1)}
    for level, path in enumerate(getattr(head, "keypoint_paths", ())):
        keys |= {f"keypoint_paths.{level}.layers.{i}": f"m_kpt.{level}.{i}" for i in range(len(path.layers))}
        keys[f"keypoint_paths.{level}.last"] = f"m_kpt.{level}.{len(path.layers)}"
    return keys


def _head_tensors(head: Head, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors in the order of the reference implementation, with anchors in cells and in pixels.

    Its head for masks has those in cells alone.
    """
    levels, per_level, _ = head.anchors.shape
    tensors = {"anchors": head.anchors / _strides_of(head, head.anchors)}
    if type(head).__name__ != "SegmentHead":
        tensors["anchor_grid"] = head.anchors.view(levels, 1, per_level, 1, 1, 2)
    for group in ("m.", "m2.", "ia.", "im.", "attn_m."):
        tensors |= {key: value for key, value in own.items() if key.startswith(group)}
    return tensors
