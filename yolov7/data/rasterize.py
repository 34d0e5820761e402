"""Outlines of objects -> masks on a coarse grid: one index map of an image, or a 0/1 map of each object.

As YOLOv7-seg does it: vertices are truncated toward zero and filled with OpenCV's polygon fill, whose border pixels
count, even-odd, on the full grid; this is shrunk bilinearly, so that a cell is set where at least two of the four
pixels around its centre are.

An outline is one closed line. Parts and holes of an object are joined by bridges that are walked there and back; such
edges cancel, so that no bridge is painted (see `rings_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from yolov7.data.images import cv2
from yolov7.data.objects import Ragged

RATIO = 4  # pixels of the network input to a side of a cell
_FAR = 4  # sides of the image; outlines that reach further are clipped, as each row in between would take time


class Cells(NamedTuple):
    """The cells of one object: those of its window."""

    left: int
    top: int
    cells: np.ndarray  # bool [h, w]


# --- rings -----------------------------------------------------------------------------------------------------


def rings_of(line: np.ndarray) -> list[np.ndarray]:
    """The closed rings ``[K, 2]`` of a closed line ``[K, 2]``: its edges, without those that are walked both ways.

    Filled even-odd they are the object. A line without such edges is its only ring; rings that vanish are left out.
    Rings begin with their first points in the line, and stand in the order of these.
    """
    points: list[tuple[float, ...]] = list(map(tuple, line.tolist()))
    if len(set(points)) == len(points):
        return [line] if points else []
    cut = _walked_both_ways(points)
    return [line[ring] for ring in _closed(_paths(cut, len(points)), points)] if cut else [line]


def _walked_both_ways(points: list[tuple[float, ...]]) -> list[int]:
    """Edges, by the places of their first points, that cancel each other, in their order."""
    seen: set[tuple[float, ...]] = set()
    twice: set[tuple[float, ...]] = set()
    for point in points:
        (twice if point in seen else seen).add(point)
    found: list[int] = []
    waiting: dict[tuple[Any, Any], list[int]] = {}
    for place, (a, b) in enumerate(zip(points, [*points[1:], points[0]], strict=True)):
        if a == b or (a not in twice and b not in twice):
            continue
        if others := waiting.get((b, a)):
            found += (place, others.pop())
        else:
            waiting.setdefault((a, b), []).append(place)
    return sorted(found)


def _paths(cut: list[int], count: int) -> list[list[int]]:
    """What is left of a line of so many points without these edges: paths, as the places of their points."""
    around = [*range(cut[0] + 1, count), *range(cut[0] + 1)]  # from behind the first cut to it
    ends = [place - cut[0] for place in (*cut[1:], cut[0] + count)]
    starts = [0, *ends[:-1]]
    return [around[start:end] for start, end in zip(starts, ends, strict=True) if end - start > 1]


def _closed(paths: list[list[int]], points: list[tuple[float, ...]]) -> list[list[int]]:
    """Paths put together to closed ones: as many begin at a point as end there. The first point is not repeated."""
    starting: dict[tuple[float, ...], list[list[int]]] = {}
    for path in reversed(paths):
        starting.setdefault(points[path[0]], []).append(path)
    rings = []
    for first in paths:
        others = starting[points[first[0]]]
        if not others or others[-1] is not first:  # it is in a ring already
            continue
        ring = others.pop()[:]
        while points[ring[-1]] != points[ring[0]]:
            ring += starting[points[ring[-1]]].pop()[1:]
        if len(ring) > 3:
            start = ring.index(min(ring)) % (len(ring) - 1)  # the last point is the first again
            rings.append((min(ring), ring[start:-1] + ring[:start]))
    return [ring for _, ring in sorted(rings)]


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings as one closed line, joined by going there and back between their first points: ``[K, 2]``."""
    if len(rings) < 2:
        return rings[0] if rings else np.zeros((0, 2))
    first = rings[0]
    return np.concatenate((first, *(np.concatenate((first[:1], ring, ring[:1])) for ring in rings[1:])))


# --- clipping --------------------------------------------------------------------------------------------------


def clip_outline(line: np.ndarray, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> np.ndarray:
    """The part of an outline inside a rectangle, (x, y) from ``low`` to ``high``: ``[K, 2]`` -> ``[K', 2]`` float64.

    Exact: what is filled inside the rectangle stays as it is, also where the outline is cut into several.
    """
    rings = [ring.astype(np.float64) for ring in rings_of(line)]
    for axis in (0, 1):
        rings = _clip_side(rings, axis, float(low[axis]), 1.0)
        rings = _clip_side(rings, axis, float(high[axis]), -1.0)
    return joined(rings)


def cut_off(whole: Ragged, clamped: Ragged, limits: np.ndarray, rows: np.ndarray, margin: float = 0.0) -> Ragged:
    """These ``rows`` of outlines, cut off outside of 0 ... ``limits`` = (width, height), ``[2]`` or ``[N, 2]``.

    ``clamped`` are the outlines with vertices moved to the border, which changes the edges in between: those that
    leave it by more than a margin are cut off exactly. ``whole`` are the first of them as they were.
    """
    chosen, limits = clamped[rows], np.broadcast_to(limits, (len(clamped), 2))
    bounds = np.repeat(limits[: len(whole)], whole.counts, axis=0)
    beyond = np.flatnonzero(((whole.points < -margin) | (whole.points > bounds + margin)).any(1))
    crossing = np.isin(rows, np.searchsorted(whole.offsets, beyond, side="right") - 1)
    points: list[np.ndarray] = []
    counts, done = chosen.counts.copy(), 0
    for place in np.flatnonzero(crossing).tolist():
        line = clip_outline(whole.of(rows[place]), (0, 0), limits[rows[place]]).astype(np.float32)
        points += (chosen.points[done : chosen.offsets[place]], line)
        counts[place], done = len(line), chosen.offsets[place + 1]
    return Ragged(np.concatenate((*points, chosen.points[done:])), counts) if crossing.any() else chosen


def _clip_side(rings: list[np.ndarray], axis: int, limit: float, sign: float) -> list[np.ndarray]:
    """What of rings lies on one side of a line parallel to an axis.

    Where they cross it, the crossings in their order along it are ends of the object, two by two.
    """
    kept, chains = [], []
    for ring in rings:
        inside = sign * (ring[:, axis] - limit) >= 0
        if inside.all():
            kept.append(ring)
        elif inside.any():
            chains += _chains(ring, inside, axis, limit)
    if not chains:
        return kept
    ends = [(chain[place, 1 - axis], number, place) for number, chain in enumerate(chains) for place in (0, -1)]
    ends.sort(key=lambda end: end[0])
    partner: dict[tuple[int, int], tuple[int, int]] = {}
    for (_, *a), (_, *b) in zip(ends[::2], ends[1::2], strict=True):
        partner[a[0], a[1]], partner[b[0], b[1]] = (b[0], b[1]), (a[0], a[1])
    return kept + _rejoined(chains, partner)


def _chains(ring: np.ndarray, inside: np.ndarray, axis: int, limit: float) -> list[np.ndarray]:
    """The pieces of a ring inside, from crossing to crossing."""
    start = int(np.flatnonzero(inside & ~np.roll(inside, 1))[0])
    ring, inside = np.roll(ring, -start, axis=0), np.roll(inside, -start)
    changes = np.flatnonzero(inside != np.roll(inside, 1)).tolist()  # in turn where it comes in and where it goes out
    pieces = []
    for enter, leave in zip(changes[::2], changes[1::2], strict=True):
        crossings = [_crossing(ring[place - 1], ring[place], axis, limit) for place in (enter, leave)]
        pieces.append(np.concatenate((crossings[:1], ring[enter:leave], crossings[1:])))
    return pieces


def _crossing(a: np.ndarray, b: np.ndarray, axis: int, limit: float) -> np.ndarray:
    point: np.ndarray = a + (b - a) * ((limit - a[axis]) / (b[axis] - a[axis]))
    point[axis] = limit
    return point


def _rejoined(chains: list[np.ndarray], partner: dict[tuple[int, int], tuple[int, int]]) -> list[np.ndarray]:
    left, rings = set(range(len(chains))), []
    while left:
        first = number = min(left)
        place, parts = 0, []
        while number in left:
            left.remove(number)
            parts.append(chains[number] if place == 0 else chains[number][::-1])
            number, place = partner[number, -1 if place == 0 else 0]
        assert number == first
        rings.append(np.concatenate(parts))
    return rings


# --- filling ---------------------------------------------------------------------------------------------------


def fill_outline(line: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an outline in an image of this height and width: bool ``[H, W]``."""
    polygons = Ragged(line, np.array([len(line)]))
    pixels: np.ndarray = separate_maps(polygons, size, 1)[0].astype(bool)
    return pixels


def rasterize(polygons: Ragged, size: tuple[int, int], ratio: int = RATIO) -> list[Cells | None]:
    """The cells of each outline in an image of this height and width; None where it has none.

    The grid has ``height // ratio`` rows and ``width // ratio`` columns.
    """
    found: list[Cells | None] = [None] * len(polygons)
    rows = np.flatnonzero(polygons.counts)
    if not len(rows):
        return found
    limit, starts = np.array(size[::-1]), polygons.offsets[rows]
    low, high = (function.reduceat(polygons.points, starts) for function in (np.minimum, np.maximum))
    seen = np.all((high > -1) & (low < limit), axis=1)
    far = np.any((low < -_FAR * limit) | (high > (_FAR + 1) * limit), axis=1)
    low, high = np.trunc(low.clip(-1, limit)).astype(int), np.trunc(high.clip(-1, limit)).astype(int)
    step = ratio if not (limit % ratio).any() else max(size)  # else on the full grid
    windows = np.concatenate((low.clip(0) // step * step, np.minimum((high // step + 1) * step, limit)), axis=1)
    repeated = has_repeated_points(polygons)
    for place, row in enumerate(rows.tolist()):
        if seen[place]:
            line = polygons.of(row)
            line = clip_outline(line, -_FAR * limit, (_FAR + 1) * limit) if far[place] else line
            rings = rings_of(line) if far[place] or repeated[row] else [line]
            found[row] = _cells(rings, windows[place].tolist(), ratio)
    return found


def has_repeated_points(polygons: Ragged) -> np.ndarray:
    """Which outlines may have a point twice, without which no edge is walked both ways: bool ``[N]``.

    A last point that is the first again is none.
    """
    points = np.ascontiguousarray(polygons.points, np.float32) + np.float32(0)  # no negative zeros
    keys = points.view(np.uint64)[:, 0]
    order = np.sort(keys)
    twice = order[1:][order[1:] == order[:-1]]
    several = np.zeros(len(polygons), bool)
    if len(twice):
        owner = np.repeat(np.arange(len(polygons)), polygons.counts)
        counts = np.bincount(owner[np.isin(keys, twice)], minlength=len(polygons))
        rows = np.flatnonzero(counts > 1)
        closes = keys[polygons.offsets[rows]] == keys[polygons.offsets[rows + 1] - 1]
        several[rows] = (counts[rows] > 2) | ~closes
    return several


def _cells(rings: list[np.ndarray], window: Sequence[int], ratio: int) -> Cells | None:
    left, top, right, bottom = window
    pixels = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(pixels, [ring.astype(np.int32) for ring in rings], 1, offset=(-left, -top))
    cells = _shrunk(pixels, ratio)
    return Cells(left // ratio, top // ratio, cells) if cells.any() else None


def _shrunk(pixels: np.ndarray, ratio: int) -> np.ndarray:
    """0/1 pixels uint8 ``[h, w]`` -> bool cells, as OpenCV's bilinear resize of uint8 rounds them."""
    height, width = pixels.shape
    if height % ratio or width % ratio:
        return cv2.resize(pixels, (width // ratio, height // ratio), interpolation=cv2.INTER_LINEAR).astype(bool)
    half = ratio // 2
    if ratio % 2:
        return pixels[half::ratio, half::ratio].astype(bool)
    rows = pixels[half - 1 :: ratio] + pixels[half::ratio]
    cells: np.ndarray = rows[:, half - 1 :: ratio] + rows[:, half::ratio] >= 2
    return cells


# --- maps ------------------------------------------------------------------------------------------------------


def index_map(polygons: Ragged, size: tuple[int, int], ratio: int = RATIO) -> np.ndarray:
    """Which object each cell shows: int16 ``[h, w]``, the row of the object + 1, 0 is background.

    Objects of more cells are painted first, so that smaller ones cover larger ones; int32 above 32766 objects.
    """
    found = rasterize(polygons, size, ratio)
    painted = np.zeros((size[0] // ratio, size[1] // ratio), np.int16 if len(found) < 1 << 15 else np.int32)
    counts = np.array([0 if item is None else np.count_nonzero(item.cells) for item in found])
    for row in np.argsort(-counts, kind="stable").tolist():
        if item := found[row]:
            height, width = item.cells.shape
            window = painted[item.top : item.top + height, item.left : item.left + width]
            np.copyto(window, row + 1, where=item.cells)
    return painted


def separate_maps(polygons: Ragged, size: tuple[int, int], ratio: int = RATIO) -> np.ndarray:
    """The cells of each object in a map of its own: uint8 ``[N, h, w]`` of 0 and 1."""
    maps = np.zeros((len(polygons), size[0] // ratio, size[1] // ratio), np.uint8)
    for painted, item in zip(maps, rasterize(polygons, size, ratio), strict=True):
        if item is not None:
            height, width = item.cells.shape
            painted[item.top : item.top + height, item.left : item.left + width] = item.cells
    return maps
