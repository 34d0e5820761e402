"""Rows of YOLO label files -> `Objects`: boxes, polygons, key points (docs/reference.md, Label files)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yolov7.config import InputError
from yolov7.config.schema import shown
from yolov7.data.formats import Keypoints
from yolov7.data.objects import Objects, Ragged, no_objects, starts_of
from yolov7.data.regular import read_regular
from yolov7.data.scan import UNREADABLE, Entries, Finding, are_corners, read_headers, tidy
from yolov7.data.text import decode_text

MAX_LABELS = 1 << 26  # bytes of a label file
TOLERANCE = 1e-2  # by which a normalised value may leave 0 ... 1: it is clipped
_BOX = 5  # columns
_BOXES_OR_POLYGONS = "5 columns (class cx cy w h), or an odd number from 7 on (class x1 y1 x2 y2 x3 y3 ...)"
_FEW, _ENOUGH = 3, 8  # rows that agree: below the first they say nothing, from the second on also what is likely
_SAMPLE = 100  # rows that are looked at
_THIN = 0.3  # objects fill more than half of their boxes, mostly; a box and points read as a polygon 0.1 to 0.24


class _LabelError(Exception):
    """Why a label file cannot be used, without its name."""


class _Rows(NamedTuple):
    """The numbers of all rows of some label files."""

    values: np.ndarray  # float64 [V]; a row without numbers has one NaN
    lengths: np.ndarray  # int64 [R] values of each row
    files: np.ndarray  # int64 [R] file of each row
    lines: np.ndarray  # int64 [R] its line, from 1
    texts: list[str]  # of the files


def scan_labels(images: Sequence[str], label_files: Sequence[str], num_classes: int,
                keypoints: Keypoints | None = None) -> Entries:
    """Headers of images and rows of their label files.

    Raises `InputError` for a class index out of range, and for key points that nothing announces.
    """
    sizes, findings = read_headers(images)
    usable = sizes[:, 0] > 0
    rows = _read_rows(label_files, usable, findings)
    if keypoints is None and (shape := unannounced_keypoints(rows.values, rows.lengths)):
        raise InputError(
            f"{label_files[int(rows.files[0])]}: its rows have {rows.lengths[0]} columns that read as a box and key "
            f"points, as those of pose labels do; accepted: `kpt_shape: {list(shape)}` in the data set's YAML, where "
            f"they are; else {_BOXES_OR_POLYGONS}")
    bad = _bad_rows(rows, num_classes, keypoints)
    for t in np.flatnonzero(bad).tolist():
        file, line = int(rows.files[t]), int(rows.lines[t])
        if not usable[file]:
            continue  # one reason is enough
        try:
            check_row(rows.texts[file].splitlines()[line - 1].split(), num_classes, keypoints)
        except _LabelError as error:
            findings.append(Finding(file, False, f"line {line}: {error}; the image is skipped"))
            usable[file] = False
        except InputError as error:
            raise InputError(f"{label_files[file]}, line {line}: {error}") from None
    good = usable[rows.files]
    if keypoints is None and (row := _row_of_corners(rows, good)) is not None:
        raise InputError(
            f"{label_files[int(rows.files[row])]}, line {rows.lines[row]}: this and the other boxes read as two "
            "corners (class x1 y1 x2 y2); accepted: centre and size (class cx cy w h)")
    objects = _objects(rows, good, sizes, keypoints)
    lines = rows.lines[good]
    if keypoints is not None:
        findings += _left_out_points(rows, good, keypoints)
    counts = np.bincount(rows.files[good], minlength=len(sizes))
    return tidy(objects, counts, sizes, usable, findings, lambda t: f"line {lines[t]}")


def _read_rows(label_files: Sequence[str], usable: np.ndarray, findings: list[Finding]) -> _Rows:
    values, lengths, files, lines, texts = array("d"), array("q"), array("q"), array("q"), []
    for number, file in enumerate(label_files):
        text = _read_text(number, file, usable, findings) if usable[number] else ""
        texts.append(text)
        plain = text.isascii() and "_" not in text  # else Python reads numbers that are none: 1_0
        for line, row in enumerate(text.splitlines(), 1):
            columns = row.split()
            if not columns:
                continue
            start = len(values)
            try:
                values.extend(map(float if plain else _number, columns))
            except (ValueError, _LabelError):
                del values[start:]
                values.append(math.nan)
            lengths.append(len(values) - start)
            files.append(number)
            lines.append(line)
    return _Rows(np.array(values), np.array(lengths), np.array(files), np.array(lines), texts)


def _read_text(number: int, file: str, usable: np.ndarray, findings: list[Finding]) -> str:
    """The text of a label file; empty where there is none, or where it cannot be read."""
    try:
        text = decode_text(read_regular(file, MAX_LABELS))[0]
    except FileNotFoundError:
        return ""
    except OSError as error:
        reason = f"{UNREADABLE} ({error.strerror})"
    else:
        if "\0" not in text:
            return text
        reason = f"{UNREADABLE} as text (holds zeros)"
    findings.append(Finding(number, False, f"{reason}; the image is skipped"))
    usable[number] = False
    return ""


def _bad_rows(rows: _Rows, num_classes: int, keypoints: Keypoints | None) -> np.ndarray:
    """Which rows `check_row` refuses: bool ``[R]``."""
    starts = starts_of(rows.lengths)[:-1]
    labels = rows.values[starts]
    place = np.arange(len(rows.values)) - np.repeat(starts, rows.lengths)  # in its row
    outside = ~((rows.values >= -TOLERANCE) & (rows.values <= 1 + TOLERANCE))  # NaN is outside as well
    if keypoints is not None:  # they may be anywhere where they are not visible
        outside = np.where(place >= _BOX, ~np.isfinite(rows.values), outside)
    outside[place == 0] = False
    label_fits = (labels == np.floor(labels)) & (labels >= 0) & (labels < num_classes)
    values_fit = ~np.logical_or.reduceat(outside, starts) if len(starts) else np.zeros(0, bool)
    bad: np.ndarray = ~(_columns_fit(rows.lengths, keypoints) & label_fits & values_fit)
    return bad


def _row_of_corners(rows: _Rows, good: np.ndarray) -> int | None:
    """The first of the boxes, where they are no boxes but corners."""
    chosen = np.flatnonzero(good & (rows.lengths == _BOX))
    starts = starts_of(rows.lengths)[:-1][chosen]
    values = rows.values[starts[:, None] + np.arange(1, _BOX)] if len(chosen) else np.zeros((0, 4))
    ones = np.ones((len(chosen), 2))
    return int(chosen[0]) if are_corners(values, _corners(values, ones), ones) else None


def _columns_fit(lengths: np.ndarray, keypoints: Keypoints | None) -> np.ndarray:
    fit: np.ndarray
    if keypoints is not None:
        fit = (lengths == _BOX) | (lengths == _BOX + keypoints.columns)
        return fit
    fit = (lengths == _BOX) | ((lengths >= 7) & (lengths % 2 == 1))
    return fit


def _objects(rows: _Rows, good: np.ndarray, sizes: np.ndarray, keypoints: Keypoints | None) -> Objects:
    """The good rows in native pixels; boxes are float64."""
    lengths = rows.lengths[good]
    values = rows.values[np.repeat(good, rows.lengths)]
    starts = starts_of(lengths)[:-1]
    labels = values[starts].astype(np.int64)
    width_height = sizes[rows.files[good]][:, ::-1].astype(np.float64)  # [R, 2]
    if keypoints is not None:
        points = _keypoints(values, starts, lengths, width_height, keypoints)
        box = values[starts[:, None] + np.arange(1, _BOX)] if len(starts) else np.zeros((0, 4))
        boxes = _corners(box.clip(0, 1), width_height)
        return no_objects(len(keypoints.names)).like(boxes, labels, keypoints=points)
    is_box = lengths == _BOX
    coordinate = np.ones(len(values), bool)
    coordinate[starts] = False
    of_box = np.repeat(is_box, lengths)
    np.clip(values, 0, 1, out=values)
    boxes = np.zeros((len(lengths), 4))
    boxes[is_box] = _corners(values[coordinate & of_box].reshape(-1, 4), width_height[is_box])
    counts = np.where(is_box, 0, (lengths - 1) // 2)
    points = values[coordinate & ~of_box].reshape(-1, 2)
    points = (points * np.repeat(width_height, counts, axis=0)).astype(np.float32)
    if len(points):
        firsts = starts_of(counts[~is_box])[:-1]
        boxes[~is_box] = np.column_stack((np.minimum.reduceat(points, firsts), np.maximum.reduceat(points, firsts)))
    return no_objects().like(boxes, labels, polygons=Ragged(points, counts))


def _corners(boxes: np.ndarray, width_height: np.ndarray) -> np.ndarray:
    """Normalised cxcywh ``[N, 4]`` -> xyxy pixels."""
    centres = boxes * np.tile(width_height, 2)
    return np.concatenate((centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2), axis=1)


def _keypoints(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width_height: np.ndarray,
               keypoints: Keypoints) -> np.ndarray:
    """float32 ``[R, K, 3]``: zeros where a row has none, or a point is not labelled or outside of the image."""
    found = np.zeros((len(starts), len(keypoints.names), 3))
    rows, place, visibility = _points(values, starts, lengths, keypoints)
    found[rows, :, :2] = place.clip(0, 1) * width_height[rows][:, None]
    found[rows, :, 2] = visibility
    found[rows] *= (_is_inside(place) & np.isin(visibility, (1, 2)))[..., None]
    return found.astype(np.float32)


def _points(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray,
            keypoints: Keypoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows have key points, ``[R']``, their places as they are written, ``[R', K, 2]``, visibility ``[R', K]``.

    Without a column of visibility a point is visible, unless it is at 0, 0 or negative, as tools write missing ones.
    """
    rows = np.flatnonzero(lengths > _BOX)
    columns = starts[rows][:, None] + np.arange(_BOX, _BOX + keypoints.columns)
    points = values[columns].reshape(len(rows), len(keypoints.names), keypoints.values)
    place = points[..., :2]
    missing = (place < 0).any(-1) | (place == 0).all(-1)
    return rows, place, points[..., 2] if keypoints.values == 3 else np.where(missing, 0, 2)


def _is_inside(place: np.ndarray) -> np.ndarray:
    inside: np.ndarray = np.all((place >= -TOLERANCE) & (place <= 1 + TOLERANCE), axis=-1)
    return inside


def _left_out_points(rows: _Rows, good: np.ndarray, keypoints: Keypoints) -> list[Finding]:
    """Labelled points outside of the image, and those whose visibility says nothing."""
    chosen = np.flatnonzero(good)
    starts = starts_of(rows.lengths)[:-1][chosen]
    having, place, visibility = _points(rows.values, starts, rows.lengths[chosen], keypoints)
    odd: np.ndarray = ~np.isin(visibility, (0, 1, 2))
    outside: np.ndarray = ~_is_inside(place) & (visibility > 0) & ~odd
    found = []
    for t in np.flatnonzero((outside | odd).any(1)).tolist():
        row = int(chosen[having[t]])
        reasons = [f"labelled key points outside the image: {outside[t].sum()}"] if outside[t].any() else []
        reasons += [f"key points with a visibility other than 0, 1 and 2: {odd[t].sum()}"] if odd[t].any() else []
        reason = f"line {rows.lines[row]}: {', '.join(reasons)}; they are left out"
        found.append(Finding(int(rows.files[row]), False, reason, skipped=False, kept=True))
    return found


# --- one row -----------------------------------------------------------------------------------------------------


def check_row(columns: Sequence[str], num_classes: int, keypoints: Keypoints | None = None) -> None:
    """Say what is wrong with a row: a box, a polygon, or a box with key points, normalised."""
    if not _columns_fit(np.array([len(columns)]), keypoints).all():
        accepted = _BOXES_OR_POLYGONS if keypoints is None else (
            f"5 columns (class cx cy w h), or {_BOX + keypoints.columns} with {len(keypoints.names)} key points of "
            f"{keypoints.values} values (kpt_shape)")
        raise _LabelError(f"{len(columns)} columns; accepted: {accepted}")
    label, *values = map(_number, columns)
    if label != int(label):
        raise _LabelError(f"class {columns[0][:20]}; accepted: a whole number")
    if not 0 <= label < num_classes:
        raise InputError(f"found class index {columns[0][:20]}; accepted: 0 to {num_classes - 1}")
    checked = values if keypoints is None else values[:4]
    if min(checked) < -TOLERANCE or max(checked) > 1 + TOLERANCE:
        worst = max(checked, key=lambda value: abs(value - 0.5))
        raise _LabelError(f"the value {worst:g}; accepted: 0 to 1 (fractions of width and height)")


def _number(text: str) -> float:
    try:
        value = float(text if text.isascii() and "_" not in text else "")
    except ValueError:
        raise _LabelError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise _LabelError(f"{shown(text)} is not a finite number")
    return value


# --- key points that nothing announces ---------------------------------------------------------------------------


def unannounced_keypoints(values: np.ndarray, lengths: np.ndarray) -> tuple[int, int] | None:
    """The number of key points and of their values where rows are those of pose labels; None: they are not.

    Read as polygons they would give wrong boxes without a word. Rows of pose labels all have one length, and begin
    with a box inside the image. That is not enough: so may rows of polygons that lie left and above. Then there is a
    column of visibility (0, 1, 2), or an even number of columns, which no polygon has; or most of the would-be
    polygons cross themselves; or, in many rows, they fill little of the rectangle around them.
    """
    if len(lengths) < _FEW or lengths[0] <= _BOX + 1 or (lengths != lengths[0]).any():
        return None
    columns = int(lengths[0]) - _BOX
    rows = values.reshape(len(lengths), -1)[:, 1:]
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    is_box = (half > 0).all() and (centre - half > -TOLERANCE).all() and (centre + half < 1 + TOLERANCE).all()
    if not is_box:  # NaN is none, either
        return None
    if columns % 3 == 0 and np.isin(rows[:, 6::3], (0, 1, 2)).all():
        return columns // 3, 3
    if columns % 2:
        return None
    polygons = rows[:_SAMPLE].reshape(min(len(rows), _SAMPLE), -1, 2)
    crossing = np.mean([crosses_itself(polygon) for polygon in polygons])
    thin = len(rows) >= _ENOUGH and np.median(_filled(polygons)) < _THIN
    return (columns // 2, 2) if thin or crossing > 0.5 else None


def _filled(polygons: np.ndarray) -> np.ndarray:
    """The part that polygons ``[N, K, 2]`` have of the rectangles around them: 1/2 for half of one, as a triangle."""
    x, y = np.moveaxis(polygons - polygons[:, :1], 2, 0)
    area = np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(1)) / 2
    filled: np.ndarray = area / np.ptp(polygons, axis=1).prod(1).clip(1e-12)
    return filled


def crosses_itself(polygon: np.ndarray) -> bool:
    """Whether two edges of a polygon ``[K, 2]`` that do not meet at a vertex cross each other."""
    start, end = polygon, np.roll(polygon, -1, axis=0)
    sides = _side(start[:, None], end[:, None], start[None])  # [K, K] of the line of edge i: where edge j starts
    ends = _side(start[:, None], end[:, None], end[None])
    across = sides * ends < 0
    return bool((across & across.T).any())


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    a, b = end - start, point - start
    side: np.ndarray = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return side
