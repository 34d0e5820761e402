"""A split of a data set in memory: pictures, objects as flat arrays, and what is wrong with either.

Flat arrays with offsets, because processes that are forked share them and nothing is copied (a list of small
arrays is copied page by page, as soon as its reference counts change).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config import write_atomically

logger = logging.getLogger(__name__)

SHOWN_FAULTS = 10
_NO_POINTS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file, and what was done about it."""

    path: str
    reason: str
    skipped: bool = True  # the whole picture, not only an object
    kept: bool = False  # the object stays, without what is wrong about it

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures with their objects in native pixels; I pictures, T objects, S outline points in all, K keypoints each.

    Objects of picture ``i`` are rows ``offsets[i]:offsets[i + 1]``; outline points of object ``t`` are rows
    ``point_offsets[t]:point_offsets[t + 1]`` (none where only the box is known). Labels count from 0;
    ``category_ids[label]`` is the number of the class in COCO JSON. K is 0 where no class has keypoints; an object
    without keypoints has zeros. Visibility is 0 (not labelled: x and y are 0), 1 (hidden) or 2 (visible).
    """

    paths: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    sizes: np.ndarray  # int32 [I, 2] height, width; EXIF orientation applied
    offsets: np.ndarray  # int64 [I + 1]
    boxes: np.ndarray  # float32 [T, 4] xyxy
    labels: np.ndarray  # int64 [T]
    points: np.ndarray  # float32 [S, 2]
    point_offsets: np.ndarray  # int64 [T + 1]
    keypoints: np.ndarray  # float32 [T, K, 3] x, y, visibility
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()  # K names
    faults: tuple[Fault, ...] = ()
    annotation_file: str | None = None  # the COCO JSON that this was read from
    split: str = ""
    merged_ids: tuple[int, ...] = ()  # categories of the JSON that are one class here (see `classes.merge_classes`)

    def __len__(self) -> int:
        return len(self.paths)

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """Boxes ``[N, 4]``, labels ``[N]`` and N outlines of one picture: views, not to be written to."""
        first, last = self.offsets[index], self.offsets[index + 1]
        bounds = self.point_offsets[first : last + 1]
        segments = tuple(self.points[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True))
        return self.boxes[first:last], self.labels[first:last], segments

    def keypoints_of(self, index: int) -> np.ndarray:
        """Keypoints ``[N, K, 3]`` of one picture, in the order of `objects`: a view, not to be written to."""
        return self.keypoints[self.offsets[index] : self.offsets[index + 1]]

    @property
    def background_count(self) -> int:
        """Pictures without objects."""
        return int((np.diff(self.offsets) == 0).sum())

    def ground_truth(self) -> dict[str, Any]:
        """The objects as a COCO dict for scoring.

        A JSON file's own content where there is one: crowds, boxes of zero size and skipped pictures included,
        without the categories that are no class here.
        Otherwise built from the objects, annotations numbered from 1.
        """
        if self.annotation_file is not None:
            with open(self.annotation_file, encoding="utf-8") as stream:
                return self._of_classes(json.load(stream))
        images = [
            {"id": image_id, "file_name": Path(path).name, "height": int(size[0]), "width": int(size[1])}
            for image_id, path, size in zip(self.image_ids, self.paths, self.sizes, strict=True)
        ]
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.names, strict=True)]
        return {"images": images, "annotations": self._annotations(), "categories": categories}

    def _of_classes(self, content: dict[str, Any]) -> dict[str, Any]:
        kept = frozenset(self.merged_ids or self.category_ids)
        annotations = [a for a in content.get("annotations", ()) if a["category_id"] in kept]
        categories = [c for c in content["categories"] if c["id"] in kept]
        if self.merged_ids:
            annotations = [a | {"category_id": self.category_ids[0]} for a in annotations]
            categories = [{"id": self.category_ids[0], "name": self.names[0]}]
        return content | {"annotations": annotations, "categories": categories}

    def _annotations(self) -> list[dict[str, Any]]:
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)  # x, y, width, height
        return [
            {
                "id": number,
                "image_id": self.image_ids[owner],
                "category_id": self.category_ids[label],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (owner, label, box) in enumerate(
                zip(owners.tolist(), self.labels.tolist(), boxes.tolist(), strict=True), 1
            )
        ]


def no_outline() -> np.ndarray:
    """The outline of an object of which only the box is known."""
    return _NO_POINTS


# --- reporting -------------------------------------------------------------------------------------------------


def report_faults(image_set: ImageSet, folder: Path | None) -> None:
    """Log how much there is and what is wrong with it; all faults go to ``<folder>/faults_<split>.txt``."""
    split, faults = image_set.split, image_set.faults
    summary = (
        f"{split}: {len(image_set)} pictures ({image_set.background_count} without objects), "
        f"{len(image_set.labels)} objects"
    )
    if not faults:
        logger.info("%s", summary)
        return
    skipped, kept = sum(fault.skipped for fault in faults), sum(fault.kept for fault in faults)
    mended = f", kept without an outline or keypoints: {kept}" if kept else ""
    written = ""
    if folder is not None:
        file = folder / f"faults_{split}.txt"
        write_atomically(file, "".join(f"{fault}\n" for fault in faults))
        written = f", all in {file}"
    shown = "".join(f"\n  {fault}" for fault in faults[:SHOWN_FAULTS])
    logger.warning(
        "%s; skipped: %d pictures, dropped: %d objects%s%s; the first:%s",
        summary, skipped, len(faults) - skipped - kept, mended, written, shown,
    )
