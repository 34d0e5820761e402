"""Heads: feature maps -> logits of named channels, and how logits become predictions.

This is the only place that knows how logits become boxes (docs/reference.md, Box decoding). Per axis, with cell index
g, stride s and anchor side a: centre ``(2 sigmoid(t) - 0.5 + g) s``, side ``(2 sigmoid(t))^2 a``. Decoding runs in
float32 whatever the network ran in: half precision has steps of 0.5 px above 512 px.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from yolov7.boxes import cxcywh_to_xyxy
from yolov7.config import InputError, unknown
from yolov7.model.convolutions import Conv2d
from yolov7.runtime.plugins import import_all, load_plugins
from yolov7.structures import HeadOutput

NOMINAL_SIZE = 640  # the objectness prior counts on 8 objects in an image of this side
CONSTRAINED, FREE = 0.5, 1.0  # cells outside its own that a centre may reach; FREE is of table 7 and YOLOv7-mask
Anchors = Sequence[Sequence[Sequence[float]]]  # [L, A, 2] width, height in pixels
RESERVED = frozenset((  # what a detector's own values are called, in results, files and graphs
    "images", "box", "boxes", "bbox", "objectness", "score", "scores", "label", "labels", "class", "classes", "name",
    "names", "count", "path", "frame", "x1", "y1", "x2", "y2", "image_id", "category_id"))


@dataclass(frozen=True)
class Channels:
    """The last axis of a head's logits: the name and the width of each group of channels, in order."""

    widths: Mapping[str, int]
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the terms of a task must know, such as sigmas
    reach: float = CONSTRAINED  # cells outside its own that the centre of a box may lie in: see `decode_boxes`

    @classmethod
    def of(cls, num_classes: int, extra: Mapping[str, int], reach: float = CONSTRAINED) -> Channels:
        """The channels of a detector, then those that a task adds."""
        return cls({"box": 4, "objectness": 1, "classes": num_classes, **extra}, reach=reach)

    @property
    def size(self) -> int:
        """The number of all channels, X."""
        return sum(self.widths.values())

    @property
    def scores(self) -> slice:
        """Objectness and classes; an open slice where nothing follows, as exported graphs have it."""
        return slice(4, self.slice("classes").stop if self.extra else None)

    def slice(self, name: str) -> slice:
        """The position of the channels of a name. Raises `KeyError`."""
        start = 0
        for other, width in self.widths.items():
            if other == name:
                return slice(start, start + width)
            start += width
        raise KeyError(name)

    @property
    def extra(self) -> tuple[str, ...]:
        """The names that a task adds to those of a detector."""
        return tuple(name for name in self.widths if name not in ("box", "objectness", "classes"))


@dataclass(frozen=True)
class Predictions:
    """Decoded output: one row per prediction, ordered by level (finest first), anchor, row, column."""

    boxes: Tensor  # float32 [B, M, 4] xyxy pixels of the network input; of one image [M, 4]
    objectness: Tensor  # float32 [B, M] in 0..1; of one image [M]
    classes: Tensor  # float32 [B, M, C] in 0..1, to be multiplied by the objectness; of one image [M, C]
    extra: dict[str, Tensor] = field(default_factory=dict)  # a task's columns [B, M, ...]; of one image [M, ...]
    maps: dict[str, Tensor] = field(default_factory=dict)  # name -> [B, ...]; of one image [...]

    def images(self) -> list[Predictions]:
        """One `Predictions` for each image of a batch, without the batch dimension."""
        return [Predictions(self.boxes[i], self.objectness[i], self.classes[i],
                            {name: column[i] for name, column in self.extra.items()},
                            {name: value[i] for name, value in self.maps.items()}) for i in range(len(self.boxes))]

    def split(self, counts: list[int]) -> list[Predictions]:
        """The same of rows ``[M, ...]`` that are so many of each image, one image after the other."""
        boxes, objectness, classes = (torch.split(value, counts) for value in
                                      (self.boxes, self.objectness, self.classes))
        extra = {name: torch.split(column, counts) for name, column in self.extra.items()}
        return [Predictions(boxes[i], objectness[i], classes[i], {name: parts[i] for name, parts in extra.items()},
                            {name: value[i] for name, value in self.maps.items()}) for i in range(len(counts))]


def decode_boxes(logits: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor | float,
                 reach: float = CONSTRAINED, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits ``[..., 4]`` at cells ``[..., 2]`` (x, y) with anchors ``[..., 2]`` -> xyxy boxes ``[..., 4]``.

    With anchors in pixels and the level's stride the result is in pixels of the network input; with anchors in
    cells, stride 1 and cells 0 it is in cells, relative to the cell's corner. ``reach`` is how far a centre may lie
    outside its cell. With float16 as ``dtype`` it is rounded where the reference implementation rounds in half
    precision.
    """
    activated = logits.to(dtype).sigmoid()
    centre = (activated[..., :2] * (1 + 2 * reach) - reach + cells) * stride
    size = (activated[..., 2:] * 2).square() * anchors
    return cxcywh_to_xyxy(torch.cat((centre, size), dim=-1).to(dtype))


def cell_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Cell indices (x, y) of a level: float32 ``[h, w, 2]``."""
    y = torch.arange(height, device=device, dtype=torch.float32)
    x = torch.arange(width, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


# --- decoding ----------------------------------------------------------------------------------------------------

# logits of the task's channels by name [..., width], cells [..., 2], anchors [..., 2] pixels, stride -> columns
DecodeColumns = Callable[[dict[str, Tensor], Tensor, Tensor, float], dict[str, Tensor]]


@dataclass(frozen=True)
class Decoder:
    """How the logits of a head become predictions, without the head itself (exported files have none)."""

    channels: Channels
    anchors: Tensor  # [L, A, 2] pixels
    strides: tuple[int, ...]
    columns: DecodeColumns
    class_score: bool = False  # the objectness of one class is multiplied by the class: see `Head.class_score`

    def __call__(self, output: HeadOutput) -> Predictions:
        """Decode every row of the lead levels."""
        rows, extra = [], []
        for logits, anchors, stride in zip(output.levels, self.anchors, self.strides, strict=True):
            cells = cell_grid(logits.shape[2], logits.shape[3], logits.device)
            # the anchors are viewed once, and after the logits: exported graphs number operations in their order
            boxes = decode_boxes(logits[..., :4], cells, sides := anchors[:, None, None], stride,
                                 self.channels.reach)  # [B, A, h, w, 4]
            scores = logits[..., self.channels.scores].float().sigmoid()
            rows.append(torch.cat((boxes, scores), dim=-1).flatten(1, 3))
            extra.append({name: column.flatten(1, 3) for name, column in
                          self._columns(logits, cells, sides, stride).items()})
        decoded = torch.cat(rows, dim=1)  # [B, M, 5 + C]
        columns = {name: torch.cat([level[name] for level in extra], dim=1) for name in extra[0]}
        return Predictions(decoded[..., :4], self._objectness(decoded), decoded[..., 5:], columns, output.maps)

    def above(self, output: HeadOutput, confidence: float, dtype: torch.dtype = torch.float32) -> list[Predictions]:
        """Decode the rows whose objectness exceeds ``confidence``, in the order of all rows.

        One `Predictions` for each image, without the batch dimension. ``dtype`` is the format of the arithmetic and of
        the result: float16 is that of the reference implementation on GPUs.
        """
        batch = len(output.levels[0])
        images, rows, extra = [], [], []
        for logits, anchors, stride in zip(output.levels, self.anchors, self.strides, strict=True):
            image, anchor, y, x = (logits[..., 4].to(dtype).sigmoid() > confidence).nonzero(as_tuple=True)
            chosen = logits[image, anchor, y, x]  # [N, X]
            cells = torch.stack((x, y), dim=-1).float()
            boxes = decode_boxes(chosen[:, :4], cells, anchors[anchor], stride, self.channels.reach, dtype)
            scores = chosen[:, self.channels.scores].to(dtype).sigmoid()
            images.append(image)
            rows.append(torch.cat((boxes, scores), dim=-1))
            extra.append(self._columns(chosen, cells, anchors[anchor], stride))
        of_image = torch.cat(images)
        counts = torch.bincount(of_image, minlength=batch).tolist()  # waits for the device, as all that follows
        order = of_image.argsort(stable=True)
        decoded = torch.cat(rows)[order]
        columns = {name: torch.cat([level[name] for level in extra])[order] for name in extra[0]}
        return Predictions(decoded[:, :4], self._objectness(decoded), decoded[:, 5:], columns, output.maps
                           ).split(counts)

    def _objectness(self, rows: Tensor) -> Tensor:
        return rows[..., 4] * rows[..., 5] if self.class_score and rows.shape[-1] == 6 else rows[..., 4]

    def _columns(self, logits: Tensor, cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        own = {name: logits[..., self.channels.slice(name)] for name in self.channels.extra}
        return self.columns(own, cells, anchors, stride) if own else {}


# --- heads -------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """One 1x1 convolution per level, with implicit knowledge: ``multiply * conv(x + add)`` (paper, section 4.3).

    ``anchors`` is ``[L, A, 2]`` in pixels (width, height). Without ``implicit`` it is a plain convolution.
    ``auxiliary_channels`` are the channels of the auxiliary head's inputs: plain convolutions to all channels, used in
    training alone.

    The head of a task names its additional channels in ``extra``, and in ``apart`` those of them that the lead head's
    convolutions leave to modules of its own, which `level` then joins. Its own keyword arguments are keys of the
    model's YAML. It may add modules, maps by overriding `make_maps`, and decode its channels in `decode_columns`. Nodes
    that the YAML names under ``maps`` are those of `map_inputs`; `make_maps` finds them behind the levels.
    """

    anchors: Tensor
    map_names: ClassVar[tuple[str, ...]] = ()  # keys of `make_maps`
    map_inputs: tuple[tuple[int, int], ...] = ()  # channels and stride of each node that it reads beside its levels
    reach: ClassVar[float] = CONSTRAINED  # see `Channels`
    nominal_classes: ClassVar[int] = 80  # of the data set that models with this head are published for
    multiplies: ClassVar[bool] = True  # whether the multiplicative part of implicit knowledge takes part
    has_masks: ClassVar[bool] = False  # whether its task finds a mask of each object: the column ``masks``
    class_score: bool = False  # a score is objectness times class with one class, too, though training leaves it alone
    mask_stride: ClassVar[int] = 0  # pixels of the network input in a cell of `make_masks`

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, anchors: Anchors,
                 implicit: bool = True, auxiliary_channels: Sequence[int] = (),
                 extra: Mapping[str, int] | None = None, apart: Collection[str] = ()) -> None:
        super().__init__()
        if self.mask_stride and strides[0] != 2 * self.mask_stride:
            raise ValueError(f"levels of strides {tuple(strides)}; its masks have cells of {self.mask_stride} px, half "
                             f"the stride of the finest level; accepted: {2 * self.mask_stride} there")
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.num_anchors = len(anchors[0])
        self.channels = Channels.of(num_classes, check_names(extra or {}, type(self)), self.reach)
        check_names(self.map_names, type(self))
        self.apart = tuple(apart)
        outputs = self.num_anchors * self.channels.size
        own = outputs - self.num_anchors * sum(self.channels.widths[name] for name in self.apart)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.convs = nn.ModuleList(Conv2d(channels, own, 1) for channels in in_channels)
        self.auxiliary_convs = nn.ModuleList(Conv2d(channels, outputs, 1) for channels in auxiliary_channels)
        self.implicit_add = nn.ParameterList()
        self.implicit_multiply = nn.ParameterList()
        if implicit:
            self.implicit_add.extend(nn.Parameter(0.02 * torch.randn(1, c, 1, 1)) for c in in_channels)
            self.implicit_multiply.extend(nn.Parameter(1 + 0.02 * torch.randn(1, own, 1, 1)) for _ in in_channels)
        for convs in (self.convs, self.auxiliary_convs):
            for conv, stride in zip(convs, self.strides, strict=False):
                self._add_bias_prior(conv, stride)

    @property
    def decoder(self) -> Decoder:
        """How the logits become predictions."""
        return Decoder(self.channels, self.anchors, self.strides, self.decode_columns, self.class_score)

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        """The decoded columns of the task's channels by name; the logits themselves unless a head overrides this."""
        return {name: value.float() for name, value in logits.items()}

    def make_maps(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Maps for the whole image by name, such as prototypes of masks: ``[B, ...]``.

        ``features`` are the levels, then what `map_inputs` names.
        """
        return {}

    def make_masks(self, boxes: Tensor, columns: Mapping[str, Tensor], maps: Mapping[str, Tensor],
                   full: bool = False) -> Tensor:
        """The masks of detections, for graphs that end with them: float32 ``[B, N, h, w]`` in 0..1, 0 outside a box.

        One cell is `mask_stride` pixels, if ``full`` one pixel of the network input, of which ``boxes`` ``[B, N, 4]``
        are pixels; of no use where `has_masks` is not set.
        """
        raise NotImplementedError(type(self).__name__)

    @torch.no_grad()
    def _add_bias_prior(self, conv: nn.Module, stride: int) -> None:
        """Start from few objects: 8 in an image of 640 px, and a class score of 0.6 over all classes."""
        bias = conv.get_parameter("bias").view(self.num_anchors, -1)
        bias[:, self.channels.slice("objectness")] += math.log(8 / (NOMINAL_SIZE / stride) ** 2)
        bias[:, self.channels.slice("classes")] += math.log(0.6 / (self.num_classes - 0.99))

    def forward(self, features: Sequence[Tensor], auxiliary: Sequence[Tensor] = (),
                others: Sequence[Tensor] = ()) -> HeadOutput:
        """L maps ``[B, c, h, w]``, finest first, and L or none for the auxiliary head -> logits [B, A, h, w, X].

        ``others`` are those of `map_inputs`.
        """
        levels = [self.level(index, x) for index, x in zip(range(len(self.convs)), features, strict=True)]
        extra = tuple(self.separate(conv(x)) for x, conv in zip(auxiliary, self.auxiliary_convs, strict=True))
        maps = {}
        if self.map_names:
            levels_in = [in_format_of(conv, x) for conv, x in zip(self.convs, features, strict=True)]
            maps = self.make_maps([*levels_in, *others])
        return HeadOutput(tuple(levels), (HeadOutput(extra),) if extra else (), maps)

    def level(self, index: int, x: Tensor) -> Tensor:
        """The logits of one level of the lead head: ``[B, c, h, w]`` -> ``[B, A, h, w, X]``."""
        return self.separate(self.convolve(index, x))

    def convolve(self, index: int, x: Tensor) -> Tensor:
        """What the convolution of one level of the lead head makes, with implicit knowledge: ``[B, rows, h, w]``."""
        conv = self.convs[index]
        x = in_format_of(conv, x)
        if not len(self.implicit_add):
            y: Tensor = conv(x)
        elif self.multiplies:
            y = conv(x + self.implicit_add[index]) * self.implicit_multiply[index]
        else:
            y = conv(x + self.implicit_add[index])
        return y

    def separate(self, y: Tensor, channels: int = 0) -> Tensor:
        """``[B, A * X, h, w]`` -> ``[B, A, h, w, X]``; X is that of all channels, unless another is given."""
        batch, _, height, width = y.shape
        return y.view(batch, self.num_anchors, channels or self.channels.size, height, width).permute(0, 1, 3, 4, 2)

    def to_half(self, dtype: torch.dtype) -> None:
        """Change to half precision what is heavy and whose rounding does not show: nothing, unless a head says so."""

    # --- what rows make: by this, weights go from one network to another

    def outputs(self) -> dict[str, tuple[list[nn.Conv2d], list[str]]]:
        """The convolutions that make channels, one for each level, and what each of their rows makes.

        Rows of two networks that are called the same make the same thing of the same kind of input.
        """
        here = [name for name in self.channels.widths if name not in self.apart]
        return {"convs": (list(self.convs), self.row_names(here)),  # type: ignore[arg-type]
                "auxiliary_convs": (list(self.auxiliary_convs),  # type: ignore[arg-type]
                                    self.row_names(list(self.channels.widths)))}

    def row_names(self, channels: Collection[str]) -> list[str]:
        """What the rows of a convolution to these channels make, in their order."""
        return [f"{name} {label} of anchor {anchor}" for anchor in range(self.num_anchors)
                for name in self.channels.widths if name in channels for label in self.labels(name)]

    def labels(self, name: str) -> list[str]:
        """What tells the channels of a name apart, in every network that has them."""
        width = self.channels.widths[name]
        return [f"{index} of {width}" for index in range(width)]


NamesType = TypeVar("NamesType", bound=Collection[str])


def check_names(names: NamesType, head: type[Head]) -> NamesType:
    """The names of a task's channels, columns or maps, where results and files can tell them from a detector's.

    Raises `InputError`.
    """
    for name in names:
        if not name.isidentifier() or name in RESERVED or re.fullmatch(r"level\d+", name):
            raise InputError(f"{head.__name__}: its output cannot be called {name!r}; accepted: a word of letters, "
                             f"digits and _ that is neither levelN nor one of {', '.join(sorted(RESERVED))}")
    if twice := sorted(name for name, count in Counter(list(names)).items() if count > 1):
        raise InputError(f"{head.__name__}: two of its outputs are called {', '.join(twice)}")
    return names


def in_format_of(conv: nn.Module, x: Tensor) -> Tensor:
    """Features in the number format of a convolution (half-precision networks keep it in float32; see autocast)."""
    assert isinstance(conv.weight, Tensor)
    same = x.dtype == conv.weight.dtype or torch.is_autocast_enabled(x.device.type)  # autocast converts by itself
    return x if same else x.to(conv.weight.dtype)


# --- registry ----------------------------------------------------------------------------------------------------

HEADS: dict[str, type[Head]] = {}
HeadType = TypeVar("HeadType", bound=type[Head])


def register_head(head: HeadType) -> HeadType:
    """Make a head known to model YAML under its class name."""
    HEADS[head.__name__] = head
    return head


def find_head(name: str, where: str, package: str = "") -> type[Head]:
    """The head of that name, of this package or of an installed package that registers a task.

    ``package`` is the one that a checkpoint names. Raises `InputError` where there is no such head.
    """
    if name not in HEADS:
        import_all(importlib.import_module("yolov7.model.heads"))
        load_plugins()
    if name in HEADS:
        return HEADS[name]
    if package:
        raise InputError(f"{where}: the head {name!r} comes with the package {package!r}, which is not installed here: "
                         f"pip install {package}")
    raise InputError(f"{where}: {unknown('block', name, HEADS)} (the heads of another package are found once it is "
                     "installed)")


def head_arguments(head: type[Head]) -> dict[str, inspect.Parameter]:
    """The arguments of a head beyond those of all heads: keys of the model's YAML, with evaluated annotations."""
    common = inspect.signature(Head).parameters
    return {name: parameter for name, parameter in inspect.signature(head, eval_str=True).parameters.items()
            if name not in common and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}
