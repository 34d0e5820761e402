"""The heads of pose: key points for each prediction, and the reference implementation's order of their channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from yolov7.config.errors import shown
from yolov7.keypoints import COCO_PERSON, KeypointLayout, complete_layout
from yolov7.model.blocks import Conv
from yolov7.model.convolutions import Conv2d
from yolov7.model.heads.base import Head, in_format_of, register_head

AXES = ("x", "y", "visibility")  # channels of a key point
MAX_KEYPOINTS = 1000


class KeypointPath(nn.Module):
    """The way of key points on one level: ``depth`` pairs of 3x3 depth-wise and 1x1, one more 3x3, then the outputs."""

    def __init__(self, in_channels: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(depth):
            channels = width if index else in_channels
            layers += [Conv(channels, channels, 3, groups=channels), Conv(channels, width)]
        self.layers = nn.Sequential(*layers, Conv(width, width, 3, groups=width))
        self.last = Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0].conv
        assert isinstance(first, nn.Conv2d)
        made: Tensor = self.last(in_format_of(self.last, self.layers(in_format_of(first, x))))
        return made


@register_head
class PoseHead(Head):
    """A detector whose predictions also have key points: x, y and the logit of their visibility, K times.

    They come from a path of their own on the features, without implicit knowledge. ``keypoint_width`` is the width of
    this path, by default that of the level.
    """

    nominal_classes = 1

    def __init__(self, in_channels: Sequence[int], *detector: Any, keypoints: tuple[str, ...] = COCO_PERSON.names,
                 limbs: tuple[tuple[int, ...], ...] = (), flip: tuple[int, ...] = (), sigmas: tuple[float, ...] = (),
                 keypoint_depth: int = 5, keypoint_width: int | None = None) -> None:
        layout = _checked_layout(keypoints, limbs, flip, sigmas)
        if keypoint_width is not None and keypoint_width < 1:
            raise ValueError(f"keypoint_width {keypoint_width}; accepted: at least 1")
        super().__init__(in_channels, *detector, extra={"keypoints": 3 * len(keypoints)},  # type: ignore[misc]
                         apart=("keypoints",))
        self.layout = layout
        self.channels = replace(self.channels, facts={"sigmas": layout.sigmas})
        outputs = self.num_anchors * 3 * len(keypoints)
        self.keypoint_paths = nn.ModuleList(
            KeypointPath(channels, keypoint_width or channels, keypoint_depth, outputs) for channels in in_channels)

    @staticmethod
    def decode_columns(logits: dict[str, Tensor], cells: Tensor, anchors: Tensor, stride: float) -> dict[str, Tensor]:
        """``keypoints``: x, y in pixels of the network input, without bound, and visibility 0..1: ``[..., K, 3]``."""
        flat = logits["keypoints"].float()
        raw = torch.stack([flat[..., axis::3] for axis in range(3)], dim=-1)  # also of zero rows, and in any graph
        points = (2 * raw[..., :2] - 0.5 + cells[..., None, :]) * stride
        return {"keypoints": torch.cat((points, raw[..., 2:].sigmoid()), dim=-1)}

    def level(self, index: int, x: Tensor) -> Tensor:
        """The logits of one level: ``[B, c, h, w]`` -> ``[B, A, h, w, X]``."""
        points = self.channels.widths["keypoints"]
        return torch.cat((self.separate(self.convolve(index, x), self.channels.size - points),
                          self.separate(self.keypoint_paths[index](x), points)), dim=-1)

    def to_half(self, dtype: torch.dtype) -> None:
        """Compute the paths of key points in half precision, but for their outputs."""
        for path in self.keypoint_paths:
            path.get_submodule("layers").to(dtype)

    def outputs(self) -> dict[str, tuple[list[nn.Conv2d], list[str]]]:
        """The convolutions that make channels, also those of key points (see `Head.outputs`)."""
        return super().outputs() | {"keypoint_paths": (self._path_ends(), self.row_names(["keypoints"]))}

    def _path_ends(self) -> list[nn.Conv2d]:
        return [path.last for path in self.keypoint_paths]  # type: ignore[misc]

    def labels(self, name: str) -> list[str]:
        """Key points are the same where their names are."""
        if name != "keypoints":
            return super().labels(name)
        return [f"{point} {axis}" for point in self.layout.names for axis in AXES]


@register_head
class PublishedPoseHead(PoseHead):
    """The reference implementation's order of channels, which its weights have; `PoseHead` is for new training.

    Both ways' channels are put behind each other and cut into one group of X for each anchor, so that the detections
    of all anchors but the first come from the way of key points (docs/reference.md, Pose head). ``class_score`` is set
    for weights that the reference implementation trained, whose scores it multiplies by the class.
    """

    def __init__(self, in_channels: Sequence[int], *detector: Any, keypoints: tuple[str, ...] = COCO_PERSON.names,
                 limbs: tuple[tuple[int, ...], ...] = (), flip: tuple[int, ...] = (), sigmas: tuple[float, ...] = (),
                 keypoint_depth: int = 5, keypoint_width: int | None = None, class_score: bool = False) -> None:
        super().__init__(in_channels, *detector, keypoints=keypoints, limbs=limbs, flip=flip, sigmas=sigmas,
                         keypoint_depth=keypoint_depth, keypoint_width=keypoint_width)
        self.class_score = class_score

    def level(self, index: int, x: Tensor) -> Tensor:
        """The logits of one level: ``[B, c, h, w]`` -> ``[B, A, h, w, X]``."""
        return self.separate(torch.cat((self.convolve(index, x), self.keypoint_paths[index](x)), dim=1))

    def outputs(self) -> dict[str, tuple[list[nn.Conv2d], list[str]]]:
        """The convolutions that make channels (see `Head.outputs`)."""
        found, every = super().outputs(), self.row_names(list(self.channels.widths))
        own = self.num_anchors * (self.channels.size - self.channels.widths["keypoints"])
        return found | {"convs": (found["convs"][0], every[:own]), "keypoint_paths": (self._path_ends(), every[own:])}


def _checked_layout(names: Sequence[str], limbs: Sequence[Sequence[int]], flip: Sequence[int],
                    sigmas: Sequence[float]) -> KeypointLayout:
    """The layout that the arguments of a head state. Raises ``ValueError``."""
    count = len(names)
    readable = all(name.strip() and name.isprintable() for name in names)
    if not 1 <= count <= MAX_KEYPOINTS or len(set(names)) < count or not readable:
        raise ValueError(f"keypoints {shown(list(names))}; accepted: 1 to {MAX_KEYPOINTS} names in printable "
                         "characters, each of them once")
    for limb in limbs:
        if len(limb) != 2 or not all(0 <= end < count for end in limb):
            raise ValueError(f"limbs: found {shown(list(limb))}; accepted: pairs of key points, counted from 0 to "
                             f"{count - 1}")
    if flip and (sorted(flip) != list(range(count)) or any(flip[flip[i]] != i for i in range(count))):
        raise ValueError(f"flip {shown(list(flip))}; accepted: which of the {count} key points each becomes in a "
                         "mirrored image, so that mirroring twice changes nothing")
    if sigmas and (len(sigmas) != count or not all(math.isfinite(sigma) and sigma > 0 for sigma in sigmas)):
        raise ValueError(f"sigmas {shown(list(sigmas))}; accepted: a number above 0 for each of the {count} key points")
    return complete_layout(names, limbs, flip, sigmas)
