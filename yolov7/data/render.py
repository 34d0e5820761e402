"""The pixels of a canvas: tiles warped straight to where they are seen, and what is pasted mirrored.

(docs/reference.md, Mosaic, Copy-paste.) `yolov7.data.device_render` does the same on another device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolov7.data.geometry import Warp
from yolov7.data.images import PAD_COLOUR, cv2


@dataclass(frozen=True)
class Tile:
    """An image on the canvas."""

    index: int
    shape: tuple[int, int]  # height and width there
    corner: tuple[int, int]  # x, y of its top left pixel; may be negative

    def window(self, side: int) -> tuple[int, int, int, int]:
        """Its pixels on a canvas of ``side`` pixels: left, top, right, bottom; right and bottom are outside."""
        (x, y), (height, width) = self.corner, self.shape
        return max(x, 0), max(y, 0), min(x + width, side), min(y + height, side)


# index of an image -> the tile's pixels uint8 [h, w, 3 or 4], valid until the next one is read
Reader = Callable[[int], np.ndarray]


def render(tiles: Sequence[Tile], side: int, drawn: Warp, read: Reader) -> np.ndarray:
    """Warp a canvas of tiles, later ones over earlier ones, into an image uint8 ``[H, W, 3]``.

    Each visible tile is warped straight to its place, bilinear; where none is, the image is grey (114). A tile that
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


def visible_tiles(tiles: Sequence[Tile], side: int, drawn: Warp) -> tuple[Tile, ...]:
    """The tiles of which a pixel may be seen, where no later one covers it."""
    return tuple(tile for tile in tiles if _may_be_seen(tile.window(side), drawn))


def _may_be_seen(window: tuple[int, int, int, int], drawn: Warp) -> bool:
    left, top, right, bottom = window
    if left >= right or top >= bottom:
        return False
    corners = np.array([(x, y) for x in (left - 0.5, right - 0.5) for y in (top - 0.5, bottom - 0.5)])
    if (corners @ drawn.matrix[2, :2] + drawn.matrix[2, 2] <= 0).any():
        return True  # behind the horizon a corner says nothing
    points = drawn.points(corners)
    return bool((points.max(0) >= 0).all() and (points.min(0) < drawn.limit).all())


def _lay_upright(image: np.ndarray, tile: Tile, side: int, matrix: np.ndarray, read: Reader) -> None:
    """Without rotation a tile fills a rectangle: that of the output pixels whose origin lies in its pixels."""
    left, top, right, bottom = tile.window(side)
    u0, u1, x0, x1 = _span(left, right, matrix[0, 0], matrix[0, 2], image.shape[1], tile.corner[0])
    v0, v1, y0, y1 = _span(top, bottom, matrix[1, 1], matrix[1, 2], image.shape[0], tile.corner[1])
    if u0 >= u1 or v0 >= v1:
        return
    pixels = _four_channels(read(tile.index)[y0:y1, x0:x1])
    placed = (matrix @ _moved(tile.corner[0] + x0, tile.corner[1] + y0))[:2] - ((0, 0, u0), (0, 0, v0))
    view = image[v0:v1, u0:u1]  # written to in place
    cv2.warpAffine(pixels, placed, (u1 - u0, v1 - v0), dst=view, borderMode=cv2.BORDER_REPLICATE)


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
    visible = np.zeros(tile.shape, np.uint8)
    visible[top - y : bottom - y, left - x : right - x] = 1
    placed = matrix @ _moved(*tile.corner)
    mask = cv2.warpPerspective(visible, placed, (width, height), flags=cv2.INTER_NEAREST)
    if not mask.any():
        return
    pixels = _four_channels(read(tile.index))
    patch = cv2.warpPerspective(pixels, placed, (width, height), borderMode=cv2.BORDER_REPLICATE)
    cv2.copyTo(patch, mask, image)


def _four_channels(image: np.ndarray) -> np.ndarray:
    return image if image.shape[2] == 4 else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)


def _moved(x: int, y: int) -> np.ndarray:
    """The matrix that moves by (x, y): ``[3, 3]``."""
    return np.array(((1.0, 0, x), (0, 1, y), (0, 0, 1)))


def mirror_image(side: int, drawn: Warp, polygons: Sequence[np.ndarray]) -> tuple[Warp, np.ndarray]:
    """How a canvas is warped where it lies mirrored, and the pixels that show it: those inside these polygons of it.

    The mask is uint8 ``[H, W]``, 0 or 1.
    """
    mirror = np.array(((-1.0, 0, side - 1), (0, 1, 0), (0, 0, 1)))  # of a pixel's index
    mirrored = replace(drawn, matrix=drawn.matrix @ mirror)
    mask = np.zeros(drawn.size, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [mirrored.points(polygon.astype(int)).round().astype(np.int32)], 1)
    return mirrored, mask


def paste_mirrored(image: np.ndarray, tiles: Sequence[Tile], side: int, drawn: Warp, read: Reader,
                   polygons: Sequence[np.ndarray]) -> None:
    """Write into a rendered image what lies, mirrored, inside these polygons of the canvas."""
    mirrored, mask = mirror_image(side, drawn, polygons)
    x, y, width, height = cv2.boundingRect(mask)
    if width:  # only what is pasted is rendered
        window = replace(mirrored, matrix=_moved(-x, -y) @ mirrored.matrix, size=(height, width))
        rows, columns = slice(y, y + height), slice(x, x + width)
        cv2.copyTo(render(tiles, side, window, read), mask[rows, columns], image[rows, columns])
