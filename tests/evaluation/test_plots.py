"""Curves and the confusion matrix as images: sizes, colours, and where things stand."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolov7.evaluation import plots
from yolov7.evaluation.comparison import Comparison
from yolov7.evaluation.confusion import ConfusionMatrix
from yolov7.evaluation.plots import (
    COLOURS,
    MAX_NAME,
    PALE,
    plot_confidence,
    plot_confusion,
    plot_precision_recall,
)
from yolov7.evaluation.v7_metric import V7Metric, V7Result

Drawn = np.ndarray  # uint8 [H, W, 3] RGB
Plot = Callable[[V7Result, Sequence[str]], bytes]


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def names_of(classes: int) -> list[str]:
    """Names that a formula, a legend or a layout could stumble over among them."""
    names = [f"class {index}" for index in range(classes)]
    special = ["$x_1$ 5%", "_hidden", "a name of a class that goes on and on and on"]
    return [*names[:-3], *special] if classes > 3 else names


def sample_of(r: np.random.RandomState, classes: int) -> tuple[np.ndarray, ...]:
    count = r.randint(0, 8)
    low = r.uniform(0, 500, (count, 2))
    true_boxes, true_labels = np.concatenate((low, low + 40), 1), r.randint(0, classes, count)
    found = np.flatnonzero(r.random_sample(count) < 0.3 + 0.6 * true_labels / classes)
    boxes = np.concatenate((true_boxes[found], r.uniform(0, 500, (2, 2)).repeat(2, 1)))
    labels = np.concatenate((true_labels[found], r.randint(0, classes, 2)))
    return boxes, r.random_sample(len(boxes)), labels, true_boxes, true_labels


@functools.cache
def collected(classes: int, images: int = 200) -> tuple[V7Result, ConfusionMatrix]:
    r = np.random.RandomState(classes)
    metric, confusion = V7Metric(), ConfusionMatrix(classes)
    for _ in range(images):
        sample = sample_of(r, classes)
        metric.update(Comparison.of(*sample))
        confusion.update(Comparison.of(*sample))
    return metric.result(), confusion


def drawn(png: bytes) -> Drawn:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image


def count_of(image: Drawn, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((image == rgb).all(-1).sum())


def tinted(image: Drawn, hue: str) -> np.ndarray:
    """Where an image is blue or orange."""
    red, blue = image[..., 0].astype(int), image[..., 2].astype(int)
    return blue - red > 25 if hue == "blue" else red - blue > 25


# --- curves ----------------------------------------------------------------------------------------------------


def test_the_ap_of_the_curves_is_not_called_as_that_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "to_png", lambda figure: figures.append(figure) or b"")
    plot_precision_recall(collected(3)[0], names_of(3))
    (figure,) = figures
    assert figure.legends[0].get_title().get_text() == "v7 AP50"
    assert "v7 AP50" in (note := figure.axes[0].get_title("left")) and "COCO" in note


@pytest.mark.untraced
@pytest.mark.parametrize("classes", [1, 3, 20, 80])
@pytest.mark.parametrize("plot", [plot_precision_recall, plot_confidence])
def test_curves(plot: Plot, classes: int) -> None:
    result, _ = collected(classes)
    assert len(result.classes) == classes
    image = drawn(plot(result, names_of(classes)))
    assert image.shape == ((720, 1080, 3) if plot is plot_precision_recall else (660, 1920, 3))
    coloured = [count_of(image, colour) > 20 for colour in COLOURS]
    assert sum(coloured) == {1: 1, 3: 3, 20: 6, 80: 5}[classes]
    heavy = cv2.erode((image == 0).all(-1).astype(np.uint8), np.ones((3, 3)))  # the mean, not letters and axes
    assert (heavy.sum() > 500) == (classes > 1)
    assert (count_of(image, PALE) > 3000) == (classes == 80)


def metric_of(labels: list[int], found: list[int], scores: list[float]) -> V7Result:
    """Objects of these classes apart from each other; those at the places ``found`` are detected exactly."""
    boxes = np.arange(len(labels))[:, None] * 100 + [[0, 0, 50, 50]]
    metric = V7Metric()
    metric.update(Comparison.of(boxes[found], scores, np.array(labels)[found], boxes, labels))
    return metric.result()


def test_precision_falls_where_recall_ends() -> None:
    """One of two objects is found: the line is at the top up to the middle, then goes down and ends."""
    image = drawn(plot_precision_recall(metric_of([0, 0], [0], [0.8]), ["dog"]))
    rows, columns = np.nonzero((image == (0x00, 0x72, 0xB2)).all(-1))
    inside = columns < 830  # the legend stands to the right
    left, right, top, bottom = columns[inside].min(), columns[inside].max(), rows[inside].min(), rows[inside].max()
    assert left == pytest.approx(77, abs=4)  # recall 0
    assert (right - left) / (836 - 77) == pytest.approx(0.51, abs=0.03)
    assert (top, bottom) == (pytest.approx(88, abs=4), pytest.approx(656, abs=4))
    falling = rows[inside & (columns < right - 12)]
    assert np.ptp(falling) <= 3  # flat before


@pytest.mark.untraced
@pytest.mark.parametrize(("labels", "found"), [([], []), ([0], []), ([0, 1], [1]), ([2], [0])],
                         ids=["no_objects", "nothing_found", "one_class_missed", "classes_without_objects"])
def test_little_to_draw(labels: list[int], found: list[int]) -> None:
    result = metric_of(labels, found, [0.5] * len(found))
    for plot in (plot_precision_recall, plot_confidence):
        image = drawn(plot(result, ["dog", "cat", "owl"]))
        assert sum(count_of(image, colour) > 20 for colour in COLOURS) == len(labels)


# --- confusion matrix ------------------------------------------------------------------------------------------


@pytest.mark.untraced
@pytest.mark.parametrize(("classes", "side"), [(1, 570), (3, 570), (10, 1110), (20, 1200), (80, 1758), (200, 1800)])
def test_confusion(classes: int, side: int) -> None:
    _, confusion = collected(classes)
    image = drawn(plot_confusion(confusion, names_of(classes)))
    assert image.shape == (side, side + 144, 3)
    assert tinted(image, "blue").sum() > 500
    assert tinted(image, "orange").sum() > 500
    margins = [image[:3], image[-3:], image[:, :3], image[:, -3:]]
    assert all((margin == 255).all() for margin in margins)  # nothing is cut off


@pytest.mark.parametrize(("cell", "hue", "place"), [
    ((0, 2), "orange", (0.125, 0.625)),
    ((2, 0), "orange", (0.625, 0.125)),
    ((3, 1), "orange", (0.875, 0.375)),
    ((1, 1), "blue", (0.375, 0.375)),
])
def test_rows_are_predicted_and_columns_true(cell: tuple[int, int], hue: str, place: tuple[float, float]) -> None:
    confusion = ConfusionMatrix(3)
    confusion.matrix[cell] = 5
    image = drawn(plot_confusion(confusion, ["dog", "cat", "owl"]))
    blank = drawn(plot_confusion(ConfusionMatrix(3), ["dog", "cat", "owl"]))
    lines = np.nonzero((blank[:, 130:600] < 200).all(-1).sum(1) > 400)[0]  # between owl and background
    height = (lines.mean() - 60) / 0.75
    rows, columns = np.nonzero(tinted(image, hue))
    assert (rows.mean() - 60) / height == pytest.approx(place[0], abs=0.03)
    assert (columns.mean() - 135) / 473 == pytest.approx(place[1], abs=0.03)
    assert not tinted(blank, hue).any()


def test_small_shares_are_white() -> None:
    confusion = ConfusionMatrix(2)
    confusion.matrix[:, 0] = [996, 4, 0]
    assert not tinted(drawn(plot_confusion(confusion, ["dog", "cat"])), "orange").any()
    confusion.matrix[:, 0] = [994, 6, 0]
    assert tinted(drawn(plot_confusion(confusion, ["dog", "cat"])), "orange").sum() > 5000


def test_long_names_leave_room() -> None:
    confusion = ConfusionMatrix(4)
    long, cut = ["x" * 300] * 4, ["x" * (MAX_NAME - 1) + "…"] * 4
    assert plot_confusion(confusion, long) == plot_confusion(confusion, cut)


# --- files -----------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    result, confusion = collected(3)
    names = names_of(3)
    (tmp_path / "confidence.png").write_text("old")
    result.write(tmp_path, names)
    confusion.write(tmp_path, names)
    written = [tmp_path / name for name in ("precision_recall.png", "confidence.png", "confusion_matrix.png")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert written[0].read_bytes() == plot_precision_recall(result, names)
    assert written[1].read_bytes() == plot_confidence(result, names)
    assert written[2].read_bytes() == plot_confusion(confusion, names)


def test_neither_display_nor_state_of_the_user(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib\n"
        "from pathlib import Path\n"
        "before = dict(matplotlib.rcParams)\n"
        "from yolov7.evaluation.confusion import ConfusionMatrix\n"
        "from yolov7.evaluation.v7_metric import V7Metric\n"
        "V7Metric().result().write(Path(sys.argv[1]), ['dog'])\n"
        "ConfusionMatrix(1).write(Path(sys.argv[1]), ['dog'])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": "TkAgg"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment, cwd=Path(__file__).parents[2])
    assert len(list(tmp_path.iterdir())) == 3
