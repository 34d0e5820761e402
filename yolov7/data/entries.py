"""Pictures and their objects as flat arrays, row by row as a data set lists them: joined, picked, tidied, cached.

An `ImageSet` is made of the usable ones. No loop over objects: there may be a million of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.data.image_set import Fault, ImageSet

SOURCE = "\0"  # stands in a reason for the file that the picture is named by: caches are kept when a folder moves
UNREADABLE = "cannot be read"  # begins the reasons that may go away without a change of the file
_LEAST_SIDE = 1e-3  # pixels; float32 does not tell narrower boxes from nothing


class Finding(NamedTuple):
    """A `Fault` whose file is known by its place."""

    entry: int  # the picture's row; -1: none
    about_picture: bool  # not about its annotations
    reason: str
    skipped: bool = True
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Entries:
    """I pictures, usable or not, with T objects, S outline points in all and K keypoints each (see `ImageSet`)."""

    sizes: np.ndarray  # int32 [I, 2] height, width; 0 where the picture cannot be used
    usable: np.ndarray  # bool [I]
    offsets: np.ndarray  # int64 [I + 1]
    boxes: np.ndarray  # float32 [T, 4]
    labels: np.ndarray  # int64 [T]
    points: np.ndarray  # float32 [S, 2]
    point_offsets: np.ndarray  # int64 [T + 1]
    keypoints: np.ndarray  # float32 [T, K, 3]
    findings: tuple[Finding, ...] = ()  # in the order of the pictures

    def __len__(self) -> int:
        return len(self.sizes)


class RawObjects(NamedTuple):
    """Objects as files describe them, in the order of their pictures."""

    counts: np.ndarray  # int64 [I] objects of each picture
    boxes: np.ndarray  # float64 [T, 4] xyxy native pixels
    labels: np.ndarray  # int64 [T]
    points: np.ndarray  # float32 [S, 2] native pixels
    lengths: np.ndarray  # int64 [T] outline points of each object
    keypoints: np.ndarray  # float32 [T, K, 3]


def starts_of(lengths: Any) -> np.ndarray:
    """Where runs of these lengths begin, and where the last one ends: int64 ``[N + 1]``."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def empty_entries(sizes: np.ndarray, findings: Sequence[Finding], keypoint_count: int = 0) -> Entries:
    """Pictures without any object; those without a size are not usable."""
    none = np.zeros(0, np.int64)
    raw = RawObjects(np.zeros(len(sizes), np.int64), np.zeros((0, 4)), none, np.zeros((0, 2), np.float32), none,
                     np.zeros((0, keypoint_count, 3), np.float32))
    return tidy(raw, sizes, sizes[:, 0] > 0, findings, str)


# --- join and pick ---------------------------------------------------------------------------------------------


def join(parts: Sequence[Entries]) -> Entries:
    """Entries one behind the other."""
    first_rows = starts_of([len(part) for part in parts])
    findings = [
        finding._replace(entry=finding.entry + first)
        for part, first in zip(parts, first_rows.tolist(), strict=False) for finding in part.findings
    ]
    columns = {name: np.concatenate([getattr(part, name) for part in parts])
               for name in ("sizes", "usable", "boxes", "labels", "points", "keypoints")}
    offsets, point_offsets = (
        starts_of(np.concatenate([np.diff(getattr(part, name)) for part in parts]))
        for name in ("offsets", "point_offsets")
    )
    return Entries(offsets=offsets, point_offsets=point_offsets, findings=tuple(findings), **columns)


def take(entries: Entries, rows: np.ndarray) -> Entries:
    """These rows (int64 ``[N]``) in this order."""
    if np.array_equal(rows, np.arange(len(entries))):
        return entries
    objects, counts = _runs(entries.offsets, rows)
    points, lengths = _runs(entries.point_offsets, objects)
    of_row: dict[int, list[Finding]] = {}
    for finding in entries.findings:
        of_row.setdefault(finding.entry, []).append(finding)
    places = enumerate(rows.tolist()) if of_row else ()
    findings = [item._replace(entry=place) for place, row in places for item in of_row.get(row, ())]
    return Entries(
        sizes=entries.sizes[rows],
        usable=entries.usable[rows],
        offsets=starts_of(counts),
        boxes=entries.boxes[objects],
        labels=entries.labels[objects],
        points=entries.points[points],
        point_offsets=starts_of(lengths),
        keypoints=entries.keypoints[objects],
        findings=tuple(findings),
    )


def _runs(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all elements of these runs, and the length of each run."""
    lengths = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(offsets[rows] - (ends - lengths), lengths) + np.arange(total), lengths


# --- tidy ------------------------------------------------------------------------------------------------------


def tidy(
    raw: RawObjects, sizes: np.ndarray, usable: np.ndarray, findings: Sequence[Finding], where: Callable[[int], str]
) -> Entries:
    """Clip objects to their pictures; drop and list those without area, outside the picture, or repeated.

    Objects of pictures that are not ``usable`` go without a word. ``where(t)`` is the place of object ``t`` in its
    file, for messages.
    """
    owners = np.repeat(np.arange(len(sizes)), raw.counts)  # [T]
    limits = sizes[owners][:, ::-1]  # [T, 2] width, height
    clipped = np.clip(raw.boxes, 0, np.tile(limits, 2))
    zero = ((raw.boxes[:, 2:] - raw.boxes[:, :2]) < _LEAST_SIDE).any(1)
    outside = ((clipped[:, 2:] - clipped[:, :2]) < _LEAST_SIDE).any(1)
    kept = usable[owners] & ~zero & ~outside
    candidates = np.flatnonzero(kept)
    keys = np.column_stack((owners, raw.labels, clipped))[candidates]
    kept[candidates[_repeated(keys)]] = False
    found = list(findings)
    for t in np.flatnonzero(~kept & usable[owners]).tolist():
        width, height = raw.boxes[t, 2:] - raw.boxes[t, :2]
        reason = "the same class and box as an earlier one"
        if zero[t]:
            reason = f"a box of zero size ({width:g} x {height:g} px)"
        elif outside[t]:
            reason = f"a box outside the picture of {limits[t, 0]} x {limits[t, 1]} px"
        found.append(Finding(int(owners[t]), False, f"{where(t)}: {reason}; the object is dropped", skipped=False))
    chosen = np.repeat(kept, raw.lengths)  # [S]
    corners = np.repeat(limits[kept].astype(np.float32), raw.lengths[kept], axis=0)
    points = np.clip(raw.points[chosen], 0, corners)
    return Entries(
        sizes=np.asarray(sizes, np.int32),
        usable=usable,
        offsets=starts_of(np.bincount(owners[kept], minlength=len(sizes))),
        boxes=clipped[kept].astype(np.float32),
        labels=raw.labels[kept],
        points=points,
        point_offsets=starts_of(raw.lengths[kept]),
        keypoints=raw.keypoints[kept],
        findings=tuple(sorted(found, key=lambda finding: finding.entry)),
    )


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Which rows of ``[N, M]`` equal an earlier one: bool ``[N]``."""
    order = np.lexsort(keys.T)  # stable
    rows = keys[order]
    mask = np.zeros(len(keys), bool)
    mask[order[1:]] = (rows[1:] == rows[:-1]).all(1)
    return mask


# --- image set -------------------------------------------------------------------------------------------------


def faults_of(entries: Entries, pictures: Sequence[str], annotations: Sequence[str] | str, source: str) -> list[Fault]:
    """What was found, with file names; ``annotations`` are the label files, or the one file for all pictures."""
    faults = []
    for entry, about_picture, reason, skipped, kept in entries.findings:
        file = annotations if isinstance(annotations, str) else annotations[entry]
        path = pictures[entry] if about_picture else file
        faults.append(Fault(path, reason.replace(SOURCE, source), skipped, kept))
    return faults


def image_set_of(
    entries: Entries, pictures: Sequence[str], image_ids: Sequence[int | str], faults: Sequence[Fault], source: str,
    **described: Any,
) -> ImageSet:
    """The usable pictures; ``image_ids`` are theirs. Without any: `InputError` with the first reasons.

    ``described`` are the fields of `ImageSet` that are not about its pictures.
    """
    if not entries.usable.any():
        reasons = "; ".join(map(str, faults[:3])) or "it names no picture"
        raise InputError(f"{source}: no usable picture ({len(faults)} skipped): {reasons}")
    rows = np.flatnonzero(entries.usable)
    chosen = take(replace(entries, findings=()), rows)
    return ImageSet(
        paths=tuple(pictures) if len(rows) == len(pictures) else tuple(pictures[row] for row in rows.tolist()),
        image_ids=tuple(image_ids),
        sizes=chosen.sizes,
        offsets=chosen.offsets,
        boxes=chosen.boxes,
        labels=chosen.labels,
        points=chosen.points,
        point_offsets=chosen.point_offsets,
        keypoints=chosen.keypoints,
        faults=tuple(faults),
        **described,
    )
