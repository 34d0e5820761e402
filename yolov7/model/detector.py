"""`ModelSpec` -> network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from yolov7.config import InputError
from yolov7.model.anchors import Predictions, decode
from yolov7.model.blocks import BLOCKS, Block
from yolov7.model.heads import AnchorHead
from yolov7.model.spec import IMAGE, ModelSpec, NodeSpec
from yolov7.structures import HeadOutput


class Detector(nn.Module):
    """A graph of named blocks and a head; `forward` is the same in training and evaluation mode."""

    def __init__(self, spec: ModelSpec, num_classes: int = 80) -> None:
        """Build with fresh weights; faults that show only with widths and strides are `InputError`."""
        super().__init__()
        self.spec = spec
        self.num_classes = num_classes
        self.nodes = nn.ModuleDict()
        channels, strides = {IMAGE: 3}, {IMAGE: 1}
        for node in spec.nodes:
            block = _build_block(node, channels, strides, spec)
            self.nodes[node.name] = block
            for output in node.outputs:
                channels[output] = block.out_channels
                strides[output] = int(max(strides[name] for name in node.inputs) * block.reduction)
        self.head = _build_head(channels, strides, spec, num_classes)
        self._released = _last_uses(spec)

    @property
    def stride(self) -> int:
        """Both sides of the network input are multiples of this."""
        return max(32, *self.head.strides)

    def forward(self, images: Tensor) -> HeadOutput:
        """RGB images in 0..1, ``[B, 3, H, W]``, sides multiples of `stride` -> logits."""
        features = {IMAGE: images}
        for node in self.spec.nodes:
            made = self.nodes[node.name](*(features[name] for name in node.inputs))
            features.update(zip(node.outputs, made if len(node.outputs) > 1 else (made,), strict=True))
            for name in self._released[node.name]:  # memory: a map is kept only as long as somebody reads it
                del features[name]
        head = self.spec.head
        output = self.head([features[name] for name in head.inputs], [features[name] for name in head.auxiliary])
        return cast(HeadOutput, output)

    def drop_auxiliary(self) -> None:
        """Remove the auxiliary head and the nodes that only it reads."""
        self.spec = self.spec.deployed()
        self.nodes = nn.ModuleDict({node.name: self.nodes[node.name] for node in self.spec.nodes})
        self.head.auxiliary_convs = nn.ModuleList()
        self._released = _last_uses(self.spec)

    def set_anchors(self, anchors: Sequence[Sequence[Sequence[float]]]) -> None:
        """Replace the anchors ``[L, A, 2]`` in pixels, in the definition too; before a criterion is made of them."""
        self.spec = self.spec.with_anchors(anchors)
        self.head.anchors.copy_(torch.tensor(self.spec.head.anchors))

    def decode(self, output: HeadOutput) -> Predictions:
        """Logits -> boxes in pixels and scores (see `anchors.decode`)."""
        return decode(output, self.head.anchors, self.head.strides)


def _build_block(node: NodeSpec, channels: dict[str, int], strides: dict[str, int], spec: ModelSpec) -> Block:
    where = f"{spec.name}.{node.name}"
    block = BLOCKS[node.block]
    arguments = dict(node.arguments)
    if "activation" in block.__init__.__annotations__:
        arguments.setdefault("activation", spec.activation)
    found = tuple(strides[name] for name in node.inputs)
    wanted = (found[0], found[0] // 2) if block.reduction < 1 else (found[0],) * len(found)
    if len(found) > 1 and found != wanted:
        raise InputError(f"{where}: {node.block} got inputs {', '.join(node.inputs)} of strides {found}; "
                         f"accepted: strides {wanted}")
    widths = tuple(channels[name] for name in node.inputs)
    try:
        return block(widths[0] if block.inputs == 1 else widths, **arguments)  # type: ignore[call-arg, arg-type]
    except ValueError as error:
        raise InputError(f"{where}: {node.block}: {error}") from None


def _build_head(channels: dict[str, int], strides: dict[str, int], spec: ModelSpec, num_classes: int) -> AnchorHead:
    head, where = spec.head, f"{spec.name}.head"
    levels = tuple(strides[name] for name in head.inputs)
    if list(levels) != sorted(set(levels)):
        raise InputError(f"{where}, from: strides {levels}; accepted: finest level first")
    extra = tuple(strides[name] for name in head.auxiliary)
    if extra and extra != levels:
        raise InputError(f"{where}, auxiliary: strides {extra}; accepted: those of the lead head, {levels}")
    return AnchorHead([channels[name] for name in head.inputs], levels, num_classes, head.anchors, head.implicit,
                      [channels[name] for name in head.auxiliary])


def _last_uses(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """For every node the maps that nobody reads after it."""
    last = {output: node.name for node in spec.nodes for output in node.outputs}
    last |= {name: node.name for node in spec.nodes for name in node.inputs}
    kept = {*spec.head.inputs, *spec.head.auxiliary}
    return {
        node.name: tuple(name for name, user in last.items() if user == node.name and name not in kept)
        for node in spec.nodes
    }
