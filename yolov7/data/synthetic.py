"""The built-in data set: coloured and textured shapes on busy backgrounds, as COCO JSON.

Images are painted at twice their size and shrunk, so that edges are smooth and polygons are known to half a pixel.
An image is a function of (seed, split, index) alone. Boxes and polygons follow what is visible: the part inside the
image and not behind another object; what is seen through a hole is not the object's. An object that would hide another
one too much is not painted, so that nothing visible is ever without a box.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.data.generated import SPLITS, Generator, Painted, edges_of_mask, outline
from yolov7.data.images import cv2

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
HUES = (0.0, 0.6, 0.15, 0.85, 0.5, 0.33)  # of each class: red, blue, yellow, magenta, cyan, green
SIZES = ((240, 320), (320, 320), (320, 240), (256, 320))  # height, width in pixels
MIN_INSIDE = 0.6  # of an object's area, inside the image
MIN_VISIBLE = 0.7  # of an object's area, inside the image and not hidden
MIN_CONTRAST = 110.0  # Euclidean RGB distance between an object's colours and the mean of what it covers
VERSION = 7  # of images and annotations: a set of another version is generated anew
SUPER = 2  # painted at SUPER times the size


# --- files -----------------------------------------------------------------------------------------------------


def generate(folder: Path, train: int = 256, val: int = 64, seed: int = 0) -> None:
    """Write the data set in COCO layout, or return at once where it stands complete (see `Generator.write`).

    The long side of its images is 320 pixels.
    """
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES, start=1)]
    Generator(__name__, "shapes", VERSION, categories, _annotated).write(
        Path(folder), {"train": train, "val": val}, seed)


def _annotated(seed: int, split: str, index: int) -> Painted:
    image, objects = paint(seed, split, index)
    return image, [_annotation(label, polygons) for label, polygons in objects]


def _annotation(label: int, polygons: list[np.ndarray]) -> dict[str, Any]:
    points = np.concatenate(polygons)  # [K, 2]
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "category_id": label + 1, "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
        "area": float(sum(cv2.contourArea(polygon) for polygon in polygons))}


# --- one image -----------------------------------------------------------------------------------------------


def paint(seed: int, split: str, index: int) -> tuple[np.ndarray, list[tuple[int, list[np.ndarray]]]]:
    """One image: uint8 ``[H, W, 3]`` RGB, and its objects as (label, polygons of the visible parts).

    Polygons are float32 ``[K, 2]`` pixels, multiples of one half; holes are joined to them by a line there and back.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = _Canvas(busy_background(rng, height, width))
    labels = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(3)])[: rng.integers(7, 12)]
    placed = [label for label in labels.tolist() if _place(rng, canvas, label)]
    image = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    grain = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 9))
    image = cv2.add(image, grain, dtype=cv2.CV_8U)
    return image, [(label, canvas.polygons(i)) for i, label in enumerate(placed)]


@dataclass(frozen=True)
class _Shape:
    """A shape put somewhere on the canvas. The window is the part of the canvas that it can touch."""

    window: tuple[slice, slice]
    mask: np.ndarray  # bool, of the window's size
    area: float  # canvas pixels of the whole shape, also where it leaves the canvas
    scale: float  # canvas pixels: half the longer side, about
    angle: float
    label: int


@cache
def _unit_polygons(name: str) -> tuple[np.ndarray, ...]:
    """The polygons of a class around the origin, float64 ``[K, 2]`` within -1 ... 1; the second one is a hole."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack((np.cos(turn), np.sin(turn)), axis=1)
    a = 0.34  # half the width of the cross's arms
    cross = [(a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a), (-a, -1)]
    corners = np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    polygons = {
        "circle": (circle,),
        "square": (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.85,),
        "triangle": (np.array([(0, -1), (0.95, 0.75), (-0.95, 0.75)]),),
        "star": (np.stack((np.cos(corners), np.sin(corners)), axis=1) * radii[:, None],),
        "cross": (np.array(cross),),
        "ring": (circle, circle * 0.58),
    }
    return polygons[name]


class _Canvas:
    """The image at SUPER times its size, and which object each of its pixels shows."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels  # uint8 [H, W, 3]
        self.object_index = np.full(pixels.shape[:2], -1, np.int16)  # [H, W]
        self.shapes: list[_Shape] = []
        self.visible = np.zeros(0)  # pixels that can be seen of each

    def fits(self, shape: _Shape) -> bool:
        """Whether enough of the new shape is inside, and enough of all others stays visible."""
        hidden = self._hidden_by(shape)
        least = MIN_VISIBLE * np.array([other.area for other in self.shapes])
        others_visible = (hidden == 0) | (self.visible - hidden >= least)
        return shape.mask.sum() >= MIN_INSIDE * shape.area and bool(others_visible.all())

    def add(self, rng: np.random.Generator, shape: _Shape) -> None:
        """Paint the shape in front of everything else."""
        window, mask = self.pixels[shape.window], shape.mask.view(np.uint8)
        first, second = _colours(rng, shape.label, np.array(cv2.mean(window, mask)[:3]))
        paint = first + (second - first) * _texture(rng, shape)[..., None]
        cv2.copyTo(paint.astype(np.uint8), mask, window)
        self.visible = np.append(self.visible - self._hidden_by(shape), mask.sum())
        self.object_index[shape.window][shape.mask] = len(self.shapes)
        self.shapes.append(shape)

    def _hidden_by(self, shape: _Shape) -> np.ndarray:
        covered = self.object_index[shape.window][shape.mask]
        return np.bincount(covered[covered >= 0], minlength=len(self.shapes))

    def polygons(self, index: int) -> list[np.ndarray]:
        """Polygons of the visible parts of an object, along the edges of its pixels, in pixels of the image."""
        rows, columns = self.shapes[index].window
        corner = np.array((columns.start, rows.start), np.float32)
        parts = [[(edge + corner) / SUPER for edge in edges]
                 for edges in edges_of_mask(self.object_index[rows, columns] == index)]
        areas = [cv2.contourArea(edges[0]) for edges in parts]  # with what is in the holes
        return [outline(edges) for edges, area in zip(parts, areas, strict=True) if area >= max(4.0, 0.03 * max(areas))]


def _place(rng: np.random.Generator, canvas: _Canvas, label: int) -> bool:
    """Paint an object of this class somewhere, unless no free place is found."""
    height, width = canvas.pixels.shape[:2]
    for _ in range(20):
        shape = _random_shape(rng, label, height, width)
        if canvas.fits(shape):
            canvas.add(rng, shape)
            return True
    return False


def _random_shape(rng: np.random.Generator, label: int, height: int, width: int) -> _Shape:
    """A shape of random size, aspect, rotation and place; its centre lies on the canvas."""
    small = rng.random() < 0.22
    side = rng.uniform(22, 31) if small else np.exp(rng.uniform(np.log(42), np.log(120)))
    scale = side * SUPER / 2
    angle = float(rng.uniform(-0.35, 0.35))
    stretch = np.diag([rng.uniform(0.8, 1.0), 1.0])
    rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    centre = rng.uniform((0, 0), (width, height))
    polygons = [polygon @ (rotation @ stretch).T * scale + centre for polygon in _unit_polygons(CLASSES[label])]
    left, top = np.floor(polygons[0].min(axis=0)).astype(int).clip(0)
    right, bottom = (np.ceil(polygons[0].max(axis=0)).astype(int) + 1).clip(None, (width, height))
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.round(polygon - (left, top)).astype(np.int32) for polygon in polygons], 1)
    areas = [cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons]
    window = (slice(top, bottom), slice(left, right))
    return _Shape(window, mask.astype(bool), areas[0] - sum(areas[1:]), scale, angle, label)


# --- paint -----------------------------------------------------------------------------------------------------


def _colours(rng: np.random.Generator, label: int, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours of one hue, mostly the class's, both unlike what lies behind: float32 ``[3]`` each."""
    any_hue = rng.random() < 0.03  # only the shape tells the class
    for attempt in range(400):
        free = any_hue or attempt >= 200  # some backgrounds leave no room for the class's hue
        hue = rng.random() if free else (HUES[label] + rng.uniform(-0.03, 0.03)) % 1
        saturation, value = rng.uniform(0.6, 1), rng.uniform(0.4, 1)
        first = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        darker = rng.random() < value
        second = first * rng.uniform(0.35, 0.6) if darker else first + (255 - first) * rng.uniform(0.5, 0.8)
        if min(np.linalg.norm(first - behind), np.linalg.norm(second - behind)) >= MIN_CONTRAST:
            break
    return first.astype(np.float32), second.astype(np.float32)


def _texture(rng: np.random.Generator, shape: _Shape) -> np.ndarray:
    """Share of the second colour in each pixel: float32 of the mask's size, turned with the shape."""
    rows, columns = (np.arange(size, dtype=np.float32) for size in shape.mask.shape)
    period = min(shape.scale * rng.uniform(0.35, 0.6), 18 * SUPER)  # a dot must not look like a small circle
    cosine, sine = math.cos(shape.angle) / period, math.sin(shape.angle) / period
    u = cosine * columns + sine * rows[:, None]  # in periods
    v = cosine * rows[:, None] - sine * columns
    kind = rng.choice(["plain", "stripes", "dots", "checks", "gradient"])
    if kind == "stripes":
        return np.floor(u) % 2
    if kind == "checks":
        return (np.floor(u) + np.floor(v)) % 2
    if kind == "dots":
        return (np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) < 0.33).astype(np.float32)
    if kind == "gradient":
        return np.asarray((u - u.min()) / max(np.ptp(u), 1e-3))
    return np.zeros_like(u)


def busy_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A busy background without any of the classes: clouds of colour, blurred clutter, lines.

    Sizes in pixels of the image; uint8 ``[SUPER * H, SUPER * W, 3]``.
    """
    centre = rng.uniform(40, 215, 3)
    canvas: np.ndarray = np.full((height, width, 3), centre, np.float32)
    for cells, strength in ((3, 45.0), (12, 18.0), (40, 10.0)):
        clouds = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(4, 12)):
        cv2.fillPoly(canvas, [_blob(rng, height, width)], (centre + rng.normal(0, 45, 3)).clip(0, 255).tolist())
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = cv2.addWeighted(canvas, 0.4, grey, 1 - 0.4, 0)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 3))
    canvas = cv2.resize(canvas, None, fx=SUPER, fy=SUPER, interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(5, 20)):
        steps = rng.normal(0, 12, (rng.integers(2, 12), 2)).cumsum(axis=0)
        path = rng.uniform((0, 0), (width, height)) + steps.cumsum(axis=0)
        colour = (centre.mean() + rng.normal(0, 30, 3) + rng.normal(0, 50)).clip(0, 255).tolist()
        cv2.polylines(canvas, [(path * SUPER).astype(np.int32)], False, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
    return canvas


def _blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An irregular polygon: int32 ``[K, 2]``."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.22) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    radius = rng.uniform(8, 45) * np.clip(1 + waves, 0.2, 2)
    points = np.stack((np.cos(turn), np.sin(turn)), axis=1) * radius[:, None] * rng.uniform(0.4, 1.6, 2)
    return (points + rng.uniform((0, 0), (width, height))).astype(np.int32)
