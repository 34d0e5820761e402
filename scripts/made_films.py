"""Films of the built-in shapes with known places of every object, for measuring what follows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolov7.data.images import cv2
from yolov7.data.synthetic import busy_background, paint
from yolov7.data.video import VideoWriter

HEIGHT, WIDTH, FPS = 240, 320, 25.0
MIN_VISIBLE = 0.35  # of an object that counts as there
KINDS = ("crossing", "occlusion", "leaving", "crowd")


@dataclass(frozen=True)
class Film:
    """Frames uint8 ``[H, W, 3]``, and of each the boxes xyxy of the objects that can be seen, by their number."""

    kind: str
    frames: list[np.ndarray]
    truth: list[dict[int, tuple[float, float, float, float]]]

    def write(self, path: Path) -> Path:
        """As a video."""
        with VideoWriter(path, FPS, WIDTH, HEIGHT) as writer:
            for frame in self.frames:
                writer.write(frame)
        return path


def make_film(kind: str, seed: int, length: int = 90) -> Film:
    """A film of one of `KINDS`: objects cross each other, pass behind a wall, leave and come back, or all of it."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    sprites = [cut_out(rng)[1] for _ in range({"crossing": 4, "occlusion": 3, "leaving": 3, "crowd": 7}[kind])]
    ground = cv2.resize(busy_background(rng, HEIGHT, WIDTH), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    paths = [_path(rng, kind, number, len(sprites), length) for number in range(len(sprites))]
    wall = (slice(0, HEIGHT), slice(140, 190)) if kind == "occlusion" else None
    frames, truth = [], []
    for time in range(length):
        frame, owner = ground.copy(), np.full((HEIGHT, WIDTH), -1)
        for number, (sprite, path) in enumerate(zip(sprites, paths, strict=True)):
            _put(frame, owner, sprite, path[time], number)
        if wall:
            frame[wall], owner[wall] = ground[wall][:, ::-1] // 2 + 50, -1
        truth.append({number: box for number, sprite in enumerate(sprites)
                      if (box := _box_of(owner == number, int((sprite[..., 3] > 0).sum()))) is not None})
        grain = rng.normal(0, 4, frame.shape)
        frames.append(np.clip(frame + grain, 0, 255).astype(np.uint8))
    return Film(kind, frames, truth)


def cut_out(rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """The class and the pixels, RGBA, of an object cut out of a made image, which nothing covers."""
    while True:
        image, objects = paint(int(rng.integers(1 << 30)), "val", 0)
        for label, polygons in objects:
            outline = np.round(polygons[0]).astype(np.int32)
            x, y, width, height = cv2.boundingRect(outline)
            if len(polygons) > 1 or not (30 < width < 70 and 30 < height < 70):
                continue
            if x < 2 or y < 2 or x + width > image.shape[1] - 2 or y + height > image.shape[0] - 2:
                continue
            mask = np.zeros(image.shape[:2], np.uint8)
            cv2.fillPoly(mask, [outline], 255)
            return label, np.dstack((image, mask))[y : y + height, x : x + width]


def _path(rng: np.random.Generator, kind: str, number: int, count: int, length: int) -> np.ndarray:
    """The centre of an object in each frame, ``[length, 2]``."""
    time = np.linspace(0, 1, length)[:, None]
    row = HEIGHT * (number + 0.7) / (count + 0.4)
    left, right = np.array([30.0, row]), np.array([WIDTH - 30.0, row])
    if kind == "occlusion":
        return left + (right - left) * (time if number % 2 else 1 - time)
    if kind == "leaving":  # out on a side, and back a second later
        swing = np.array([WIDTH / 2 + 20, 0.0]) * np.sin(np.pi * time)
        return np.array([WIDTH - 90.0, row]) + swing * (0.62 if number else 0.1)
    first, second = (rng.uniform((30, 30), (WIDTH - 30, HEIGHT - 30)) for _ in range(2))
    if kind == "crossing":
        angle = np.pi * (number + rng.uniform(-0.2, 0.2)) / count
        reach = np.array([np.cos(angle) * WIDTH * 0.4, np.sin(angle) * HEIGHT * 0.36])
        centre = np.array([WIDTH / 2, HEIGHT / 2]) + rng.uniform(-14, 14, 2)
        return centre + reach * (2 * time - 1)
    wave = rng.uniform(10, 40, 2) * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5, 2) * time + rng.random(2)))
    return first + (second - first) * time + wave


def _put(frame: np.ndarray, owner: np.ndarray, sprite: np.ndarray, centre: np.ndarray, number: int) -> None:
    height, width = sprite.shape[:2]
    left, top = (round(float(value)) for value in centre - np.array([width, height]) / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + width, WIDTH), min(top + height, HEIGHT)
    if x0 >= x1 or y0 >= y1:
        return
    part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    there = part[..., 3] > 0
    frame[y0:y1, x0:x1][there] = part[..., :3][there]
    owner[y0:y1, x0:x1][there] = number


def _box_of(visible: np.ndarray, whole: int) -> tuple[float, float, float, float] | None:
    if visible.sum() < MIN_VISIBLE * whole:
        return None
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
