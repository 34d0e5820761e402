"""What Python programs get: the detections of an image as a table, an image, JSON, or another package's own form."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
from torch import Tensor

from yolov7.config import InputError, atomic_write, nearest
from yolov7.config.names import readable
from yolov7.config.paths import check_path
from yolov7.data.any_image import PathLike
from yolov7.data.images import cv2, encode_image
from yolov7.inference.column_forms import TRACK
from yolov7.inference.draw import Overlay, draw_instances
from yolov7.inference.draw_skeletons import SHOWN_POINT
from yolov7.inference.writers import WRITABLE, json_record
from yolov7.masks import Masks
from yolov7.runtime.by_value import Packed, pack, unpack
from yolov7.runtime.tables import aligned, import_pandas
from yolov7.structures import Instances

if TYPE_CHECKING:
    import pandas
    import supervision

COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")
MAX_ROWS = 20  # of a printed table
MAX_NAME = 40  # characters of a class, or of the end of a path, in it
MAX_SIDE = 1200  # pixels of an image in a notebook
MAX_BYTES = 2**31  # of the masks of an image, each in an image of its own


@dataclass(frozen=True, repr=False)
class ImageResult(Instances):
    """What was found in one image, in its pixels, with the image itself."""

    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))  # uint8 [H, W, 3] RGB
    path: str = ""  # '' of an image that came from memory
    draw: Overlay = draw_instances  # of the task
    frame: int = 0  # 1, 2, ... in a video or stream, 0 of an image
    seconds: float | None = None  # since the start of the video; of a stream since 1970; None of an image

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by value: see `yolov7.runtime.by_value`."""
        tensors = {name: pack(column) for name, column in
                   (("boxes", self.boxes), ("scores", self.scores), ("labels", self.labels))}
        extra = {name: column if isinstance(column, Masks) else pack(column) for name, column in self.extra.items()}
        others = {name: getattr(self, name) for name in ("names", "facts", "image", "path", "draw", "frame", "seconds")}
        return _unpickled, (type(self), tensors, extra, others)

    def __repr__(self) -> str:
        """A table with a row for each detection, boxes in whole pixels, pixels of masks, key points that are seen."""
        of_task = self._shown_columns()
        rows = [(*self._shown_name(label), f"{score:.2f}", *(f"{x:.0f}" for x in box), *of_row)
                for label, score, box, *of_row in
                zip(*(column[:MAX_ROWS].tolist() for column in (self.labels, self.scores, self.boxes)),
                    *of_task.values(), strict=True)]
        height, width = self.image.shape[:2]
        where = f"{_shown_path(self.path)}, frame {self.frame}" if self.frame else _shown_path(self.path)
        head = f"{where}: {width} x {height} pixels, {_count(len(self), 'detection') if len(self) else 'nothing found'}"
        if self.extra:
            head += f", also {', '.join(map(readable, self.extra))}"
        heads = ("name", "score", "xmin", "ymin", "xmax", "ymax", *of_task)
        return "\n".join([head, *_table(heads, rows, len(self))])

    def _shown_columns(self) -> dict[str, list[str]]:
        """What stands behind the boxes of the table, in its first rows."""
        shown: dict[str, list[str]] = {}
        if isinstance(masks := self.extra.get("masks"), Masks):
            shown["mask"] = [str(area) for area in masks[:MAX_ROWS].area.tolist()]
        if "keypoints" in self.extra:
            seen = self.extra["keypoints"][:MAX_ROWS, :, 2] >= SHOWN_POINT  # [N, K]
            shown["points"] = [f"{count}/{seen.shape[1]}" for count in seen.sum(1).tolist()]
        return shown

    def _shown_name(self, label: int) -> tuple[str]:
        name = readable(self.names[label]) if 0 <= label < len(self.names) else str(label)
        return (name if len(name) <= MAX_NAME else f"{name[:MAX_NAME - 3]}...",)

    def _repr_png_(self) -> bytes | None:
        """What notebooks show: the image with its detections, its long side at most 1200 pixels."""
        if not self.image.size:
            return None
        drawn = self.plot()
        ratio = MAX_SIDE / max(drawn.shape[:2])
        if ratio < 1:
            height, width = (max(1, round(side * ratio)) for side in drawn.shape[:2])
            drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
        return encode_image(drawn, ".png")

    @cached_property
    def masks(self) -> Tensor:
        """The masks of a model of instance segmentation, each in an image of its own: bool ``[N, H, W]``.

        They are made when they are asked for: ``extra["masks"]`` keeps them in little memory. Raises
        `yolov7.InputError` where they would take more than 2 GiB, and of other models.
        """
        masks = self._masks("masks")
        height, width = masks.size
        if len(masks) * height * width > MAX_BYTES:
            raise InputError(f"masks: {len(masks)} masks of {width} x {height} pixels take more than "
                             f"{MAX_BYTES >> 30} GiB; accepted: found[:10].masks, or found.extra[\"masks\"], which "
                             "keeps each in its own window (of(index), windows[index])")
        return masks.dense()

    def polygons(self) -> list[list[tuple[np.ndarray, list[np.ndarray]]]]:
        """The outlines of each mask: a list of its parts, each an outer line ``[K, 2]`` and the lines of its holes.

        In pixels of the image, along the edges of pixels; raises `yolov7.InputError` for models without masks.
        """
        masks = self._masks("polygons()")
        return [masks.polygons(index) for index in range(len(masks))]

    @property
    def keypoints(self) -> Tensor:
        """The key points of a model of poses: float32 ``[N, K, 3]``, x and y in pixels, score 0..1.

        Raises `yolov7.InputError` for other models.
        """
        if "keypoints" not in self.extra:
            raise _MissingColumnError("keypoints: this model finds none; accepted of one of poses")
        points: Tensor = self.extra["keypoints"]
        return points

    def _masks(self, what: str) -> Masks:
        masks = self.extra.get("masks")
        if not isinstance(masks, Masks):
            raise _MissingColumnError(f"{what}: this model finds no masks; accepted of one of instance segmentation")
        return masks

    def plot(self, path: PathLike | None = None) -> np.ndarray:
        """The image with its detections, uint8 ``[H, W, 3]`` RGB; also written to ``path``, if there is one.

        Raises `yolov7.InputError` for a path that cannot be an image, `yolov7.RunError` where it cannot be written.
        """
        target = None if path is None else _image_path(path)
        drawn = self.draw(self.image, self, self.names, True)
        if target is not None:
            atomic_write(target, encode_image(drawn, target.suffix))
        return drawn

    def to_json(self) -> str:
        """One JSON object, as ``detect.py --save-json`` writes it."""
        return json_record(self.path, self.frame, self.seconds, self.image.shape, self)

    def to_pandas(self) -> pandas.DataFrame:
        """A table with the columns xmin, ymin, xmax, ymax, confidence, class, name and those of a task; pandas.

        Of masks it has their area in pixels, ``masks_area``, of key points an array ``[K, 3]`` a row.
        """
        pandas = import_pandas()
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        table = pandas.DataFrame([(*box, score, label, self.names[label]) for box, score, label in rows],
                                 columns=list(COLUMNS))
        return table.assign(**{
            f"{name}_area" if isinstance(column, Masks) else name:
            column.area.numpy() if isinstance(column, Masks) else list(column.numpy())
            for name, column in self.extra.items()})

    def to_supervision(self) -> supervision.Detections | supervision.KeyPoints:
        """The same as `supervision.Detections`, with masks where there are some; of poses as `supervision.KeyPoints`.

        Class names and columns of a task stand in its ``data``, with key points the boxes, too (``xyxy``). Raises
        `yolov7.InputError` where the package supervision is not installed, and as `masks` does.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("to_supervision() needs the package 'supervision': pip install "
                             "'yolov7-framework[supervision]'") from None
        names = np.array([self.names[label] for label in self.labels.tolist()], dtype=np.str_)
        boxes, scores, labels = self.boxes.numpy(), self.scores.numpy(), self.labels.numpy()
        columns = {name: column.numpy() for name, column in self.extra.items() if not isinstance(column, Masks)}
        if "keypoints" not in columns:
            masks = self.masks.numpy() if isinstance(self.extra.get("masks"), Masks) else None
            return supervision.Detections(xyxy=boxes, mask=masks, confidence=scores, class_id=labels,
                                          tracker_id=columns.pop(TRACK, None), data={**columns, "class_name": names})
        points = columns.pop("keypoints")
        given = {"confidence": points[..., 2]}
        if "detection_confidence" in inspect.signature(supervision.KeyPoints).parameters:  # later versions
            given = {"keypoint_confidence": points[..., 2], "detection_confidence": scores}
        return supervision.KeyPoints(xy=points[..., :2], class_id=labels,
                                     data={**columns, "class_name": names, "xyxy": boxes}, **given)


class _MissingColumnError(InputError, AttributeError):
    """Also an `AttributeError`: ``hasattr(found, "masks")`` says whether a model finds masks."""


def _unpickled(kind: type[ImageResult], tensors: dict[str, Packed], extra: dict[str, Packed | Masks],
               others: dict[str, Any]) -> ImageResult:
    fields = {name: unpack(packed) for name, packed in tensors.items()} | others
    columns = {name: part if isinstance(part, Masks) else unpack(part) for name, part in extra.items()}
    return kind(extra=columns, **fields)


class Results(list[ImageResult]):
    """The results of several images, in their order: a list that prints as a table."""

    def __repr__(self) -> str:
        """A row for each image: its size and what was found in it."""
        rows = [(_shown_path(one.path), f"{one.image.shape[1]} x {one.image.shape[0]}", _counts(one))
                for one in self[:MAX_ROWS]]
        head = f"{_count(len(self), 'image')}, {_count(sum(map(len, self)), 'detection')}"
        return "\n".join([head, *_table(("image", "pixels", "found"), rows, len(self), left=(0, 2))])

    @overload
    def __getitem__(self, index: SupportsIndex) -> ImageResult: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: SupportsIndex | slice) -> ImageResult | Results:
        """One result, or some of them, which print as a table, too."""
        found = super().__getitem__(index)
        return found if isinstance(found, ImageResult) else Results(found)

    def to_json(self) -> str:
        """A JSON array with an object for each image, as ``detect.py --save-json`` writes it."""
        return f"[{','.join(f'{chr(10)}{one.to_json()}' for one in self)}\n]\n"

    def to_pandas(self) -> pandas.DataFrame:
        """All detections in one table: ``image`` (place in this list), ``path``, and the columns of a result."""
        pandas = import_pandas()
        tables = [one.to_pandas() for one in self] or [pandas.DataFrame(columns=list(COLUMNS))]
        images = [place for place, one in enumerate(self) for _ in range(len(one))]
        table = pandas.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
        table.insert(0, "image", images)
        table.insert(1, "path", [self[place].path for place in images])
        return table


# --- printing --------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], count: int, left: Sequence[int] = (0,)) -> list[str]:
    """Lines with columns below each other, numbers to the right; the last line says what is not shown."""
    if not rows:
        return []
    lines = aligned([head, *rows], left)
    return [f"  {line}" for line in (*lines, *([f"... and {count - len(rows)} more"] if count > len(rows) else []))]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _counts(one: ImageResult) -> str:
    """``4 person, 1 bus``: the most frequent classes first."""
    found = Counter(one._shown_name(label)[0] for label in one.labels.tolist()).most_common()
    kinds = ", ".join(f"{count} {name}" for name, count in found[:4])
    return f"{kinds}{', ...' if len(found) > 4 else ''}" or "nothing"


def _shown_path(path: str) -> str:
    text = readable(path) or "image"
    return text if len(text) <= MAX_NAME else f"...{text[3 - MAX_NAME:]}"


# --- what the methods need -------------------------------------------------------------------------------------


def _image_path(path: PathLike) -> Path:
    """Where an image can be written. Raises `InputError`."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"plot(), path: found a {type(path).__name__}; accepted: a path")
    target = Path(check_path(os.fspath(path), "plot(), path"))
    if target.suffix.lower() not in WRITABLE:
        raise InputError(f"plot(), path: found {str(target)!r}; accepted: a name that ends with {', '.join(WRITABLE)}"
                         f"{nearest(target.suffix.lower(), WRITABLE)}")
    if os.path.isdir(target):
        raise InputError(f"plot(), path: found {str(target)!r}, a folder; accepted: a file in it")
    if not os.path.isdir(target.parent):
        raise InputError(f"plot(), path: found {str(target)!r}; the folder {str(target.parent)!r} is not there; make "
                         "it first")
    return target
