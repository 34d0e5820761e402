"""Key points behind NMS: from pixels of the network input to pixels of the native image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from yolov7.inference.nms import to_native
from yolov7.structures import ImageMeta, Instances


def finish_keypoints(found: Instances, maps: dict[str, Tensor], meta: ImageMeta) -> Instances:
    """Pose's `Finish`: boxes and the x and y of ``keypoints`` in native pixels, clipped to the image.

    The third number of a key point, the score of its visibility, stays as it is.
    """
    native = to_native(found, maps, meta)
    points = found.extra["keypoints"]  # [N, K, 3]
    height, width = meta.size
    x, y = ((points[..., axis] - meta.pad[axis]) / meta.gain[axis] for axis in (0, 1))
    moved = torch.stack((x.clamp(0, width), y.clamp(0, height), points[..., 2]), dim=-1)
    return replace(native, extra={**native.extra, "keypoints": moved})
