"""``data check --report``: a data set on one page, for people who would rather look than read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov7.config.options import CheckOptions
from yolov7.config.recipe import read_recipe
from yolov7.data.anchor_fit import native_sizes, object_sizes, recall
from yolov7.data.box_facts import GRID, odd_objects, places
from yolov7.data.check import DataFacts, SplitFacts
from yolov7.data.image_set import ImageSet
from yolov7.engine.thumbnails import LARGE, SMALL, around, overlay_of, whole_image
from yolov7.model.spec import ModelSpec, read_spec
from yolov7.pages import Chart, DataTable, Facts, Image, Images, Page, Section, write_page
from yolov7.pages.charts import bars_chart, density_chart, histogram_chart
from yolov7.runtime.progress import Progress

DEFAULT_MODEL = "yolov7-tiny"
SAMPLES, EXAMPLES, GROUPS, ALIKE = 16, 12, 12, 3  # images of a split, of a kind, groups that look alike, of a group
BARS = 40  # classes of a chart
LISTED = 200  # rows of a table of faults
SEED = 0  # of the samples
CELLS = 40  # of a map of sizes


def write_data_report(facts: DataFacts, options: CheckOptions) -> Path:
    """Write the page; what the data set has not is left out."""
    path = Path(options.report)
    splits = [split for split in facts.splits if split.image_set is not None]
    spec = read_spec(options.cfg or DEFAULT_MODEL)
    size = options.img_size or _size(facts, spec)
    makers: list[Callable[[], Section | None]] = [
        lambda: _overview(facts), lambda: _classes(facts, splits), lambda: _sizes(splits, spec, size),
        lambda: _places(splits), lambda: _duplicates(facts), lambda: _faults(splits), lambda: _odd(splits, size),
        lambda: _samples(splits)]
    sections = [section for make in Progress(makers, "report", unit="parts") if (section := make()) is not None]
    write_page(path, Page(f"Data set {Path(facts.data).name}", sections, facts.file or facts.data))
    return path


def _size(facts: DataFacts, spec: ModelSpec) -> int:
    """That of a training: the data set's settings for the model, else the model's."""
    own = facts.settings.get(spec.name)
    return own.img_size[0] if own and own.img_size else spec.image_size


def _overview(facts: DataFacts) -> Section:
    rows = [{"split": split.split, "format": split.format, "images": split.images, "without objects": split.background,
             "objects": split.objects, "crowds": split.crowds, "with masks": split.polygons,
             "with key points": split.shapes.with_keypoints, "repeated images": split.repeated,
             "faults": len(split.faults), **{name: f"{width} x {height}" for name, (width, height) in
                                             zip(("smallest", "median", "largest"), split.sizes, strict=False)}}
            for split in facts.splits]
    numbers = {"classes": len(facts.names), "images in two splits": len(facts.shared),
               "groups that look alike": len(facts.alike), "key points of an object": len(facts.keypoint_names)}
    notes = [*facts.errors, *facts.notes]
    return Section("Overview", [DataTable(rows), Facts(numbers), *([DataTable([{"note": note} for note in notes])]
                                                                   if notes else [])])


def _classes(facts: DataFacts, splits: Sequence[SplitFacts]) -> Section | None:
    if not facts.names or not splits:
        return None
    rows = [{"class": name, **{split.split: split.per_class[place] for split in splits}}
            for place, name in enumerate(facts.names)]
    largest = splits[0]
    ranked = sorted(range(len(facts.names)), key=lambda place: -largest.per_class[place])[:BARS]
    bars = bars_chart(f"Objects by class, {largest.split}" + (f": the first {BARS}" if len(facts.names) > BARS else ""),
                      {f"{facts.names[place]}": float(largest.per_class[place]) for place in ranked}, axis="objects")
    return Section("Classes", [bars, DataTable(rows)])


def _sizes(splits: Sequence[SplitFacts], spec: ModelSpec, size: int) -> Section | None:
    sets = {split.split: split.image_set for split in splits if split.image_set and len(split.image_set.objects)}
    if not sets:
        return None
    native = {name: native_sizes(found) for name, found in sets.items()}
    fitted = {name: object_sizes(found, size) for name, found in sets.items()}
    first = next(iter(fitted.values()))
    anchors = np.reshape(spec.head.anchors, (-1, 2))
    high = float(max(first.max(), anchors.max(), 2.0))
    marks = [(float(width), float(height)) for width, height in anchors]
    counts, _, _ = np.histogram2d(first[:, 1], first[:, 0], bins=np.geomspace(1, high, CELLS + 1))
    return Section("Sizes", [
        histogram_chart("Longer side of objects, in their images",
                        {name: found.max(1) for name, found in native.items()}, "pixels", logarithmic=True),
        histogram_chart(f"Shorter side at {size} px, as the network sees it",
                        {name: found.min(1) for name, found in fitted.items()}, "pixels", logarithmic=True),
        histogram_chart("Width over height of objects", {name: found[:, 0] / np.maximum(found[:, 1], 1e-6)
                                                         for name, found in native.items()}, "ratio", logarithmic=True),
        density_chart(f"Objects of {next(iter(sets))} at {size} px, and anchors of {spec.name}", counts[::-1],
                      (1, high, 1, high), ("width", "height"), {"anchors": marks}, logarithmic=True),
        histogram_chart("Objects an image", {name: np.diff(found.offsets) for name, found in sets.items()}, "objects"),
        histogram_chart("Longer side of images", {name: found.sizes.max(1) for name, found in sets.items()}, "pixels"),
        DataTable(_anchor_rows(fitted, spec, size), f"Anchors of {spec.name} at {size} px")])


def _anchor_rows(fitted: dict[str, np.ndarray], spec: ModelSpec, size: int) -> list[dict[str, Any]]:
    rows, threshold = [], read_recipe(spec.recipe).loss.anchor_t
    for name, sizes in fitted.items():
        fit = recall(sizes, np.reshape(spec.head.anchors, (-1, 2)), threshold)
        rows.append({"split": name, "best possible recall": fit.recall, "anchors per object": fit.anchors_per_object,
                     "sides under 3 px": fit.tiny, "objects": fit.objects})
    return rows


def _places(splits: Sequence[SplitFacts]) -> Section | None:
    charts: list[Chart] = [
        density_chart(f"Centres of objects, {split.split}", places(split.image_set), (0, 1, 1, 0), ("x", "y"))
        for split in splits if split.image_set is not None and len(split.image_set.objects)]
    note = f"Where in their images objects stand, in {GRID} x {GRID} cells."
    return Section("Places", charts, note) if charts else None


def _duplicates(facts: DataFacts) -> Section | None:
    parts: list[Any] = []
    if facts.shared:
        rows = [{"split": split, "image": path, "other split": other, "other image": place}
                for split, path, other, place in facts.shared[:LISTED]]
        parts.append(DataTable(rows, "The same image in two splits", _first(len(facts.shared), LISTED)))
    where = {path: (split.image_set, place) for split in facts.splits if split.image_set is not None
             for place, path in enumerate(split.image_set.paths)}
    across = sorted(facts.alike, key=lambda group: (len({split for split, _ in group}) < 2, -len(group)))
    for number, group in enumerate(across[:GROUPS], 1):
        images = [whole_image(*where[path], f"{split}: {Path(path).name}", SMALL)
                  for split, path in _of_every_split(group)[:ALIKE]]
        crossing = ", in several splits" if len({split for split, _ in group}) > 1 else ""
        parts.append(Images(images, f"Group {number}: {len(group)} images that look alike{crossing}"))
    note = ("Images that are the same to the pixel, and those that look alike (at most 10 of 256 signs differ). What "
            f"stands in two splits makes scores too good. {_first(len(across), GROUPS)}")
    return Section("Duplicates", parts, note) if parts else None


def _of_every_split(group: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The images of a group, one of each split first."""
    first = {split: (split, path) for split, path in reversed(group)}
    return [*first.values(), *(image for image in group if image not in first.values())]


def _faults(splits: Sequence[SplitFacts]) -> Section | None:
    rows = [{"split": split.split, "file": fault.path, "what is wrong": fault.reason,
             "dropped": "the image" if fault.skipped else "nothing" if fault.kept else "the object"}
            for split in splits for fault in split.faults]
    shown: list[Image] = []
    for split in splits:
        where = {path: place for place, path in enumerate(split.image_set.paths)} if split.image_set else {}
        for fault in split.faults:
            if fault.path in where and len(shown) < EXAMPLES and split.image_set is not None:
                shown.append(whole_image(split.image_set, where[fault.path], str(fault), SMALL))
    if not rows:
        return None
    table = DataTable(rows[:LISTED], note=_first(len(rows), LISTED))
    return Section("Faults", [table, *([Images(shown)] if shown else [])])


def _odd(splits: Sequence[SplitFacts], size: int) -> Section | None:
    parts = [part for split in splits if split.image_set is not None for part in _odd_of(split.image_set, split, size)]
    return Section("Odd objects", parts, "They are used as they are: look at them before you trust them."
                   ) if parts else None


def _odd_of(image_set: ImageSet, split: SplitFacts, size: int) -> Iterator[Images]:
    images = image_set.image_index
    for odd in odd_objects(image_set, size):
        shown = []
        for row in odd.rows[:EXAMPLES].tolist():
            path, label = image_set.paths[int(images[row])], int(image_set.objects.labels[row])
            box = image_set.objects.boxes[row].tolist()
            text = f"{Path(path).name}: {image_set.names[label]}, {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px"
            shown.append(around(path, box, label, image_set.names, text))
        yield Images(shown, f"{split.split}: {len(odd.rows)} {odd.kind}", odd.meaning)


def _samples(splits: Sequence[SplitFacts]) -> Section | None:
    parts = []
    for split in splits:
        image_set = split.image_set
        if image_set is None or not len(image_set):
            continue
        rng, draw = np.random.default_rng(SEED), overlay_of(image_set)
        chosen = sorted(rng.permutation(len(image_set))[:SAMPLES].tolist())
        parts.append(Images([whole_image(image_set, index, Path(image_set.paths[index]).name, LARGE, draw)
                             for index in chosen], split.split))
    return Section("Samples", parts) if parts else None


def _first(count: int, shown: int) -> str:
    return f"The first {shown} of {count}." if count > shown else ""
