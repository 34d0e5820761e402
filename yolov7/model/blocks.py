"""The blocks of the networks, and their registry.

A block is an ``nn.Module`` under `register_block` with the signature ``(in_channels, out, ...)``: ``in_channels`` is
a number, or a tuple where ``inputs`` is not 1. YAML nodes name its other arguments; an argument ``activation`` has the
model's as its default. Convolutions are created in the order of the reference implementation's layers, so that its
weights map by position (the order inside a composite is part of the weight format).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov7.config.errors import shown
from yolov7.model.convolutions import Conv2d
from yolov7.model.norms import batch_norm, conv_act, make_activation, norm_act

NOTHING = nn.Identity()  # the activation of a branch


class Block(nn.Module):
    """The properties of a block that the builder of a network reads."""

    inputs: ClassVar[int] = 1  # feature maps it takes; 0 = two or more
    input_strides: ClassVar[tuple[float, ...]] = ()  # over that of the first; (): all the same
    reduction: float = 1  # stride of its output over the (largest) stride of its inputs
    extra_outputs: ClassVar[tuple[str, ...]] = ()  # maps that `forward` returns behind the output: ``node.name``
    width_step: ClassVar[int] = 8  # scaling rounds ``out`` up to a multiple of this (see `scaling`) ...
    depth_step: ClassVar[int] = 1  # ... and ``depth`` to one of this
    out_channels: int


BLOCKS: dict[str, type[Block]] = {}
BlockType = TypeVar("BlockType", bound=type[Block])


def register_block(block: BlockType) -> BlockType:
    """Make a block known to model YAML under its class name."""
    BLOCKS[block.__name__] = block
    return block


def require_even(out: int) -> int:
    """``out``, which a block splits into halves."""
    if out % 2:
        raise ValueError(f"out {out} is not even")
    return out


@register_block
class Conv(Block):
    """Convolution, batch norm, activation; padding keeps the size at stride 1."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1,
                 activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.reduction = stride
        self.conv = Conv2d(in_channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = batch_norm(out)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self.conv(x), self.bn, self.act)


@register_block
class ConvDown(Conv):
    """3x3 convolution with stride 2: the transition of the W6 models and of most baselines."""

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__(in_channels, out, 3, 2, activation=activation)


class FusedConv(nn.Module):
    """Convolution with bias, then activation: what Conv and RepConv become."""

    joined = False  # bias and activation in one pass, see `conv_act`

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return conv_act(x, self.conv, self.act, self.joined)


@register_block
class RepConv(Block):
    """Planned re-parameterized convolution: 3x3 + 1x1 (+ identity) branches that fuse into one 3x3 (paper, 4.1).

    Without the identity branch it is the paper's RepConvN, which a concatenation or a residual sum needs.
    """

    def __init__(self, in_channels: int, out: int, stride: int = 1, groups: int = 1, identity: bool = False,
                 activation: str = "silu") -> None:
        super().__init__()
        if identity and (in_channels != out or stride != 1):
            raise ValueError(f"an identity branch needs equal widths and stride 1, found {in_channels} -> {out}, "
                             f"stride {stride}")
        self.out_channels = out
        self.reduction = stride
        self.identity = batch_norm(out) if identity else None
        self.dense = nn.Sequential(
            Conv2d(in_channels, out, 3, stride, padding=1, groups=groups, bias=False), batch_norm(out))
        self.point = nn.Sequential(Conv2d(in_channels, out, 1, stride, groups=groups, bias=False), batch_norm(out))
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        branches = [norm_act(conv(x), norm, NOTHING) for conv, norm in (self.dense, self.point)]
        if self.identity is not None:
            branches.append(norm_act(x, self.identity, NOTHING))
        y: Tensor = self.act(sum(branches[1:], branches[0]))
        return y


@register_block
class ELAN(Block):
    """Efficient layer aggregation (paper, figure 2c): two 1x1 branches, one of which feeds a chain of 3x3.

    ``hidden`` is the width of the branches, ``chain`` that of the chained convolutions, ``depth`` their number.
    Concatenated are every second output of the chain, newest first, then both branches. The chained convolutions at
    ``rep_positions`` (from 1) are RepConv, with an identity branch under ``rep_identity`` (paper, table 4).
    """

    depth_step = 2  # also: every how many convolutions the chain is tapped
    cardinality: ClassVar[int] = 1  # groups, each as wide as the block would be; all read the whole input

    def __init__(self, in_channels: int, out: int, hidden: int, chain: int = 0, depth: int = 4,
                 rep_positions: tuple[int, ...] = (), rep_identity: bool = True, activation: str = "silu") -> None:
        super().__init__()
        chain = chain or hidden
        if depth % self.depth_step:
            raise ValueError(f"depth {depth} is not a multiple of {self.depth_step}")
        if not set(rep_positions) <= set(range(1, depth + 1)):
            raise ValueError(f"rep_positions {shown(rep_positions)}; accepted: 1 to {depth}")
        self.out_channels = out
        groups = self.cardinality
        self.bypass = Conv(in_channels, groups * hidden, activation=activation)
        self.main = Conv(in_channels, groups * hidden, activation=activation)
        self.chain = nn.ModuleList()
        for position in range(1, depth + 1):
            widths = groups * (hidden if position == 1 else chain), groups * chain
            if position in rep_positions:
                conv: Block = RepConv(*widths, groups=groups, identity=rep_identity and widths[0] == widths[1],
                                      activation=activation)
            else:
                conv = Conv(*widths, 3, groups=groups, activation=activation)
            self.chain.append(conv)
        width = 2 * hidden + chain * (depth // self.depth_step)
        self.out = Conv(groups * width, groups * out, groups=groups, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat(self.taps(x), dim=1))

    def taps(self, x: Tensor) -> list[Tensor]:
        """What is concatenated: outputs of the chain, newest first, then both branches."""
        found = [self.bypass(x), self.main(x)]
        y = found[-1]
        for position, conv in enumerate(self.chain, start=1):
            y = conv(y)
            if position % self.depth_step == 0:
                found.append(y)
        return found[::-1]


@register_block
class ELANH(ELAN):
    """ELAN of the necks and of the tiny model ("ELAN-H"): every output of the chain is concatenated."""

    depth_step = 1


@register_block
class EELAN(Block):
    """Extended ELAN in the form of the released E6E: the sum of two ELANs with weights of their own.

    Its extra output ``second`` is the second ELAN before the sum, where the partial auxiliary head reads.
    """

    extra_outputs = ("second",)
    branch: ClassVar[type[ELAN]] = ELAN
    depth_step = ELAN.depth_step

    def __init__(self, in_channels: int, out: int, hidden: int, chain: int = 0, depth: int = 4,
                 activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.first = self.branch(in_channels, out, hidden, chain, depth, activation=activation)
        self.second = self.branch(in_channels, out, hidden, chain, depth, activation=activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        second = self.second(x)
        return self.first(x) + second, second


@register_block
class EELANH(EELAN):
    """Extended ELAN-H."""

    branch = ELANH
    depth_step = ELANH.depth_step


@register_block
class EELANGrouped(ELAN):
    """Extended ELAN as the paper draws it (figure 2d): expand, shuffle and merge cardinality, by group convolutions.

    Every convolution of an ELAN gets twice its channels in two groups, the concatenation is shuffled so that either
    group holds its own taps, and the groups of the output are added. Equal to `EELAN` with the same weights.
    """

    extra_outputs = ("second",)
    cardinality = 2

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        halves = [tap.chunk(self.cardinality, dim=1) for tap in self.taps(x)]
        shuffled = torch.cat([half[group] for group in range(self.cardinality) for half in halves], dim=1)
        first, second = self.out(shuffled).chunk(self.cardinality, dim=1)
        return first + second, second


@register_block
class EELANHGrouped(EELANGrouped):
    """Extended ELAN-H by group convolutions."""

    depth_step = 1


@register_block
class MaxDown(Block):
    """2x2 max-pooling with stride 2."""

    reduction = 2

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, 2)


@register_block
class MPDown(Block):
    """Transition of the P5 models: max-pooling + 1x1 beside 1x1 + strided 3x3, ``out / 2`` channels each."""

    reduction = 2
    width_step = 16

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        self.pool = Conv(in_channels, out // 2, activation=activation)
        self.reduce = Conv(in_channels, out // 2, activation=activation)
        self.down = Conv(out // 2, out // 2, 3, 2, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.down(self.reduce(x)), self.pool(F.max_pool2d(x, 2, 2))), dim=1)


@register_block
class DownC(Block):
    """Transition of E6 and D6: 1x1 + strided 3x3 beside max-pooling + 1x1, ``out / 2`` channels each.

    Unlike in `MPDown` the 1x1 before the strided convolution keeps the width of the input.
    """

    reduction = 2
    width_step = 16

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        self.mix = Conv(in_channels, in_channels, activation=activation)
        self.down = Conv(in_channels, out // 2, 3, 2, activation=activation)
        self.pool = Conv(in_channels, out // 2, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.down(self.mix(x)), self.pool(F.max_pool2d(x, 2, 2))), dim=1)


@register_block
class ReOrg(Block):
    """Space to depth by 2: the first layer of the P6 models. The row offset varies fastest."""

    reduction = 2

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = 4 * in_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1)


@register_block
class UpCat(Block):
    """Top-down merge of a coarse map and a lateral one of twice its size, ``out / 2`` channels each, lateral first."""

    inputs = 2
    input_strides = (1, 0.5)
    reduction = 0.5
    width_step = 16

    def __init__(self, in_channels: tuple[int, int], out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = require_even(out)
        self.coarse = Conv(in_channels[0], out // 2, activation=activation)
        self.lateral = Conv(in_channels[1], out // 2, activation=activation)

    def forward(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        upsampled = F.interpolate(self.coarse(coarse), scale_factor=2, mode="nearest")
        return torch.cat((self.lateral(lateral), upsampled), dim=1)


@register_block
class Cat(Block):
    """Concatenation of channels, first input lowest."""

    inputs = 0

    def __init__(self, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.out_channels = sum(in_channels)

    def forward(self, *features: Tensor) -> Tensor:
        return torch.cat(features, dim=1)


Pools = Literal["parallel", "chained"]


def pyramid_pool(x: Tensor, spans: tuple[int, ...] = (5, 5, 5)) -> list[Tensor]:
    """``x`` and its max-pools, each of the one before: of 5x5, two span 9 and three span 13, as parallel pools do."""
    pooled = [x]
    for span in spans:
        pooled.append(F.max_pool2d(pooled[-1], span, 1, span // 2))
    return pooled


@register_block
class SPPCSPC(Block):
    """Spatial pyramid pooling inside a cross-stage partial block (P5 and P6 models)."""

    def __init__(self, in_channels: int, out: int, pools: Pools = "parallel", activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.spans = (5, 9, 13) if pools == "chained" else (5, 5, 5)
        self.cv1 = Conv(in_channels, out, activation=activation)
        self.bypass = Conv(in_channels, out, activation=activation)
        self.cv3 = Conv(out, out, 3, activation=activation)
        self.cv4 = Conv(out, out, activation=activation)
        self.cv5 = Conv(4 * out, out, activation=activation)
        self.cv6 = Conv(out, out, 3, activation=activation)
        self.out = Conv(2 * out, out, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat(pyramid_pool(self.cv4(self.cv3(self.cv1(x))), self.spans), dim=1)
        return self.out(torch.cat((self.cv6(self.cv5(pooled)), self.bypass(x)), dim=1))


@register_block
class SPPCSPCTiny(Block):
    """SPPCSPC of the tiny models: no 3x3 convolutions, pools concatenated largest first."""

    def __init__(self, in_channels: int, out: int, activation: str = "silu") -> None:
        super().__init__()
        self.out_channels = out
        self.bypass = Conv(in_channels, out, activation=activation)
        self.main = Conv(in_channels, out, activation=activation)
        self.merge = Conv(4 * out, out, activation=activation)
        self.out = Conv(2 * out, out, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat(pyramid_pool(self.main(x))[::-1], dim=1)
        return self.out(torch.cat((self.merge(pooled), self.bypass(x)), dim=1))
