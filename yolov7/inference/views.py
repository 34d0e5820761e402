"""Several views of an image put together: what a task adds to the boxes, brought back to the image as it is.

Boxes are moved by test-time augmentation itself. Columns and maps are moved here, by a `Join` that is registered for
what networks of the task predict; without one, nobody knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from yolov7.config import InputError
from yolov7.keypoints import layout_of
from yolov7.masks import CELL
from yolov7.model.blending import attention_side
from yolov7.model.heads.base import Predictions

Columns = dict[str, Tensor]
NO_SHARE = -1e4  # a logit whose softmax is 0


@dataclass(frozen=True)
class View:
    """An image of ``size`` (height, width), mirrored left to right, then made smaller by a factor and padded."""

    size: tuple[int, int]
    scale: float = 1.0
    mirrored: bool = False


# the predictions of the views of one image, and the arguments of the head in the model's YAML -> columns and maps
Join = Callable[[Sequence[Predictions], Sequence[View], Mapping[str, Any]], tuple[Columns, Columns]]


def join_nothing(parts: Sequence[Predictions], views: Sequence[View],
                 arguments: Mapping[str, Any]) -> tuple[Columns, Columns]:
    """Of a detector, whose boxes are put together anyway. Networks that keep it can be pickled."""
    return {}, {}


JOINS: dict[tuple[str, ...], Join] = {(): join_nothing}  # by the task outputs


def register_join(outputs: tuple[str, ...], join: Join) -> None:
    """Make known how views are put together of networks whose ``task_outputs`` are these."""
    JOINS[outputs] = join


def find_join(outputs: tuple[str, ...], flag: str, head: str) -> Join:
    """How such networks' views are put together. Raises `InputError` where nobody knows."""
    if outputs not in JOINS:
        raise InputError(f"{flag} is for networks that predict boxes alone, key points or masks; {head} also predicts "
                         f"{', '.join(outputs)}")
    return JOINS[outputs]


def join_keypoints(parts: Sequence[Predictions], views: Sequence[View],
                   arguments: Mapping[str, Any]) -> tuple[Columns, Columns]:
    """Key points in pixels of the image; in a mirrored view what is left was right."""
    return {"keypoints": torch.cat([_put_back(part.extra["keypoints"], view, arguments)
                                    for part, view in zip(parts, views, strict=True)])}, {}


def _put_back(points: Tensor, view: View, arguments: Mapping[str, Any]) -> Tensor:
    moved = points.clone()
    moved[..., :2] /= view.scale
    if not view.mirrored:
        return moved
    layout = layout_of(arguments, points.shape[1])
    if not layout.flip:
        raise InputError("--augment: mirrors images, and which of the key points "
                         f"{', '.join(layout.names)} become which is not known; accepted: names with left and right in "
                         "pairs, or the published ones")
    moved[..., 0] = view.size[1] - moved[..., 0]
    return moved[:, list(layout.flip)]


def join_prototypes(parts: Sequence[Predictions], views: Sequence[View],
                    arguments: Mapping[str, Any]) -> tuple[Columns, Columns]:
    """The prototypes of all views on the cells of the image, one behind the other; coefficients are 0 for the others'.

    Interpolated prototypes give interpolated logits: their sum is linear.
    """
    maps = [_on_image(part.maps["prototypes"].float(), view) for part, view in zip(parts, views, strict=True)]
    widths = [len(each) for each in maps]
    rows = [F.pad(part.extra["coefficients"], (sum(widths[:index]), sum(widths[index + 1 :])))
            for index, part in enumerate(parts)]
    return {"coefficients": torch.cat(rows)}, {"prototypes": torch.cat(maps)}


def _on_image(prototypes: Tensor, view: View) -> Tensor:
    """Maps ``[K, h, w]`` of a view at the centres of the cells of its image."""
    height, width = (side // CELL for side in view.size)
    if view.scale == 1 and not view.mirrored:
        return prototypes
    x, y = ((torch.arange(count, device=prototypes.device) + 0.5) * CELL for count in (width, height))
    if view.mirrored:
        x = view.size[1] - x
    rows, columns = prototypes.shape[-2:]
    places = torch.meshgrid(2 * view.scale * x / (CELL * columns) - 1, 2 * view.scale * y / (CELL * rows) - 1,
                            indexing="xy")
    return F.grid_sample(prototypes[None], torch.stack(places, dim=-1)[None], padding_mode="border",
                         align_corners=False)[0]


def join_blended(parts: Sequence[Predictions], views: Sequence[View],
                 arguments: Mapping[str, Any]) -> tuple[Columns, Columns]:
    """The bases and semantic maps of all views on the cells of the image, one behind the other; the softmax of the
    attention gives those of other views nothing. Attention of a mirrored view is mirrored."""
    maps = {name: [_on_image(part.maps[name].float(), view) for part, view in zip(parts, views, strict=True)]
            for name in ("bases", "semantic")}
    of_maps = torch.cat([torch.full((len(each),), float(index)) for name in maps for index, each in
                         enumerate(maps[name])])  # the view of each map
    rows = []
    for index, (part, view) in enumerate(zip(parts, views, strict=True)):
        own = part.extra["attention"].float()
        side = attention_side(own.shape[1], int((of_maps == index).sum()))
        attention = own.view(len(own), -1, side, side)
        all_maps = attention.new_full((len(own), len(of_maps), side, side), NO_SHARE)
        all_maps[:, of_maps == index] = attention.flip(-1) if view.mirrored else attention
        rows.append(all_maps.flatten(1))
    others = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra if name != "attention"}
    return {"attention": torch.cat(rows), **others}, {name: torch.cat(each) for name, each in maps.items()}


register_join(("keypoints",), join_keypoints)
register_join(("coefficients", "prototypes"), join_prototypes)
register_join(("attention", "bases", "semantic"), join_blended)
register_join(("attention", "mask_iou", "bases", "semantic"), join_blended)
