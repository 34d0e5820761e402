"""Curves and the confusion matrix as images, readable with one class and with many (docs/reference.md, Plots).

Each function gives the bytes of a PNG and touches nothing else: no display, no state of matplotlib that a user may
have set up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yolov7.pages.style import BLACK, COLOURS, DASHES, GREY, PALE, entitle, new_figure, quiet_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from yolov7.evaluation.confusion import ConfusionMatrix
    from yolov7.evaluation.v7_metric import V7Result

BACKGROUND = "background"
COLOURED_CLASSES = 20  # up to here each class has a line of its own look
LOWEST_CLASSES = 5  # with more, the lowest ones have colour and name, the others are grey
NUMBERED_CLASSES = 29  # up to here the cells of the matrix have numbers
COUNTED_CLASSES = 10  # up to here counts, too
V7_NOTE = ("v7 AP50 is the area below the curve, by the v7 metric;\n"
           "the AP50 of the tables is COCO's, whose rules differ a little")
HIDDEN_SHARE = 0.005  # smaller ones are not written
MAX_NAME = 22  # characters

Floats = NDArray[np.float64]


# --- curves ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Curves:
    """Curves ``[K, 1000]`` of K classes over ``points [1000]``, with a value of each class for the legend."""

    points: Floats
    values: Floats
    names: list[str]  # K
    ranks: Floats  # [K] 0..1, higher is better


def plot_precision_recall(result: V7Result, names: Sequence[str]) -> bytes:
    """Precision over recall at IoU 0.50, by class and averaged: a PNG of 1080 x 720 pixels.

    In the legend is the area below each curve, which is near the official AP50 but not equal to it, and says so.
    """
    curves = result.curves
    figure, (axes,) = new_figure(9, 6, 1)
    drawn = _Curves(curves.points, curves.precision_at_recall, _shortened(names, result.classes), result.class_AP50)
    lines = _draw_curves(axes, drawn, stop_at_zero=True)
    _legend(figure, lines, drawn, "v7 AP50")
    entitle(axes, f"Precision over recall at {result.word} 0.50\n{V7_NOTE}", fontsize=10)
    _label(axes, "recall", "precision")
    return to_png(figure)


def plot_confidence(result: V7Result, names: Sequence[str]) -> bytes:
    """Precision, recall and F1 at IoU 0.50 over confidence, by class and averaged: a PNG of 1920 x 660 pixels.

    The confidence where F1 averaged over classes is best is marked; the legend has each class's F1 there.
    """
    curves = result.curves
    figure, panels = new_figure(16, 5.5, 3)
    shown = _shortened(names, result.classes)
    means = (result.precision, result.recall, result.f1)
    values = (curves.precision, curves.recall, curves.f1)
    for axes, name, mean, curve in zip(panels, ("precision", "recall", "F1"), means, values, strict=True):
        drawn = _Curves(curves.points, curve, shown, result.class_f1)
        lines = _draw_curves(axes, drawn, stop_at_zero=False)
        axes.axvline(result.confidence, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        title = f"{name[0].upper()}{name[1:]}: {mean:.3f} at confidence {result.confidence:.3f}"
        entitle(axes, title, fontsize=11)
        _label(axes, "confidence", name)
    _legend(figure, lines, drawn, "F1 at best confidence")
    return to_png(figure)


def _draw_curves(axes: Axes, curves: _Curves, stop_at_zero: bool) -> list[Line2D]:
    """A line for each class and, if there are several, a bold one for their mean: K or K + 1 lines, the mean last."""
    count = len(curves.names)
    if not count:
        axes.text(0.5, 0.5, "no objects: nothing to measure", ha="center", color=GREY)
        return []
    styles = {index: _style(place) for place, index in enumerate(_named(curves))}
    drawn = [*curves.values, curves.values.mean(0)] if count > 1 else curves.values
    styles[count] = {"color": BLACK, "linewidth": 2.8, "zorder": 3}
    lines = []
    for index, curve in enumerate(drawn):
        shown = _until_zero(curve) if stop_at_zero else curve
        lines += axes.plot(curves.points, shown, **styles.get(index, {"color": PALE, "linewidth": 0.7, "zorder": 1.9}))
    return lines


def _named(curves: _Curves) -> list[int]:
    """The classes with colour and name, in order of their colours."""
    count = len(curves.names)
    return list(range(count)) if count <= COLOURED_CLASSES else _by_rank(curves)[-LOWEST_CLASSES:]


def _by_rank(curves: _Curves) -> list[int]:
    """All classes, from high to low."""
    order: list[int] = np.argsort(-curves.ranks, kind="stable").tolist()
    return order


def _style(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS)], "linewidth": 1.6}


def _until_zero(curve: Floats) -> Floats:
    """A falling curve up to its first zero: no line along the axis."""
    return np.where(np.arange(len(curve)) <= (curve > 0).sum(), curve, np.nan)


def _legend(figure: Figure, lines: list[Line2D], curves: _Curves, title: str) -> None:
    """Beside the axes: the mean, then the classes that have colour, from high to low."""
    if not lines:
        return
    named, count = set(_named(curves)), len(curves.names)
    order = [index for index in _by_rank(curves) if index in named]
    handles = [lines[index] for index in order]
    texts = [f"{curves.ranks[index]:.3f}  {curves.names[index]}" for index in order]
    if count > 1:
        handles.insert(0, lines[-1])
        texts.insert(0, f"{curves.ranks.mean():.3f}  mean of {count} classes")
    if count > len(order):
        title = f"{title}, the {len(order)} lowest classes"
    legend = figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=9, title=title,
                           alignment="left", title_fontsize=9, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=GREY)
    axes.set_ylabel(y, color=GREY)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    quiet_axes(axes)


# --- AP and time -----------------------------------------------------------------------------------------------


def plot_study(rows: Sequence[Mapping[str, Any]], title: str = "AP over time, by size of the input",
               logarithmic: bool = False) -> bytes:
    """AP over milliseconds of the network, a line for each ``weights``, a point for each ``size``, which is its label:
    a PNG of 1080 x 720 pixels."""
    figure, (axes,) = new_figure(9, 6, 1)
    for place, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        points = [row for row in rows if row["weights"] == weights]
        axes.plot([row["network_ms"] for row in points], [100 * row["AP"] for row in points], marker="o",
                  label=weights.replace("$", r"\$"), **_style(place % (len(COLOURS) * len(DASHES))))
        for row in points:
            axes.annotate(str(row["size"]), (row["network_ms"], 100 * row["AP"]), xytext=(4, 5), fontsize=8, color=GREY,
                          textcoords="offset points")
    entitle(axes, title)
    axes.set_xlabel("milliseconds of the network per image", color=GREY)
    axes.set_ylabel("AP (%)", color=GREY)
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    quiet_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    return to_png(figure)


# --- confusion matrix ------------------------------------------------------------------------------------------


def plot_confusion(confusion: ConfusionMatrix, names: Sequence[str]) -> bytes:
    """A heat map of the shares of each true class (columns add up to 1): a PNG whose size grows with the classes.

    Rows are predicted, columns true, as in `ConfusionMatrix`. Right ones are blue, wrong and missed ones orange; grey
    is the last column, of detections where nothing is. Few classes have numbers in their cells.
    """
    side, font = _matrix_size(confusion.num_classes)
    figure, (axes,) = new_figure(side + 1.2, side, 1)
    _draw_shares(figure, axes, confusion.shares())
    if confusion.num_classes <= NUMBERED_CLASSES:
        _write_numbers(axes, confusion, font)
    _label_matrix(axes, _shortened(names, range(confusion.num_classes)), font)
    entitle(axes, f"Confusion matrix at confidence {confusion.confidence:g} and {confusion.similarity.word} "
            f"{confusion.iou:g}\nblue: right, orange: wrong or missed, grey: false", fontsize=11)
    return to_png(figure)


def _draw_shares(figure: Figure, axes: Axes, shares: Floats) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, PowerNorm

    norm = PowerNorm(0.6, 0, 1)  # small shares are to be seen, too
    depth = norm(shares)
    blue, orange, grey = (ListedColormap(colormaps[name](np.linspace(0.12, last, 256)))  # no colour is near white
                          for name, last in (("Blues", 1), ("Oranges", 0.9), ("Greys", 0.75)))
    heat = orange(depth)  # [C + 1, C + 1, 4]
    diagonal = np.arange(len(shares) - 1)
    heat[diagonal, diagonal] = blue(depth[diagonal, diagonal])
    heat[:, -1] = grey(depth[:, -1])
    heat[shares < HIDDEN_SHARE] = 1  # white
    axes.imshow(heat, interpolation="nearest", aspect="auto")  # square cells would break the layout
    for draw in (axes.axhline, axes.axvline):
        draw(len(shares) - 1.5, color=GREY, linewidth=0.8)
    bar = figure.colorbar(ScalarMappable(norm, grey), ax=axes, shrink=0.6, pad=0.02, aspect=30,
                          ticks=[0, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.outline.set_visible(False)
    bar.set_label("share of the column, in any colour", color=GREY)


def _matrix_size(num_classes: int) -> tuple[float, float]:
    """Side in inches and font size in points."""
    if num_classes <= COUNTED_CLASSES:
        return max(4.75, 2.75 + 0.65 * num_classes), 9
    if num_classes <= NUMBERED_CLASSES:
        return 2.5 + 0.375 * num_classes, 8
    return min(15.0, 2.25 + 0.155 * num_classes), 7


def _label_matrix(axes: Axes, names: list[str], font: float) -> None:
    step = 1 + len(names) // 90  # more names than this cannot be read
    places = [*range(0, len(names), step), len(names)]
    texts = [*names[::step], BACKGROUND]
    axes.set_xticks(places, texts, rotation=90 if len(names) > 3 else 0, fontsize=font, parse_math=False)
    axes.set_yticks(places, texts, fontsize=font, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("true (background: false detections)", color=GREY)
    axes.set_ylabel("predicted (background: missed)", color=GREY)


def _write_numbers(axes: Axes, confusion: ConfusionMatrix, font: float) -> None:
    shares = confusion.shares()
    for row, column in zip(*np.nonzero(shares >= HIDDEN_SHARE), strict=True):
        text = f"{shares[row, column]:.2f}"
        if confusion.num_classes <= COUNTED_CLASSES:
            text += f"\n{confusion.matrix[row, column]}"
        colour = "white" if shares[row, column] > 0.4 else BLACK
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour).set_in_layout(False)


# --- both ------------------------------------------------------------------------------------------------------


def _shortened(names: Sequence[str], classes: Sequence[int] | NDArray[np.int64]) -> list[str]:
    chosen = (names[index] for index in classes)
    return [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in chosen]
