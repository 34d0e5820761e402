"""Where the pictures of a sample lie: mosaics of four and nine, or one picture, on a canvas (spec 11.1, 11.2).

The canvas is a system of coordinates, not an array: a sample is drawn with the generator from the sizes of the
pictures alone, and only what is visible of them is read afterwards (`render`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yolov7.data.geometry import Warp
from yolov7.data.images import PAD_COLOUR, cv2

FOUR_TILE_SHARE = 0.8


@dataclass(frozen=True)
class Mosaic:
    """What is random about a mosaic on a canvas of ``2 * size`` pixels a side."""

    indices: tuple[int, ...]  # of 4 or 9 pictures, the sample's own first
    point: tuple[int, int]  # x, y: where four tiles meet; of nine tiles, the corner of the window that is kept


def draw_mosaic(index: int, num_images: int, size: int, rng: np.random.Generator) -> Mosaic:
    """Draw a mosaic of four tiles (80%) or nine around a picture; the others may repeat."""
    if rng.random() < FOUR_TILE_SHARE:
        others = rng.integers(num_images, size=3).tolist()
        x, y = rng.uniform(0.5 * size, 1.5 * size, 2).astype(int).tolist()
    else:
        others = rng.integers(num_images, size=8).tolist()
        x, y = rng.integers(size, size=2).tolist()
    return Mosaic((index, *others), (x, y))


def tile_corners(shapes: Sequence[tuple[int, int]], mosaic: Mosaic, size: int) -> list[tuple[int, int]]:
    """Where the top left corner (x, y) of each tile of ``shapes`` (height, width) lies on the canvas.

    It may lie outside: what sticks out is cut off.
    """
    x, y = mosaic.point
    if len(mosaic.indices) == 9:
        return [(left - x, top - y) for left, top in _nine_corners(shapes, size)]
    signs = ((-1, -1), (0, -1), (-1, 0), (0, 0))  # top left, top right, bottom left, bottom right
    return [(x + sx * w, y + sy * h) for (sx, sy), (h, w) in zip(signs, shapes, strict=True)]


def _nine_corners(shapes: Sequence[tuple[int, int]], s: int) -> list[tuple[int, int]]:
    """The first tile in the middle, the others clockwise from the top, each touching the one before it."""
    h, w = zip(*shapes, strict=True)
    return [
        (s, s),
        (s, s - h[1]),
        (s + w[1], s - h[2]),
        (s + w[0], s),
        (s + w[0], s + h[3]),
        (s + w[0] - w[5], s + h[0]),
        (s + w[0] - w[5] - w[6], s + h[0]),
        (s - w[7], s + h[0] - h[7]),
        (s - w[8], s + h[0] - h[7] - h[8]),
    ]


# --- pictures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A picture on the canvas."""

    index: int
    shape: tuple[int, int]  # height and width there
    corner: tuple[int, int]  # x, y of its top left pixel; may be negative

    def window(self, side: int) -> tuple[int, int, int, int]:
        """Its pixels on a canvas of ``side`` pixels: left, top, right, bottom; right and bottom are outside."""
        (x, y), (height, width) = self.corner, self.shape
        return max(x, 0), max(y, 0), min(x + width, side), min(y + height, side)


Reader = Callable[[int], np.ndarray]  # index of a picture -> the tile's pixels uint8 [h, w, 3]


def render(tiles: Sequence[Tile], side: int, drawn: Warp, read: Reader) -> np.ndarray:
    """Warp a canvas of tiles, later ones over earlier ones, into a picture uint8 ``[H, W, 3]``.

    Each visible tile is warped straight to its place, bilinear; where none is, the picture is grey (114). A tile that
    is not visible is not read. Equal to laying the tiles on an array and warping it, but for the interpolation
    between the pixels of two neighbours.
    """
    height, width = drawn.size
    image = np.full((height, width, 4), PAD_COLOUR[0], np.uint8)  # OpenCV warps four channels faster than three
    (a, b, _), (c, d, _), last = drawn.matrix
    upright = b == 0 and c == 0 and a > 0 and d > 0 and np.array_equal(last, (0, 0, 1))
    lay = _lay_upright if upright else _lay_turned
    for tile in tiles:
        left, top, right, bottom = tile.window(side)
        if left < right and top < bottom:
            lay(image, tile, side, drawn.matrix, read)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)


def _lay_upright(image: np.ndarray, tile: Tile, side: int, matrix: np.ndarray, read: Reader) -> None:
    """Without rotation a tile fills a rectangle: that of the output pixels whose origin lies in its pixels."""
    left, top, right, bottom = tile.window(side)
    u0, u1, x0, x1 = _span(left, right, matrix[0, 0], matrix[0, 2], image.shape[1], tile.corner[0])
    v0, v1, y0, y1 = _span(top, bottom, matrix[1, 1], matrix[1, 2], image.shape[0], tile.corner[1])
    if u0 >= u1 or v0 >= v1:
        return
    picture = cv2.cvtColor(read(tile.index)[y0:y1, x0:x1], cv2.COLOR_RGB2RGBA)
    placed = (matrix @ _moved(tile.corner[0] + x0, tile.corner[1] + y0))[:2] - ((0, 0, u0), (0, 0, v0))
    view = image[v0:v1, u0:u1]  # written to in place
    cv2.warpAffine(picture, placed, (u1 - u0, v1 - v0), dst=view, borderMode=cv2.BORDER_REPLICATE)


def _span(low: int, high: int, zoom: float, offset: float, length: int, corner: int) -> tuple[int, int, int, int]:
    """Along one axis: the output pixels of the canvas pixels ``low ... high``, and the tile's pixels they need."""
    first = max(math.ceil(zoom * (low - 0.5) + offset), 0)  # a pixel reaches half a pixel around its place
    last = min(math.ceil(zoom * (high - 0.5) + offset), length)
    needed = math.floor((first - offset) / zoom) - 1 - corner, math.ceil((last - 1 - offset) / zoom) + 2 - corner
    return first, last, max(needed[0], low - corner, 0), min(needed[1], high - corner)


def _lay_turned(image: np.ndarray, tile: Tile, side: int, matrix: np.ndarray, read: Reader) -> None:
    """In general a tile fills what a mask of its visible pixels is warped to."""
    height, width = image.shape[:2]
    left, top, right, bottom = tile.window(side)
    x, y = tile.corner
    pixels = np.zeros(tile.shape, np.uint8)
    pixels[top - y : bottom - y, left - x : right - x] = 1
    placed = matrix @ _moved(*tile.corner)
    mask = cv2.warpPerspective(pixels, placed, (width, height), flags=cv2.INTER_NEAREST)
    if not mask.any():
        return
    picture = cv2.cvtColor(read(tile.index), cv2.COLOR_RGB2RGBA)
    patch = cv2.warpPerspective(picture, placed, (width, height), borderMode=cv2.BORDER_REPLICATE)
    cv2.copyTo(patch, mask, image)


def _moved(x: int, y: int) -> np.ndarray:
    """The matrix that moves by (x, y): ``[3, 3]``."""
    return np.array(((1.0, 0, x), (0, 1, y), (0, 0, 1)))
