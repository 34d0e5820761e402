"""The built-in data set: coloured and textured shapes on busy backgrounds, as COCO JSON.

Pictures are painted at twice their size and shrunk, so that edges are smooth and outlines are known to half a pixel.
A picture is a function of (seed, split, index) alone. Boxes and outlines follow what is visible: the part inside the
picture and not behind another object. An object that would hide another one too much is not painted, so that
nothing visible is ever without a box.
"""

from __future__ import annotations

import colorsys
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from yolov7.config import InputError, write_atomically
from yolov7.data.images import cv2

logger = logging.getLogger(__name__)

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
HUES = (0.0, 0.6, 0.15, 0.85, 0.5, 0.33)  # of each class: red, blue, yellow, magenta, cyan, green
HUE_SPREAD = 0.03
ANY_HUE_SHARE = 0.03  # of the objects: only the shape tells the class
LARGEST_TILT = 0.35  # radians
SPLITS = ("train", "val")
SIZES = ((240, 320), (320, 320), (320, 240), (256, 320))  # height, width in pixels
OBJECTS = (7, 12)  # objects that a picture is to have: from, below
SMALL_SHARE = 0.22  # of the objects, sides of 22 to 31 pixels
LEAST_INSIDE = 0.6  # of an object's area, inside the picture
LEAST_VISIBLE = 0.7  # of an object's area, inside the picture and not hidden
LEAST_CONTRAST = 110.0  # Euclidean RGB distance between an object's colours and the mean of what it covers
BACKGROUND_COLOUR = 0.4  # saturation of the backgrounds, beside that of their colours
LARGEST_PERIOD = 18.0  # of a texture, in pixels: a dot must not look like a small circle
VERSION = 6  # of the pictures: a set of another version is generated anew
STAMP = "generated.json"
SUPER = 2  # painted at SUPER times the size


# --- files -----------------------------------------------------------------------------------------------------


def generate(folder: Path, train: int = 256, val: int = 64, seed: int = 0) -> None:
    """Write the data set in COCO layout, or return at once where it stands complete.

    ``annotations/{train,val}.json`` and ``images/{train,val}/*.jpg`` (long side 320 pixels). Everything is built in a
    temporary sibling folder, which takes its name at the end. A set with other parameters, of another version or
    with missing pictures is replaced; a folder that holds anything else is an `InputError`.
    """
    folder = Path(folder)
    counts = {"train": train, "val": val}
    stamp = {"generator": __name__, "version": VERSION, "seed": seed, **counts}
    if _is_complete(folder, stamp):
        return
    if not _read_stamp(folder) and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not a generated data set; accepted: a new or empty folder")
    logger.info("generating %d pictures in %s", train + val, folder)
    with _temporary_sibling(folder) as temporary:
        for split in SPLITS:
            _write_split(temporary, split, counts[split], seed)
        write_atomically(temporary / STAMP, json.dumps(stamp))
        if not _is_complete(folder, stamp):  # another process may have been faster
            _replace(folder, temporary)


def _read_stamp(folder: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and stamp.get("generator") == __name__ else {}


def _is_complete(folder: Path, stamp: dict[str, Any]) -> bool:
    pictures = {split: list((folder / "images" / split).glob("*.jpg")) for split in SPLITS}
    return (
        _read_stamp(folder) == stamp
        and all((folder / "annotations" / f"{split}.json").is_file() for split in SPLITS)
        and all(len(pictures[split]) == stamp[split] for split in SPLITS)
    )


@contextmanager
def _temporary_sibling(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, removed at the end."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _remove_leftovers(folder)
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        raise InputError(f"{folder}: the data set cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    discarded = new.with_suffix(".old")
    if folder.exists():
        os.replace(folder, discarded)
    os.replace(new, folder)
    shutil.rmtree(discarded, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind; an hour is far more than a living one needs."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path.suffix in (".tmp", ".old") and time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


def _write_split(folder: Path, split: str, count: int, seed: int) -> None:
    pictures = folder / "images" / split
    pictures.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"shapes, {split}", unit="picture", disable=None):
        picture, objects = paint(seed, split, index)
        name = f"{index + 1:06d}.jpg"
        encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (pictures / name).write_bytes(encoded.tobytes())
        images.append({"id": index + 1, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
        for label, outlines in objects:
            annotations.append(_annotation(len(annotations) + 1, index + 1, label, outlines))
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES, start=1)]
    info = {"description": f"generated shapes, {split}", "version": str(VERSION), "seed": seed}
    content = {"info": info, "licenses": [], "images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations").mkdir(exist_ok=True)
    write_atomically(folder / "annotations" / f"{split}.json", json.dumps(content))


def _annotation(identifier: int, image_id: int, label: int, outlines: list[np.ndarray]) -> dict[str, Any]:
    points = np.concatenate(outlines)  # [K, 2]
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "id": identifier,
        "image_id": image_id,
        "category_id": label + 1,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [outline.ravel().tolist() for outline in outlines],
        "area": float(sum(cv2.contourArea(outline) for outline in outlines)),
        "iscrowd": 0,
    }


# --- one picture -----------------------------------------------------------------------------------------------


def paint(seed: int, split: str, index: int) -> tuple[np.ndarray, list[tuple[int, list[np.ndarray]]]]:
    """One picture: uint8 ``[H, W, 3]`` RGB, and its objects as (label, outlines of the visible parts).

    Outlines are float32 ``[K, 2]`` pixels, multiples of one half. A ring's outline is its outer edge.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = SIZES[rng.integers(len(SIZES))]
    canvas = _Canvas(_background(rng, height, width))
    labels = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(3)])[: rng.integers(*OBJECTS)]
    placed = [label for label in labels.tolist() if _place(rng, canvas, label)]
    picture = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(2, 9))
    picture = cv2.add(picture, grain, dtype=cv2.CV_8U)
    return picture, [(label, canvas.outlines(i)) for i, label in enumerate(placed)]


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
def _unit_outlines(name: str) -> tuple[np.ndarray, ...]:
    """The outlines of a class around the origin, float64 ``[K, 2]`` within -1 ... 1; the second one is a hole."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack((np.cos(turn), np.sin(turn)), axis=1)
    a = 0.34  # half the width of the cross's arms
    cross = [(a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a), (-a, -1)]
    corners = np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    outlines = {
        "circle": (circle,),
        "square": (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.85,),
        "triangle": (np.array([(0, -1), (0.95, 0.75), (-0.95, 0.75)]),),
        "star": (np.stack((np.cos(corners), np.sin(corners)), axis=1) * radii[:, None],),
        "cross": (np.array(cross),),
        "ring": (circle, circle * 0.58),
    }
    return outlines[name]


class _Canvas:
    """The picture at SUPER times its size, and which object each of its pixels shows."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels  # uint8 [H, W, 3]
        self.owner = np.full(pixels.shape[:2], -1, np.int16)  # [H, W]
        self.shapes: list[_Shape] = []
        self.visible = np.zeros(0)  # pixels that can be seen of each

    def fits(self, shape: _Shape) -> bool:
        """Whether enough of the new shape is inside, and enough of all others stays visible."""
        hidden = self._hidden_by(shape)
        least = LEAST_VISIBLE * np.array([other.area for other in self.shapes])
        others_visible = (hidden == 0) | (self.visible - hidden >= least)
        return shape.mask.sum() >= LEAST_INSIDE * shape.area and bool(others_visible.all())

    def add(self, rng: np.random.Generator, shape: _Shape) -> None:
        """Paint the shape in front of everything else."""
        window, mask = self.pixels[shape.window], shape.mask.view(np.uint8)
        first, second = _colours(rng, shape.label, np.array(cv2.mean(window, mask)[:3]))
        paint = first + (second - first) * _texture(rng, shape)[..., None]
        cv2.copyTo(paint.astype(np.uint8), mask, window)
        self.visible = np.append(self.visible - self._hidden_by(shape), mask.sum())
        self.owner[shape.window][shape.mask] = len(self.shapes)
        self.shapes.append(shape)

    def _hidden_by(self, shape: _Shape) -> np.ndarray:
        covered = self.owner[shape.window][shape.mask]
        return np.bincount(covered[covered >= 0], minlength=len(self.shapes))

    def outlines(self, index: int) -> list[np.ndarray]:
        """Outlines of the visible parts of an object, along the edges of its pixels, in pixels of the picture."""
        rows, columns = self.shapes[index].window
        mask = (self.owner[rows, columns] == index).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        # doubled pixels 2x and 2x + 1 stand for the edges x and x + 1 of canvas pixel x
        corner = (columns.start, rows.start)
        parts = [((c[:, 0] + 1) // 2 + corner).astype(np.float32) / SUPER for c in contours]
        areas = [cv2.contourArea(part) for part in parts]
        return [part for part, area in zip(parts, areas, strict=True) if area >= max(4.0, 0.03 * max(areas))]


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
    small = rng.random() < SMALL_SHARE
    side = rng.uniform(22, 31) if small else np.exp(rng.uniform(np.log(42), np.log(120)))
    scale = side * SUPER / 2
    angle = float(rng.uniform(-LARGEST_TILT, LARGEST_TILT))
    stretch = np.diag([rng.uniform(0.8, 1.0), 1.0])
    rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    centre = rng.uniform((0, 0), (width, height))
    outlines = [outline @ (rotation @ stretch).T * scale + centre for outline in _unit_outlines(CLASSES[label])]
    left, top = np.floor(outlines[0].min(axis=0)).astype(int).clip(0)
    right, bottom = (np.ceil(outlines[0].max(axis=0)).astype(int) + 1).clip(None, (width, height))
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.round(outline - (left, top)).astype(np.int32) for outline in outlines], 1)
    areas = [cv2.contourArea(outline.astype(np.float32)) for outline in outlines]
    window = (slice(top, bottom), slice(left, right))
    return _Shape(window, mask.astype(bool), areas[0] - sum(areas[1:]), scale, angle, label)


# --- paint -----------------------------------------------------------------------------------------------------


def _colours(rng: np.random.Generator, label: int, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours of one hue, mostly the class's, both unlike what lies behind: float32 ``[3]`` each."""
    any_hue = rng.random() < ANY_HUE_SHARE
    for attempt in range(400):
        free = any_hue or attempt >= 200  # some backgrounds leave no room for the class's hue
        hue = rng.random() if free else (HUES[label] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
        saturation, value = rng.uniform(0.6, 1), rng.uniform(0.4, 1)
        first = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        darker = rng.random() < value
        second = first * rng.uniform(0.35, 0.6) if darker else first + (255 - first) * rng.uniform(0.5, 0.8)
        if min(np.linalg.norm(first - behind), np.linalg.norm(second - behind)) >= LEAST_CONTRAST:
            break
    return first.astype(np.float32), second.astype(np.float32)


def _texture(rng: np.random.Generator, shape: _Shape) -> np.ndarray:
    """Share of the second colour in each pixel: float32 of the mask's size, turned with the shape."""
    rows, columns = (np.arange(size, dtype=np.float32) for size in shape.mask.shape)
    period = min(shape.scale * rng.uniform(0.35, 0.6), LARGEST_PERIOD * SUPER)
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
        return (u - u.min()) / max(np.ptp(u), 1e-3)
    return np.zeros_like(u)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A busy background without any of the classes: clouds of colour, blurred clutter, lines.

    Sizes in pixels of the picture; uint8 ``[SUPER * H, SUPER * W, 3]``.
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
    canvas = cv2.addWeighted(canvas, BACKGROUND_COLOUR, grey, 1 - BACKGROUND_COLOUR, 0)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 3))
    canvas = cv2.resize(canvas, None, fx=SUPER, fy=SUPER, interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(5, 20)):
        steps = rng.normal(0, 12, (rng.integers(2, 12), 2)).cumsum(axis=0)
        path = rng.uniform((0, 0), (width, height)) + steps.cumsum(axis=0)
        colour = (centre.mean() + rng.normal(0, 30, 3) + rng.normal(0, 50)).clip(0, 255).tolist()
        cv2.polylines(canvas, [(path * SUPER).astype(np.int32)], False, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
    return canvas


def _blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An irregular closed outline: int32 ``[K, 2]``."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.22) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    radius = rng.uniform(8, 45) * np.clip(1 + waves, 0.2, 2)
    points = np.stack((np.cos(turn), np.sin(turn)), axis=1) * radius[:, None] * rng.uniform(0.4, 1.6, 2)
    return (points + rng.uniform((0, 0), (width, height))).astype(np.int32)
