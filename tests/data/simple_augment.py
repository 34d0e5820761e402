"""The simple way to augment, as the oracle: lay whole pictures on a canvas, then warp the canvas; one object at a time.

The same random numbers as `yolov7.data.pipeline` draws, so that the two can be compared sample by sample.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from yolov7.data.geometry import (
    LEAST_VISIBLE_BOX,
    LEAST_VISIBLE_OUTLINE,
    RandomPerspective,
    Warp,
    still_visible,
    warp_boxes,
    warp_points,
)
from yolov7.data.image_set import ImageSet, no_outline
from yolov7.data.images import PAD_COLOUR, cv2, letterbox, load_image, resize_long_side
from yolov7.data.mosaic import Mosaic, draw_mosaic, tile_corners
from yolov7.data.paste import LARGEST_COVER, CutOutPool, paste_in
from yolov7.data.reader import PictureReader
from yolov7.data.transforms import cover
from yolov7.options import AugmentConfig
from yolov7.structures import ImageMeta, Sample


class SimpleDataset:
    """What `TrainingDataset` makes with the default pipeline, the simple way."""

    def __init__(self, image_set: ImageSet, image_size: int, augment: AugmentConfig, seed: int = 0,
                 cached: bool = False) -> None:
        self.image_set, self.image_size, self.augment, self.seed = image_set, image_size, augment, seed
        self.pool = CutOutPool(image_set, PictureReader(image_set, image_size, training=True), seed)
        self.pictures: dict[int, np.ndarray] | None = {} if cached else None

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, position, index = key
        rng, config = np.random.default_rng([self.seed, epoch, position, 0]), self.augment
        if rng.random() < config.mosaic:
            sample = self.mosaic(index, rng)
            if config.mixup and rng.random() < config.mixup:
                sample = mixup(sample, self.mosaic(int(rng.integers(len(self.image_set))), rng), rng)
        else:
            sample = warp(self.single(index), RandomPerspective(config).draw(*(2 * (self.image_size,)), rng))
        if config.hsv_h or config.hsv_s or config.hsv_v:
            sample = jitter(sample, (config.hsv_h, config.hsv_s, config.hsv_v), rng)
        if config.paste_in and len(self.pool.pictures) and rng.random() < config.paste_in:
            sample = paste_in(sample, self.pool.of_epoch(epoch), rng)
        if config.flipud and rng.random() < config.flipud:
            sample = flip(sample, 1)
        return flip(sample, 0) if config.fliplr and rng.random() < config.fliplr else sample

    def load(self, index: int) -> Sample:
        """One picture with a long side of the image size."""
        image = self.pictures.get(index) if self.pictures is not None else None
        if image is None:
            image = resize_long_side(load_image(self.image_set.paths[index]), self.image_size, training=True)
            if self.pictures is not None:
                self.pictures[index] = image
        height, width = self.image_set.sizes[index].tolist()
        ratio = np.array((image.shape[1] / width, image.shape[0] / height), np.float32)
        boxes, labels, segments = self.image_set.objects(index)
        meta = ImageMeta(self.image_set.paths[index], self.image_set.image_ids[index], (height, width))
        keypoints = np.zeros((len(labels), 0, 3), np.float32)
        return Sample(image, boxes * np.tile(ratio, 2), labels, tuple(p * ratio for p in segments), keypoints, meta)

    def single(self, index: int) -> Sample:
        """One picture, letterboxed; warped as boxes."""
        sample = self.load(index)
        image, gain, pad = letterbox(sample.image, self.image_size, auto=False)
        boxes = (sample.boxes * (gain * 2) + pad * 2).astype(np.float32)
        return replace(sample, image=image, boxes=boxes, segments=(no_outline(),) * len(sample.labels))

    def mosaic(self, index: int, rng: np.random.Generator) -> Sample:
        """A mosaic on a canvas, warped."""
        drawn = draw_mosaic(index, len(self.image_set), self.image_size, rng)
        sample = build_mosaic([self.load(i) for i in drawn.indices], drawn, self.image_size)
        sample = copy_paste(sample, self.augment.copy_paste, rng)
        side = 2 * self.image_size
        return warp(sample, RandomPerspective(self.augment, -self.image_size // 2).draw(side, side, rng))


def simple_collate(samples: list[Sample]) -> torch.Tensor:
    """Pictures as a contiguous batch ``[B, 3, H, W]``."""
    return torch.from_numpy(np.stack([sample.image.transpose(2, 0, 1) for sample in samples]))


# --- mosaic ----------------------------------------------------------------------------------------------------


def build_mosaic(tiles: list[Sample], mosaic: Mosaic, size: int) -> Sample:
    """Lay the tiles on the canvas, later ones over earlier ones; objects are clipped to it."""
    side = 2 * size
    canvas = np.full((side, side, 3), PAD_COLOUR[0], np.uint8)
    boxes, segments = [], []
    corners = tile_corners([tile.image.shape[:2] for tile in tiles], mosaic, size)
    for tile, corner in zip(tiles, corners, strict=True):
        lay(canvas, tile.image, *corner)
        offset = np.array(corner, np.float32)
        boxes.append((tile.boxes + np.tile(offset, 2)).clip(0, side))
        segments += [(points + offset).clip(0, side) for points in tile.segments]
    return replace(tiles[0], image=canvas, boxes=np.concatenate(boxes), segments=tuple(segments),
                   labels=np.concatenate([tile.labels for tile in tiles]),
                   keypoints=np.zeros((len(segments), 0, 3), np.float32))


def lay(canvas: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    """Copy a picture to (x, y) and cut off what sticks out."""
    height, width = image.shape[:2]
    left, top = max(-x, 0), max(-y, 0)
    right, bottom = min(width, canvas.shape[1] - x), min(height, canvas.shape[0] - y)
    if left < right and top < bottom:
        canvas[y + top : y + bottom, x + left : x + right] = image[top:bottom, left:right]


def copy_paste(sample: Sample, share: float, rng: np.random.Generator) -> Sample:
    """Paste a share of the outlined objects mirrored, where they cover no object by 30% or more."""
    outlined = [i for i, points in enumerate(sample.segments) if len(points)]
    count = round(share * len(outlined))
    if not count:
        return sample
    side = sample.image.shape[1]
    mirror, width = np.array((-1, 1), np.float32), np.array((side, 0), np.float32)
    mask = np.zeros(sample.image.shape[:2], np.uint8)
    boxes, labels, segments = list(sample.boxes), list(sample.labels), list(sample.segments)
    for i in rng.choice(len(outlined), count, replace=False):
        index = outlined[i]
        x1, y1, x2, y2 = sample.boxes[index]
        box = np.array((side - x2, y1, side - x1, y2), np.float32)
        if (cover(box, np.array(boxes)) >= LARGEST_COVER).any():
            continue
        boxes.append(box)
        labels.append(sample.labels[index])
        segments.append(sample.segments[index] * mirror + width)
        cv2.fillPoly(mask, [sample.segments[index].astype(np.int32)], 1)
    mirrored = mask[:, ::-1].astype(bool)
    image = sample.image.copy()
    image[mirrored] = sample.image[:, ::-1][mirrored]
    return replace(sample, image=image, boxes=np.array(boxes), labels=np.array(labels), segments=tuple(segments),
                   keypoints=np.zeros((len(labels), 0, 3), np.float32))


# --- warp ------------------------------------------------------------------------------------------------------


def warp(sample: Sample, drawn: Warp) -> Sample:
    """Warp the picture as a whole, and every object by itself."""
    height, width = drawn.size
    if np.array_equal(drawn.matrix[2], (0, 0, 1)):
        image = cv2.warpAffine(sample.image, drawn.matrix[:2], (width, height), borderValue=PAD_COLOUR)
    else:
        image = cv2.warpPerspective(sample.image, drawn.matrix, (width, height), borderValue=PAD_COLOUR)
    boxes = warp_boxes(sample.boxes, drawn)
    outlined = np.array([len(points) > 0 for points in sample.segments], bool)
    for i in np.flatnonzero(outlined):
        boxes[i] = outline_box(warp_points(sample.segments[i], drawn), drawn.size)
    least_visible = np.where(outlined, LEAST_VISIBLE_OUTLINE, LEAST_VISIBLE_BOX)
    kept = still_visible(sample.boxes * drawn.zoom, boxes, least_visible)
    segments = tuple(warp_points(sample.segments[i], drawn).astype(np.float32) for i in np.flatnonzero(kept))
    return replace(sample, image=image, boxes=boxes[kept], labels=sample.labels[kept], segments=segments,
                   keypoints=sample.keypoints[kept])


def outline_box(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Box around the part of a closed line inside the picture: edge by edge, ``[K, 2]`` -> ``[4]``."""
    inside = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside += clip_edge(start, end, size)
    if not inside:
        return np.zeros(4)
    found = np.array(inside)
    return np.concatenate((found.min(0), found.max(0)))


def clip_edge(start: np.ndarray, end: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """The ends of the part of an edge inside the picture, or nothing."""
    places = [0.0, 1.0]  # along the edge: its ends, and where it crosses a border
    for axis, limit in ((0, size[1]), (1, size[0])):
        for border in (0.0, float(limit)):
            if start[axis] != end[axis]:
                places.append((border - start[axis]) / (end[axis] - start[axis]))
    points = [start + place * (end - start) for place in places if 0 <= place <= 1]
    margin = 1e-9 * max(size)
    return [p for p in points if -margin <= p[0] <= size[1] + margin and -margin <= p[1] <= size[0] + margin]


# --- the rest --------------------------------------------------------------------------------------------------


def jitter(sample: Sample, amplitudes: tuple[float, float, float], rng: np.random.Generator) -> Sample:
    """Jitter hue, saturation and value by one table of three columns."""
    gains = 1 + rng.uniform(-1, 1, 3) * np.array(amplitudes)
    levels = np.arange(256)
    table = np.stack(((levels * gains[0]) % 180, *((levels * gain).clip(0, 255) for gain in gains[1:])), axis=-1)
    hsv = cv2.LUT(cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV), table.astype(np.uint8)[None])
    return replace(sample, image=cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def mixup(sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
    """Blend in float32 and round down."""
    share = np.float32(rng.beta(8.0, 8.0))
    image = (share * sample.image + (1 - share) * partner.image).astype(np.uint8)
    return replace(sample, image=image, boxes=np.concatenate((sample.boxes, partner.boxes)),
                   labels=np.concatenate((sample.labels, partner.labels)),
                   segments=(*sample.segments, *partner.segments),
                   keypoints=np.concatenate((sample.keypoints, partner.keypoints)))


def flip(sample: Sample, axis: int) -> Sample:
    """Mirror left and right (0) or top and bottom (1)."""
    side = sample.image.shape[1 - axis]
    boxes = sample.boxes.copy()
    boxes[:, axis], boxes[:, axis + 2] = side - sample.boxes[:, axis + 2], side - sample.boxes[:, axis]
    segments = []
    for points in sample.segments:
        moved = points.copy()
        moved[:, axis] = side - moved[:, axis]
        segments.append(moved)
    return replace(sample, image=np.flip(sample.image, 1 - axis), boxes=boxes, segments=tuple(segments))
