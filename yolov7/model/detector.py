"""`ModelSpec` -> network."""

from __future__ import annotations

from typing import cast

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
            channels[node.name] = block.out_channels
            strides[node.name] = int(max(strides[name] for name in node.inputs) * block.reduction)
        head = spec.head
        self.head = AnchorHead([channels[name] for name in head.inputs], [strides[name] for name in head.inputs],
                               num_classes, head.anchors, head.implicit)
        if list(self.head.strides) != sorted(set(self.head.strides)):
            raise InputError(f"{spec.name}.head, from: strides {self.head.strides}; accepted: finest level first")
        self._released = _last_uses(spec)

    @property
    def stride(self) -> int:
        """Both sides of the network input are multiples of this."""
        return max(32, *self.head.strides)

    def forward(self, images: Tensor) -> HeadOutput:
        """RGB images in 0..1, ``[B, 3, H, W]``, sides multiples of `stride` -> logits."""
        features = {IMAGE: images}
        for node in self.spec.nodes:
            features[node.name] = self.nodes[node.name](*(features[name] for name in node.inputs))
            for name in self._released[node.name]:  # memory: a map is kept only as long as somebody reads it
                del features[name]
        return cast(HeadOutput, self.head([features[name] for name in self.spec.head.inputs]))

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


def _last_uses(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """For every node the maps that nobody reads after it."""
    last = {name: node.name for node in spec.nodes for name in node.inputs}
    kept = set(spec.head.inputs)
    return {
        node.name: tuple(name for name, user in last.items() if user == node.name and name not in kept)
        for node in spec.nodes
    }
