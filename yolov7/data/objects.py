"""The objects of images as one table: every annotation is a column, and every column moves with its image.

An annotation that is new is one more field of `Objects`: its `Column` says how it is stored, what stands for "not
known", and how it follows a motion. Selection, concatenation, the label cache and the augmentation then carry it.
There is no Python loop over objects: a data set has a million of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from yolov7.structures import ImageMeta

if TYPE_CHECKING:
    from yolov7.data.packing import Packed
    from yolov7.data.picture import Picture


def starts_of(lengths: Any) -> np.ndarray:
    """Where runs of these lengths begin, and where the last one ends: int64 ``[N + 1]``."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def elements_of(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all elements of these runs (``offsets`` as from `starts_of`), and the length of each run."""
    lengths = offsets[rows + 1] - offsets[rows]
    starts = starts_of(lengths)
    return np.repeat(offsets[rows] - starts[:-1], lengths) + np.arange(starts[-1]), lengths


@dataclass(frozen=True, eq=False)
class Ragged:
    """A polygon for each of N objects: points one behind the other, none where an object has no polygon."""

    points: np.ndarray  # float32 [S, 2] x, y
    counts: np.ndarray  # int64 [N] points of each object

    @cached_property
    def offsets(self) -> np.ndarray:
        """Points of object ``i`` are rows ``offsets[i]:offsets[i + 1]``: int64 ``[N + 1]``."""
        return starts_of(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: np.ndarray | slice) -> Ragged:
        """These objects: a slice (views), a mask ``[N]`` or indices."""
        counts = self.counts[rows]
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            return Ragged(self.points[self.offsets[first] : self.offsets[max(first, last)]], counts)
        if rows.dtype != bool:
            return Ragged(self.points[elements_of(self.offsets, rows)[0]], counts)
        if counts.sum() == len(self.points):  # only objects without points go
            return Ragged(self.points, counts)
        return Ragged(self.points[np.repeat(rows, self.counts)], counts)

    def astype(self, dtype: str, copy: bool = True) -> Ragged:
        """With points of this type."""
        return Ragged(self.points.astype(dtype, copy=copy), self.counts)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The points of one object after the other, ``[K, 2]``: views."""
        return map(self.of, range(len(self)))

    def of(self, index: int) -> np.ndarray:
        """The points of one object, ``[K, 2]``: a view."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]


# --- motion ------------------------------------------------------------------------------------------------------


class Motion(Protocol):
    """How the pixels of an image move; results may be float64."""

    @property
    def limit(self) -> tuple[int, int] | None:
        """Width and height of the output, where it is a part of what is moved."""

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes xyxy ``[N, 4]`` around what the boxes held."""

    def points(self, points: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Points ``[N, K, 2]`` of N objects, or ``[S, 2]`` where they have these ``counts``."""


@dataclass(frozen=True)
class Placement:
    """Scaled, then moved, by (x, y): ``[2]`` for all objects or ``[N, 2]``; a negative scale mirrors."""

    scale: np.ndarray
    offset: np.ndarray
    limit = None

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Exact, as no angle changes."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        return (np.sort(corners, axis=1) if np.min(self.scale, initial=1) < 0 else corners).reshape(-1, 4)

    def points(self, points: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """In the precision of the points."""
        scale, offset = (_beside(points, value, counts) for value in (self.scale, self.offset))
        moved: np.ndarray = points * scale + offset
        return moved


def _beside(points: np.ndarray, value: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """A value ``[2]`` for all or ``[N, 2]`` for each object, shaped to meet points (see `Motion.points`)."""
    value = np.asarray(value, points.dtype)
    if value.ndim == 1:
        return value
    return value[:, None] if counts is None else np.repeat(value, counts, axis=0)


def _move_polygons(polygons: Ragged, motion: Motion) -> Ragged:
    if not len(polygons.points):
        return polygons
    return Ragged(motion.points(polygons.points, polygons.counts), polygons.counts)


def _clip_polygons(polygons: Ragged, limit: np.ndarray) -> Ragged:
    return Ragged(polygons.points.clip(0, _beside(polygons.points, limit, polygons.counts)), polygons.counts)


def _move_keypoints(keypoints: np.ndarray, motion: Motion) -> np.ndarray:
    """Points that are not labelled stay zeros, points outside the output become so."""
    if not keypoints.size:
        return keypoints
    moved = keypoints.copy()
    moved[..., :2] = motion.points(keypoints[..., :2])
    if motion.limit is not None:
        moved = _hide_outside(moved, np.array(motion.limit))
    return np.where(keypoints[..., 2:] > 0, moved, 0)


def _hide_outside(keypoints: np.ndarray, limit: np.ndarray) -> np.ndarray:
    if not keypoints.size:
        return keypoints
    points = keypoints[..., :2]
    inside = ((points >= 0) & (points <= _beside(points, limit, None))).all(-1, keepdims=True)
    return np.where(inside, keypoints, 0)


# --- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """How one annotation is stored and follows its image."""

    dtype: str  # as numpy names it
    shape: tuple[int, ...] = ()  # of one object; -1: any length. Of a ragged column: of one point
    ragged: bool = False
    unknown: float = 0  # the value of an object of which it is not known
    move: Callable[[Any, Motion], Any] | None = None
    clip: Callable[[Any, np.ndarray], Any] | None = None  # to 0 ... limit = (width, height), [2] or [N, 2]

    def blank(self, like: Any, count: int) -> Any:
        """A column of objects of which it is not known, beside one of the same shape."""
        if self.ragged:
            return Ragged(like.points[:0], np.zeros(count, np.int64))
        return np.full((count, *like.shape[1:]), self.unknown, self.dtype)

    def check(self, name: str, array: np.ndarray) -> None:
        """Raise `ValueError` for an array of another kind."""
        shape = array.shape[1:]
        fits = len(shape) == len(self.shape) and all(n in (-1, m) for n, m in zip(self.shape, shape, strict=True))
        if array.dtype != np.dtype(self.dtype) or array.ndim == 0 or not fits:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")


def _column(*arguments: Any, **options: Any) -> Any:
    return field(metadata={"column": Column(*arguments, **options)})


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects of one image or of many, in the order of the images. Columns are not to be written to."""

    boxes: np.ndarray = _column(  # float32 [N, 4] xyxy pixels
        "<f4", (4,), move=lambda boxes, motion: motion.boxes(boxes),
        clip=lambda boxes, limit: boxes.clip(0, np.tile(limit, 2).astype(boxes.dtype)))
    labels: np.ndarray = _column("<i8")  # int64 [N]
    polygons: Ragged = _column(  # pixels; without points where only the box is known
        "<f4", (2,), ragged=True, move=_move_polygons, clip=_clip_polygons)
    keypoints: np.ndarray = _column(  # float32 [N, K, 3] x, y, visibility; K is 0 where the data set has none
        "<f4", (-1, 3), move=_move_keypoints, clip=_hide_outside)
    crowd: np.ndarray = _column("|b1")  # bool [N] a group whose members are not told apart: COCO's iscrowd
    area: np.ndarray = _column("<f8", unknown=np.nan)  # float64 [N] native pixels, as its file says (see `areas`)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray | slice) -> Objects:
        """These objects: a slice (views), a mask ``[N]`` or indices."""
        return self._each(lambda _, value: value[rows])

    def _each(self, change: Callable[[Column, Any], Any]) -> Objects:
        return Objects(*(change(column, getattr(self, name)) for name, column in COLUMNS.items()))

    @property
    def has_polygon(self) -> np.ndarray:
        """Which objects have a polygon: bool ``[N]``."""
        return self.polygons.counts > 0

    @property
    def areas(self) -> np.ndarray:
        """``area``, or that of the box where the file says none: float64 ``[N]``, of objects in native pixels."""
        corners = self.boxes.astype(np.float64)
        return np.where(np.isnan(self.area), (corners[:, 2:] - corners[:, :2]).prod(1), self.area)

    def moved(self, motion: Motion) -> Objects:
        """Every column that lies in the image, moved with it."""
        return self._each(lambda column, value: column.move(value, motion) if column.move else value)

    def placed(self, scale: np.ndarray, offset: np.ndarray) -> Objects:
        """Scaled, then moved, by (x, y): ``[2]`` for all objects or ``[N, 2]``."""
        return self.moved(Placement(scale, offset))

    def clipped(self, limit: np.ndarray) -> Objects:
        """Cut off outside of 0 ... ``limit`` = (width, height), ``[2]`` or ``[N, 2]``; key points there are hidden."""
        return self._each(lambda column, value: column.clip(value, limit) if column.clip else value)

    def typed(self) -> Objects:
        """With the types of the columns, where calculations have widened them."""
        return self._each(lambda column, value: value.astype(column.dtype, copy=False))

    def like(self, boxes: np.ndarray, labels: np.ndarray, **columns: Any) -> Objects:
        """Other objects in a table of the same columns; what is not given is not known."""
        given = {"boxes": boxes, "labels": labels, **columns}
        return Objects(*(given[name] if name in given else column.blank(getattr(self, name), len(labels))
                         for name, column in COLUMNS.items()))

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as plain arrays, from which `objects_from` makes them again; a ragged one is two."""
        arrays: dict[str, np.ndarray] = {}
        for name in COLUMNS:
            value = getattr(self, name)
            ragged = isinstance(value, Ragged)
            arrays |= {name: value.points, f"{name}_counts": value.counts} if ragged else {name: value}
        return arrays


COLUMNS: dict[str, Column] = {item.name: item.metadata["column"] for item in fields(Objects)}


def objects_from(arrays: Mapping[str, np.ndarray]) -> Objects:
    """The table of `Objects.arrays`. Raises `KeyError` or `ValueError` for arrays that are none."""
    values: list[Any] = []
    for name, column in COLUMNS.items():
        value: Any = arrays[name]
        column.check(name, value)
        if column.ragged:
            value = Ragged(value, arrays[f"{name}_counts"])
            Column("<i8").check(f"{name}_counts", value.counts)
            if (value.counts < 0).any() or value.counts.sum() != len(value.points):
                raise ValueError(f"{name}: its counts do not fit its points")
        values.append(value)
    if len({len(value) for value in values}) > 1:
        raise ValueError("its objects do not fit together")
    return Objects(*values)


def no_objects(keypoint_count: int = 0) -> Objects:
    """A table without rows."""
    arrays = {name: np.zeros((0, *(max(n, 0) for n in column.shape)), column.dtype) for name, column in COLUMNS.items()}
    arrays |= {f"{name}_counts": np.zeros(0, np.int64) for name, column in COLUMNS.items() if column.ragged}
    arrays["keypoints"] = np.zeros((0, keypoint_count, 3), np.float32)
    return objects_from(arrays)


def concatenate(parts: Sequence[Objects]) -> Objects:
    """All objects in a row; at least one part."""
    return Objects(*(_joined([getattr(part, name) for part in parts]) for name in COLUMNS))


def _joined(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Ragged):
        return np.concatenate(values)
    return Ragged(*(np.concatenate([getattr(value, name) for value in values]) for name in ("points", "counts")))


@dataclass(frozen=True)
class Sample:
    """One image with its objects, on the way from the disk to the batch."""

    image: np.ndarray | Picture | Packed  # uint8 [H, W, 3] RGB, or how that is made
    objects: Objects  # in pixels of `image`
    meta: ImageMeta

    @property
    def pixels(self) -> np.ndarray:
        """The image, which must be made."""
        assert isinstance(self.image, np.ndarray)
        return self.image
