"""The folder of a data set that is generated: in COCO layout, made on first use, complete or not there at all."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config import InputError, atomic_path, atomic_write
from yolov7.data.coco_annotations import join_parts
from yolov7.data.images import cv2
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
STAMP = "generated.json"
MIN_HOLE = 4.0  # pixels
Painted = tuple[np.ndarray, list[dict[str, Any]]]  # uint8 [H, W, 3] RGB, and COCO annotations without their ids


@dataclass(frozen=True)
class Generator:
    """Images that are functions of (seed, split, index) alone."""

    module: str  # which makes them
    title: str  # of progress and description
    version: int  # of images and annotations: a set of another version is generated anew
    categories: Sequence[dict[str, Any]]  # as in COCO JSON
    paint: Callable[[int, str, int], Painted]

    def write(self, folder: Path, counts: dict[str, int], seed: int) -> None:
        """Write the splits with so many images each, or return at once where they stand complete.

        ``annotations/{train,val}.json`` and ``images/{train,val}/*.jpg``. Everything is built in a temporary sibling
        folder, which takes its name at the end. A set with other parameters, of another version or with missing images
        is replaced; a folder that holds anything else is an `InputError`.
        """
        stamp = {"generator": self.module, "version": self.version, "seed": seed, **counts}
        if _is_complete(folder, stamp):
            return
        if not _read_stamp(folder, self.module) and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists and is not a generated data set; accepted: a new or empty folder")
        logger.info("generating %d images in %s", sum(counts.values()), folder)
        try:
            _remove_leftovers(folder)
            with atomic_path(folder) as temporary:
                temporary.mkdir(parents=True)
                for split in SPLITS:
                    self._write_split(temporary, split, counts[split], seed)
                atomic_write(temporary / STAMP, json.dumps(stamp))
                if _is_complete(folder, stamp):  # another process was faster
                    shutil.rmtree(temporary)
        except OSError as error:
            raise InputError(f"{folder}: the data set cannot be written: {error.strerror or error}") from None

    def _write_split(self, folder: Path, split: str, count: int, seed: int) -> None:
        target = folder / "images" / split
        target.mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in Progress(range(count), f"{self.title}, {split}", unit="images"):
            image, objects = self.paint(seed, split, index)
            name = f"{index + 1:06d}.jpg"
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            (target / name).write_bytes(encoded.tobytes())
            images.append({"id": index + 1, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
            annotations += [{"id": number, "image_id": index + 1, **found, "iscrowd": 0}
                            for number, found in enumerate(objects, len(annotations) + 1)]
        info = {"description": f"generated {self.title}, {split}", "version": str(self.version), "seed": seed}
        content = {"info": info, "licenses": [], "images": images, "categories": list(self.categories),
                   "annotations": annotations}
        (folder / "annotations").mkdir(exist_ok=True)
        atomic_write(folder / "annotations" / f"{split}.json", json.dumps(content))


def _read_stamp(folder: Path, module: str) -> dict[str, Any]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and stamp.get("generator") == module else {}


def _is_complete(folder: Path, stamp: dict[str, Any]) -> bool:
    images = {split: list((folder / "images" / split).glob("*.jpg")) for split in SPLITS}
    return _read_stamp(folder, stamp["generator"]) == stamp and all(
        len(images[split]) == stamp[split] and (folder / "annotations" / f"{split}.json").is_file() for split in SPLITS)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind; an hour is far more than a living one needs."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path.suffix in (".tmp", ".old") and time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


# --- outlines ----------------------------------------------------------------------------------------------------


def edges_of_mask(mask: np.ndarray) -> list[list[np.ndarray]]:
    """The parts of a mask ``[H, W]``, each as its outer edge and those of its holes: float32 ``[K, 2]`` x, y.

    Lines run along the edges of pixels, holes the other way around. Outermost parts come first; parts inside of a hole
    of another one follow.
    """
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    # doubled pixels 2x and 2x + 1 stand for the edges x and x + 1 of pixel x
    edges = [((contour[:, 0] + 1) // 2).astype(np.float32) for contour in contours]
    parents = hierarchy[0, :, 3].tolist() if edges else []
    depths = [_depth(index, parents) for index in range(len(edges))]  # of parts even, of holes odd
    parts = sorted((index for index, depth in enumerate(depths) if depth % 2 == 0), key=depths.__getitem__)
    holes = [[_without_repeats(edges[hole]) for hole, parent in enumerate(parents) if parent == part] for part in parts]
    return [[edges[part], *found] for part, found in zip(parts, holes, strict=True)]


def _without_repeats(line: np.ndarray) -> np.ndarray:
    kept: np.ndarray = line[(line != np.roll(line, 1, axis=0)).any(axis=1)]
    return kept


def _depth(index: int, parents: list[int]) -> int:
    depth = 0
    while (index := parents[index]) >= 0:
        depth += 1
    return depth


def outline(edges: list[np.ndarray]) -> np.ndarray:
    """The outer edge of a part and those of its holes as one closed line ``[K, 2]``; holes below 4 pixels are filled.

    The line goes to each hole and back along one bridge, so that area and even-odd fill are those of the part: COCO's
    polygons know no holes.
    """
    holes = [hole for hole in edges[1:] if cv2.contourArea(hole) >= MIN_HOLE]
    return join_parts([edges[0], *holes])
