"""The built-in data set for pose: simple people with COCO's 17 key points on busy backgrounds, as COCO JSON.

A figure is a skeleton in space, turned about its upright axis and drawn as thick lines, far ones darker and first.
Left and right follow from where it faces, as in photographs: a mirrored image is as likely as the image. Its box and
polygons follow what is visible; a key point is labelled where it is inside the image and not behind the figure's own
head, and visible where the part of the body that has it is not behind another part, another figure or a block. An image
is a function of (seed, split, index) alone.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.data.generated import SPLITS, Generator, Painted, edges_of_mask, outline
from yolov7.data.images import cv2
from yolov7.data.stick_body import Body, Part, random_body
from yolov7.data.synthetic import SIZES, SUPER, busy_background
from yolov7.keypoints import COCO_PERSON

CATEGORY = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_PERSON.names),
            "skeleton": [[a + 1, b + 1] for a, b in COCO_PERSON.limbs]}
MIN_INSIDE = 0.7  # of a figure's area, inside the image
MIN_VISIBLE = 0.65  # of a figure's area, inside the image and not hidden
MIN_CONTRAST = 80.0  # Euclidean RGB distance between a figure's colours and the mean of what it covers
HEIGHTS = (40, 80, 250)  # of a standing figure, pixels: the small ones up to the second
VERSION = 2  # of images and annotations: a set of another version is generated anew
SHIFT = 4  # bits behind the point in OpenCV's coordinates


def generate(folder: Path, train: int = 400, val: int = 80, seed: int = 0) -> None:
    """Write the data set in COCO layout, or return at once where it stands complete (see `Generator.write`).

    The long side of its images is 320 pixels.
    """
    Generator(__name__, "stick figures", VERSION, [CATEGORY], _annotated).write(
        Path(folder), {"train": train, "val": val}, seed)


@dataclass(frozen=True)
class Seen:
    """What an image shows of a figure."""

    keypoints: np.ndarray  # float64 [17, 3] pixels of the image; visibility 0 not labelled, 1 hidden, 2 visible
    polygons: list[np.ndarray]  # float32 [K, 2] pixels of the image, of the visible parts


def _annotated(seed: int, split: str, index: int) -> Painted:
    image, figures = paint(seed, split, index)
    return image, [_annotation(seen) for seen in figures]


def _annotation(seen: Seen) -> dict[str, Any]:
    points = np.concatenate(seen.polygons)
    low, high = points.min(axis=0), points.max(axis=0)
    numbers = [round(value, 2) for value in seen.keypoints.ravel().tolist()]
    return {
        "category_id": 1, "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [polygon.ravel().tolist() for polygon in seen.polygons],
        "area": float(sum(cv2.contourArea(polygon) for polygon in seen.polygons)),
        "keypoints": [int(value) if place % 3 == 2 else value for place, value in enumerate(numbers)],
        "num_keypoints": int((seen.keypoints[:, 2] > 0).sum())}


# --- one image ---------------------------------------------------------------------------------------------------


def paint(seed: int, split: str, index: int) -> tuple[np.ndarray, list[Seen]]:
    """One image: uint8 ``[H, W, 3]`` RGB, and its figures."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = _Canvas(busy_background(rng, height, width))
    for _ in range(rng.integers(0, 4)):
        _place_block(rng, canvas)  # behind everybody
    for standing in np.sort([_random_height(rng) for _ in range(rng.integers(2, 5))]):  # nearer ones are larger
        _place_figure(rng, canvas, standing)
        if rng.random() < 0.25:
            _place_block(rng, canvas)
    image = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    grain = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 7))
    image = cv2.add(image, grain, dtype=cv2.CV_8U)
    return image, [canvas.seen(number) for number in range(len(canvas.sprites))]


def _random_height(rng: np.random.Generator) -> float:
    low, high = HEIGHTS[:2] if rng.random() < 0.1 else HEIGHTS[1:]
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class _Sprite:
    """A figure or block as it would be without anything in front of it."""

    left: int  # pixels of the canvas; may be outside of it
    top: int
    pixels: np.ndarray  # uint8 [h, w, 3]
    mask: np.ndarray  # bool [h, w]
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # float64 [17, 2] pixels of the canvas
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # int [17]: visibility, if nothing else hides it

    def inside(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where it lies on a canvas of this shape, and which of its own pixels these are."""
        height, width = self.mask.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = (max(top, min(self.top + height, shape[0])), max(left, min(self.left + width, shape[1])))
        return ((slice(top, bottom), slice(left, right)),
                (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)))


class _Canvas:
    """The image at SUPER times its size, and which figure each of its pixels shows."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels  # uint8 [H, W, 3]
        self.figure_index: np.ndarray = np.full(pixels.shape[:2], -1, np.int16)  # [H, W]
        self.sprites: list[_Sprite] = []  # of figures
        self.visible = np.zeros(0)  # pixels that can be seen of each

    def fits(self, sprite: _Sprite) -> bool:
        """Whether enough of the new one is inside, and enough of all figures stays visible."""
        _, own = sprite.inside(self.figure_index.shape)
        least = MIN_VISIBLE * np.array([other.mask.sum() for other in self.sprites])
        hidden = self._hidden_by(sprite)
        others_visible = (hidden == 0) | (self.visible - hidden >= least)
        return bool(sprite.mask[own].sum() >= MIN_INSIDE * sprite.mask.sum() and others_visible.all())

    def add(self, sprite: _Sprite) -> None:
        """Paint it in front of everything else."""
        window, own = sprite.inside(self.figure_index.shape)
        mask = sprite.mask[own]
        self.visible -= self._hidden_by(sprite)
        self.pixels[window][mask] = sprite.pixels[own][mask]
        is_figure = len(sprite.points) > 0
        self.figure_index[window][mask] = len(self.sprites) if is_figure else -1
        if is_figure:
            self.visible = np.append(self.visible, mask.sum())
            self.sprites.append(sprite)

    def _hidden_by(self, sprite: _Sprite) -> np.ndarray:
        window, own = sprite.inside(self.figure_index.shape)
        covered = self.figure_index[window][sprite.mask[own]]
        return np.bincount(covered[covered >= 0], minlength=len(self.sprites))

    def seen(self, number: int) -> Seen:
        """What can be seen of a figure in the end."""
        sprite = self.sprites[number]
        window, _ = sprite.inside(self.figure_index.shape)
        parts = edges_of_mask(self.figure_index[window] == number)
        corner = np.array((window[1].start, window[0].start), np.float32)
        polygons = [outline([(edge + corner) / SUPER for edge in edges]) for edges in parts]
        areas = [cv2.contourArea(polygon) for polygon in polygons]
        kept = [polygon for polygon, area in zip(polygons, areas, strict=True) if area >= min(2.0, max(areas))]
        return Seen(self._keypoints(number, sprite), kept)

    def _keypoints(self, number: int, sprite: _Sprite) -> np.ndarray:
        height, width = self.figure_index.shape
        keypoints = np.zeros((len(sprite.points), 3))
        for row, (x, y), seen in zip(keypoints, sprite.points, sprite.seen.tolist(), strict=True):
            if seen and 0 <= x < width and 0 <= y < height:
                row[:] = x / SUPER, y / SUPER, seen if self.figure_index[int(y), int(x)] == number else 1
        return keypoints


def _place_figure(rng: np.random.Generator, canvas: _Canvas, height: float) -> None:
    """Paint a figure of this height somewhere, unless no free place is found."""
    limits = canvas.pixels.shape[1], canvas.pixels.shape[0]
    for _ in range(12):
        centre = rng.uniform((0.05, 0.15), (0.95, 0.85)) * limits
        body = random_body(rng, height * SUPER, centre)
        x, y = np.clip(centre, 0, np.array(limits) - 1).astype(int).tolist()
        reach = int(height * SUPER / 5)
        behind = canvas.pixels[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach].mean((0, 1))
        sprite = _draw(body, _palette(rng, behind))
        if canvas.fits(sprite):
            canvas.add(sprite)
            return


def _place_block(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Paint a block somewhere, half of the time before a figure, unless it would hide too much."""
    for _ in range(6):
        width, height = (rng.uniform(16, 80, 2) * SUPER).astype(int).tolist()
        x, y = rng.uniform((0, 0), canvas.pixels.shape[1::-1])
        if canvas.sprites and rng.random() < 0.5:
            points = canvas.sprites[rng.integers(len(canvas.sprites))].points
            x, y = points[rng.integers(len(points))] + rng.normal(0, width / 4, 2)
        colour = rng.uniform(20, 235, 3)
        light = np.linspace(1, rng.uniform(0.6, 1), height)[:, None, None]
        pixels = (np.broadcast_to(colour, (height, width, 3)) * light).astype(np.uint8)
        block = _Sprite(int(x) - width // 2, int(y) - height // 2, pixels, np.ones((height, width), bool))
        if canvas.fits(block):
            canvas.add(block)
            return


# --- paint -------------------------------------------------------------------------------------------------------


def _palette(rng: np.random.Generator, behind: np.ndarray) -> dict[str, np.ndarray]:
    """Colours of skin, shirt, trousers, shoes and hair: float64 ``[3]`` RGB each, unlike what lies behind."""
    skin = (rng.uniform(0.03, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.45, 1))
    colours = {"skin": 255 * np.array(colorsys.hsv_to_rgb(*skin))}
    for name in ("shirt", "trousers", "shoes", "hair"):
        for _ in range(60):
            hsv = (rng.random(), rng.uniform(0.3, 1), rng.uniform(0.25, 1))
            colours[name] = 255 * np.array(colorsys.hsv_to_rgb(*hsv))
            if np.linalg.norm(colours[name] - behind) >= MIN_CONTRAST:
                break
    colours["sleeve"] = colours["shirt"] if rng.random() < 0.6 else colours["skin"]
    colours["hair"] = colours["hair"] * 0.5
    return colours | {"white": np.full(3, 245.0), "dark": np.full(3, 20.0)}


def _draw(body: Body, palette: dict[str, np.ndarray]) -> _Sprite:
    """The parts of a body, one over the other, each with a dark edge."""
    everything = np.concatenate([part.line + sign * part.width for part in body.parts for sign in (-1, 1)])
    corner = np.floor(everything.min(axis=0)).astype(int) - 2
    width, height = (np.ceil(everything.max(axis=0)).astype(int) + 3 - corner).tolist()
    pixels = np.zeros((height, width, 3), np.uint8)
    part_index = np.full((height, width), -1, np.int16)
    names = [part.name for part in body.parts]
    edge = max(1.0, 0.008 * body.height)
    for number, part in enumerate(body.parts):
        colour = (palette[part.colour] * part.light).clip(0, 255)
        if part.on_head:
            mark = np.zeros((height, width), np.uint8)
            _stroke(mark, part, corner, 1)
            cv2.copyTo(np.full_like(pixels, colour), mark * (part_index == names.index("head")), pixels)
            continue
        _stroke(pixels, part, corner, (0.35 * colour).tolist(), edge)
        _stroke(pixels, part, corner, colour.tolist())
        _stroke(part_index, part, corner, number, edge)
    spots = np.floor(body.points).astype(int) - corner
    # what a head hides nobody can tell, as in photographs; where a shoulder or a knee is behind, people can
    seen = [(1 + (names[part_index[y, x]] in owners)) * bool(owners)
            for (x, y), owners in zip(spots.tolist(), body.owners, strict=True)]
    return _Sprite(int(corner[0]), int(corner[1]), pixels, part_index >= 0, body.points, np.array(seen))


def _stroke(target: np.ndarray, part: Part, corner: np.ndarray, value: Any, grown: float = 0) -> None:
    """Draw a part with this value: a thick line with round ends, or the hull of thick points."""
    line = ((part.line - corner) * 2**SHIFT).round().astype(np.int32)
    if part.filled:
        cv2.fillConvexPoly(target, cv2.convexHull(line), value, cv2.LINE_8, SHIFT)
    thickness = max(1, round(part.width + 2 * grown))
    cv2.polylines(target, [line], part.filled, value, thickness, cv2.LINE_8, SHIFT)
