"""`ModelSpec` -> network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.model.blocks import BLOCKS, Block
from yolov7.model.heads.base import Anchors, Head, Predictions, find_head
from yolov7.model.spec import IMAGE, MAX_CHANNELS, ModelSpec, NodeSpec
from yolov7.structures import HeadOutput

MAX_PARAMETERS = 500_000_000  # three times the largest published network's; 2 GB in float32
MAX_MODULES = 10_000  # the largest published network has 1,062
MAX_STRIDE = 256  # largest published: 64

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class Detector(nn.Module):
    """A graph of named blocks and a head; `forward` is the same in training and evaluation mode."""

    def __init__(self, spec: ModelSpec, num_classes: int = 80) -> None:
        """Build with random weights. Raises `InputError` for widths and strides that do not fit, or a vast network."""
        super().__init__()
        build = _Bounded(spec.name)
        self.spec = spec
        self.num_classes = num_classes
        self.nodes = nn.ModuleDict()
        channels, strides = {IMAGE: 3}, {IMAGE: 1}
        for node in spec.nodes:
            block = _build_block(node, channels, strides, spec, build)
            self.nodes[node.name] = block
            for output in node.outputs:
                channels[output] = block.out_channels
                strides[output] = int(max(strides[name] for name in node.inputs) * block.reduction)
            _check_output(node, block, strides[node.name], spec)
        self.head = _build_head(channels, strides, spec, num_classes, build)
        self._plan = _plan_of(spec)

    @property
    def stride(self) -> int:
        """Both sides of the network input are multiples of this, in pixels."""
        return max(32, *self.head.strides)

    def forward(self, images: Tensor) -> HeadOutput:
        """RGB images in 0..1, ``[B, 3, H, W]``, sides multiples of `stride` -> logits."""
        features = {IMAGE: images}
        for name, inputs, outputs, released in self._plan:
            made = self.nodes[name](*(features[source] for source in inputs))
            features.update(zip(outputs, made if len(outputs) > 1 else (made,), strict=True))
            for done in released:  # memory: a map is kept until its last reader
                del features[done]
        head = self.spec.head
        output: HeadOutput = self.head(*([features[name] for name in names]
                                         for names in (head.inputs, head.auxiliary, head.maps)))
        return output

    def drop_auxiliary(self) -> None:
        """Remove the auxiliary head and the nodes that only it reads."""
        self.spec = self.spec.deployed()
        self.nodes = nn.ModuleDict({node.name: self.nodes[node.name] for node in self.spec.nodes})
        self.head.auxiliary_convs = nn.ModuleList()
        self._plan = _plan_of(self.spec)

    def set_anchors(self, anchors: Anchors) -> None:
        """Replace the anchors ``[L, A, 2]`` in pixels, also in the definition; before a criterion is made of them."""
        self.spec = self.spec.with_anchors(anchors)
        self.head.anchors.copy_(torch.tensor(self.spec.head.anchors))

    def decode(self, output: HeadOutput) -> Predictions:
        """Logits -> boxes in pixels, scores and the columns of a task, for all predictions."""
        return self.head.decoder(output)


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images ``[B, 3, H, W]`` -> float32 0..1 on the device, in the memory order that convolutions prefer."""
    moved = images.to(device, non_blocking=True)  # as bytes: a quarter of the traffic
    return moved.to(torch.float32, memory_format=torch.channels_last) / 255


class _Bounded:
    """Builds modules, each first without memory: what exceeds the limits is refused before it takes any."""

    def __init__(self, name: str) -> None:
        self.name, self.parameters, self.modules = name, 0, 0

    def __call__(self, module: Callable[[], ModuleType]) -> ModuleType:
        with torch.device("meta"):
            plan = module()
        self.parameters += sum(parameter.numel() for parameter in plan.parameters())
        self.modules += sum(1 for _ in plan.modules())
        if self.parameters > MAX_PARAMETERS or self.modules > MAX_MODULES:
            raise InputError(f"{self.name}: has at least {self.parameters:,} parameters in {self.modules:,} layers; "
                             f"accepted: at most {MAX_PARAMETERS:,} and {MAX_MODULES:,}")
        return plan if torch.empty(0).is_meta else module()


def _check_output(node: NodeSpec, block: Block, stride: int, spec: ModelSpec) -> None:
    for what, found, limit in (("channels", block.out_channels, MAX_CHANNELS), ("stride", stride, MAX_STRIDE)):
        if found > limit:
            raise InputError(f"{spec.name}.{node.name}: {what} {found}; accepted: at most {limit}")


def _build_block(node: NodeSpec, channels: dict[str, int], strides: dict[str, int], spec: ModelSpec,
                 build: _Bounded) -> Block:
    where = f"{spec.name}.{node.name}"
    block = BLOCKS[node.block]
    arguments = dict(node.arguments)
    if "activation" in block.__init__.__annotations__:
        arguments.setdefault("activation", spec.activation)
    found = tuple(strides[name] for name in node.inputs)
    expected = tuple(int(found[0] * ratio) for ratio in block.input_strides) or (found[0],) * len(found)
    if len(found) > 1 and found != expected:
        raise InputError(f"{where}: {node.block} got inputs {', '.join(node.inputs)} of strides {found}; "
                         f"accepted: strides {expected}")
    widths = tuple(channels[name] for name in node.inputs)
    try:
        return build(lambda: block(widths[0] if block.inputs == 1 else widths, **arguments))
    except ValueError as error:
        raise InputError(f"{where}: {node.block}: {error}") from None


def _build_head(channels: dict[str, int], strides: dict[str, int], spec: ModelSpec, num_classes: int,
                build: _Bounded) -> Head:
    head, where = spec.head, f"{spec.name}.head"
    levels = tuple(strides[name] for name in head.inputs)
    if list(levels) != sorted(set(levels)):
        raise InputError(f"{where}, from: strides {levels}; accepted: finest level first")
    extra = tuple(strides[name] for name in head.auxiliary)
    if extra and extra != levels:
        raise InputError(f"{where}, auxiliary: strides {extra}; accepted: those of the lead head, {levels}")
    kind = find_head(head.block, where)
    try:
        widths, auxiliary = ([channels[name] for name in names] for names in (head.inputs, head.auxiliary))
        made = build(lambda: kind(widths, levels, num_classes, head.anchors, head.implicit, auxiliary,
                                  **head.arguments))
    except ValueError as error:
        raise InputError(str(error) if isinstance(error, InputError) else f"{where}: {head.block}: {error}") from None
    given = tuple((channels[name], strides[name]) for name in head.maps)
    if given != made.map_inputs:
        raise InputError(f"{where}, maps: {head.block} got {_listed(given)}; accepted: {_listed(made.map_inputs)}")
    return made


def _listed(maps: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{channels} channels of stride {stride}" for channels, stride in maps) or "none"


def _plan_of(spec: ModelSpec) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]:
    """For every node its name, inputs, outputs, and the maps that no later node reads."""
    last = {output: node.name for node in spec.nodes for output in node.outputs}
    last |= {name: node.name for node in spec.nodes for name in node.inputs}
    kept = {*spec.head.inputs, *spec.head.auxiliary, *spec.head.maps}
    return tuple((node.name, node.inputs, node.outputs,
                  tuple(name for name, user in last.items() if user == node.name and name not in kept))
                 for node in spec.nodes)
