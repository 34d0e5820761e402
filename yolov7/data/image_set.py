"""`ImageSet`: the images of a split with their objects; what is wrong with them; a choice of classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config import InputError, atomic_write, unknown
from yolov7.data.coco_content import FAULTS, read_annotations
from yolov7.data.objects import Objects, starts_of
from yolov7.data.outlines import segmentation_of
from yolov7.keypoints import KeypointLayout, complete_layout

logger = logging.getLogger(__name__)

SHOWN_FAULTS = 10
SINGLE = "object"  # the class of single-class mode
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # numbers below 91 that are no class of COCO 2017
COCO_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file, and what was done about it."""

    path: str
    reason: str
    skipped: bool = True  # the whole image, not only an object
    kept: bool = False  # the object stays, without what is wrong about it

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """I images with their objects in native pixels.

    Objects of image ``i`` are rows ``offsets[i]:offsets[i + 1]`` of the table. Labels count from 0;
    ``category_ids[label]`` is the number of the class in COCO JSON. An object without key points has zeros; visibility
    is 0 (not labelled: x and y are 0), 1 (hidden) or 2 (visible).
    """

    paths: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    sizes: np.ndarray  # int32 [I, 2] height, width; EXIF orientation applied
    offsets: np.ndarray  # int64 [I + 1]
    objects: Objects
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()  # of the key points of an object; none where no class has some
    keypoint_flip: tuple[int, ...] = ()  # which one each becomes in a mirrored image; none: not known
    keypoint_limbs: tuple[tuple[int, int], ...] = ()  # pairs that are drawn as lines; none: not known
    keypoint_sigmas: tuple[float, ...] = ()  # of OKS; none: not known
    faults: tuple[Fault, ...] = ()
    annotation_file: str | None = None  # the COCO JSON that this was read from
    split: str = ""
    unlabelled: str = ""  # where label files were looked for, if not one image has one
    merged_ids: tuple[int, ...] = ()  # categories of the JSON that are one class here (see `merge_classes`)
    is_part: bool = False  # of the images that the JSON file has (see `yolov7.data.subsets`)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def keypoint_layout(self) -> KeypointLayout:
        """What the key points of an object are, COCO's where the names are COCO's."""
        return complete_layout(self.keypoint_names, self.keypoint_limbs, self.keypoint_flip, self.keypoint_sigmas)

    def objects_of(self, index: int) -> Objects:
        """The objects of one image: views."""
        return self.objects[self.offsets[index] : self.offsets[index + 1]]

    @property
    def image_index(self) -> np.ndarray:
        """The image of each object: int64 ``[T]``."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def only(self, mask: np.ndarray) -> ImageSet:
        """Of the objects only these, bool ``[T]``; all images stay."""
        if mask.all():
            return self
        return replace(self, objects=self.objects[mask], offsets=starts_of(mask)[self.offsets])

    @property
    def background_count(self) -> int:
        """Images without objects."""
        return int((np.diff(self.offsets) == 0).sum())

    def ground_truth(self, shapes: bool = True) -> dict[str, Any]:
        """The objects as a COCO dict for scoring.

        A JSON file's own content where there is one: crowds, boxes of zero size and skipped images included,
        without the categories that are no class here.
        Otherwise built from the objects, annotations numbered from 1; with ``shapes`` their polygons and key points,
        too.
        """
        if self.annotation_file is not None:
            content = read_annotations(Path(self.annotation_file))
            del content[FAULTS]  # they were told when the split was opened
            return self._of_classes(content)
        images = [{"id": image_id, "file_name": Path(path).name, "height": int(size[0]), "width": int(size[1])}
                  for image_id, path, size in zip(self.image_ids, self.paths, self.sizes, strict=True)]
        points = {"keypoints": list(self.keypoint_names)} if shapes and self.keypoint_names else {}
        categories = [{"id": i, "name": name} | points for i, name in zip(self.category_ids, self.names, strict=True)]
        return {"images": images, "annotations": self._annotations(shapes), "categories": categories}

    def _of_classes(self, content: dict[str, Any]) -> dict[str, Any]:
        kept = frozenset(self.merged_ids or self.category_ids)
        annotations = [a for a in content.get("annotations", ()) if a["category_id"] in kept]
        categories = [c for c in content["categories"] if c["id"] in kept]
        if self.merged_ids:
            annotations = [a | {"category_id": self.category_ids[0]} for a in annotations]
            categories = [{"id": self.category_ids[0], "name": self.names[0]}]
        if self.is_part:
            own = frozenset(self.image_ids)
            content = content | {"images": [image for image in content["images"] if image["id"] in own]}
            annotations = [a for a in annotations if a["image_id"] in own]
        return content | {"annotations": annotations, "categories": categories}

    def _annotations(self, shapes: bool) -> list[dict[str, Any]]:
        corners = self.objects.boxes.astype(np.float64)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)  # x, y, width, height
        rows = zip(self.image_index.tolist(), self.objects.labels.tolist(), boxes.tolist(),
                   self.objects.areas.tolist(), self.objects.crowd.tolist(), strict=True)
        annotations = [{"id": number, "image_id": self.image_ids[image], "category_id": self.category_ids[label],
                        "bbox": box, "area": area, "iscrowd": int(crowd)}
                       for number, (image, label, box, area, crowd) in enumerate(rows, 1)]
        return [{**row, **shape} for row, shape in zip(annotations, self._shapes(), strict=True)] if shapes \
            else annotations

    def _shapes(self) -> Iterator[dict[str, Any]]:
        """``segmentation`` of the objects with a polygon; ``keypoints`` and their number where objects have some."""
        objects, sizes = self.objects, self.sizes.tolist()
        has_keypoints = objects.keypoints.shape[1] > 0
        rows = zip(self.image_index.tolist(), objects.polygons, objects.keypoints, strict=True)
        for image, polygon, keypoints in rows:
            shape: dict[str, Any] = {}
            if len(polygon):
                shape["segmentation"] = segmentation_of(polygon, tuple(sizes[image]))[0]
            if has_keypoints:
                shape |= {"keypoints": keypoints.astype(np.float64).ravel().tolist(),
                          "num_keypoints": int((keypoints[:, 2] > 0).sum())}
            yield shape


# --- reporting -------------------------------------------------------------------------------------------------


def report_faults(image_set: ImageSet, folder: Path | None) -> None:
    """Log how much there is and what is wrong with it; all faults go to ``<folder>/faults_<split>.txt``."""
    split, faults = image_set.split, image_set.faults
    summary = (f"{split}: {len(image_set)} images ({image_set.background_count} without objects), "
               f"{len(image_set.objects)} objects")
    if not faults:
        logger.info("%s", summary)
        return
    skipped, kept = sum(fault.skipped for fault in faults), sum(fault.kept for fault in faults)
    mended = f", kept without a polygon or key points: {kept}" if kept else ""
    written = ""
    if folder is not None:
        file = folder / f"faults_{split}.txt"
        atomic_write(file, "".join(f"{fault}\n" for fault in faults))
        written = f", all in {file}"
    shown = "".join(f"\n  {fault}" for fault in faults[:SHOWN_FAULTS])
    logger.warning("%s; skipped: %d images, dropped: %d objects%s%s; the first:%s",
                   summary, skipped, len(faults) - skipped - kept, mended, written, shown)


def report_left_out(image_set: ImageSet, left_out: Sequence[str], folder: Path) -> None:
    """Log the images that an evaluation could not read, and add them to the list of faults."""
    file = folder / f"faults_{image_set.split}.txt"
    atomic_write(file, "".join(f"{fault}\n" for fault in (*image_set.faults, *left_out)))
    shown = "".join(f"\n  {reason}" for reason in left_out[:SHOWN_FAULTS])
    logger.warning("%s: %d of %d images cannot be read and are left out: scores are those of the others, and the COCO "
                   "results have nothing of them; all in %s, the first:%s", image_set.split, len(left_out),
                   len(image_set), file, shown)


# --- classes ---------------------------------------------------------------------------------------------------


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """COCO's numbers for its 80 classes, which have gaps; for other classes 1, 2, ... in their order."""
    is_coco = len(names) == len(COCO_IDS) and (names[0], names[-1]) == ("person", "toothbrush")
    return COCO_IDS if is_coco else tuple(range(1, len(names) + 1))


def class_indices(chosen: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Classes given as names or numbers (a name that looks like a number is a name) -> indices, in that order."""
    for name in chosen:
        if name not in names and not (name.isdecimal() and int(name) < len(names)):
            raise InputError(f"--classes: {unknown('class', name, names)} or 0 to {len(names) - 1}")
    return tuple(names.index(name) if name in names else int(name) for name in chosen)


def class_names(names: tuple[str, ...], classes: Sequence[str], single_cls: bool) -> tuple[str, ...]:
    """The names that are left of ``names`` by `choose_classes`: known before any image is read."""
    chosen = tuple(names[i] for i in sorted(set(class_indices(classes, names)))) if classes else names
    return (SINGLE,) if single_cls else chosen


def choose_classes(image_set: ImageSet, classes: Sequence[str], single_cls: bool) -> ImageSet:
    """What ``--classes`` (none: all) and ``--single-cls`` make of a split."""
    if classes:
        image_set = select_classes(image_set, classes)
    return merge_classes(image_set) if single_cls else image_set


def select_classes(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """Only the objects of these classes (names or numbers); all images stay.

    Labels are renumbered in the order of the data set, whatever the order of ``classes``; categories keep their ids.
    Raises `InputError` for an unknown class, and where there are objects, but none of these classes.
    """
    kept = sorted(set(class_indices(classes, image_set.names)))
    names = tuple(image_set.names[i] for i in kept)
    mask = np.isin(image_set.objects.labels, kept)  # [T]
    if len(mask) and not mask.any():
        present = ", ".join(image_set.names[i] for i in np.unique(image_set.objects.labels))
        raise InputError(f"--classes: none of the {len(mask)} objects of the split {image_set.split!r} is of "
                         f"{', '.join(names)}; accepted: classes with objects: {present}")
    return _of_classes(image_set, kept)


def without_classes(image_set: ImageSet, names: Sequence[str]) -> ImageSet:
    """Without these classes, of which there is no object."""
    if not names:
        return image_set
    return _of_classes(image_set, [i for i, name in enumerate(image_set.names) if name not in names])


def _of_classes(image_set: ImageSet, kept: list[int]) -> ImageSet:
    """Only these classes, renumbered in this order, and their objects."""
    new_label = np.full(len(image_set.names), -1)
    new_label[kept] = np.arange(len(kept))
    labels = new_label[image_set.objects.labels]  # [T]
    chosen = image_set.only(labels >= 0)
    return replace(chosen, objects=replace(chosen.objects, labels=labels[labels >= 0]),
                   names=tuple(image_set.names[i] for i in kept),
                   category_ids=tuple(image_set.category_ids[i] for i in kept))


def rename_classes(image_set: ImageSet, names: tuple[str, ...], where: str) -> ImageSet:
    """The classes called and ordered as ``names`` of the data set (``where``) say.

    Names that both have are the same classes, in whatever order. Where only some are the same, and they stand at the
    same places, or none is, the data set gives other names, class by class in the order of their ids, which is said.
    Raises `InputError` for everything between.
    """
    own = image_set.names
    if names == own:
        return image_set
    file = image_set.annotation_file or where
    if set(names) == set(own):
        logger.info("%s: its categories are taken by their names, in the order of %s: %s", file, where,
                    ", ".join(names[:20]))
        order = np.array([own.index(name) for name in names])
        labels = np.argsort(order)[image_set.objects.labels]
        return replace(image_set, objects=replace(image_set.objects, labels=labels), names=names,
                       category_ids=tuple(image_set.category_ids[i] for i in order.tolist()))
    if len(names) != len(own):
        raise InputError(f"{file}: has {len(own)} categories ({', '.join(own)}), but the data set names {len(names)} "
                         f"classes ({', '.join(names)})")
    if displaced(names, own):
        raise InputError(f"{file}: has the categories {', '.join(own)}, but {where} has {', '.join(names)}; accepted: "
                         "the same names in any order, or other names at the places of some")
    logger.info("%s: its categories are renamed: %s", file,
                ", ".join(f"{a} -> {b}" for a, b in list(zip(own, names, strict=True))[:20] if a != b))
    return replace(image_set, names=names)


def displaced(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that both of two lists of one length have, at other places: these lists do not tell which is which."""
    return [name for place, name in enumerate(names) if name in others and others[place] != name]


def merge_classes(image_set: ImageSet, name: str = SINGLE) -> ImageSet:
    """All objects as one class, which is category 1 for scoring."""
    objects = replace(image_set.objects, labels=np.zeros_like(image_set.objects.labels))
    return replace(image_set, objects=objects, names=(name,), category_ids=(1,), merged_ids=image_set.category_ids)
