"""Charts for pages: one panel each, so that they stand below each other on a narrow screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yolov7.pages.page import Chart
from yolov7.pages.style import COLOURS, DASHES, GREY, PALE, new_figure, quiet_axes

SIZE = (6.2, 3.9)  # inches
FONT = 10
MAX_NAME = 34  # characters in a legend
MAX_NUMBERED = 30  # classes of a matrix with numbers
TOLD_APART = len(COLOURS) * len(DASHES)  # curves; more of them are grey

Points = Sequence[tuple[float, float]]


def curves_chart(title: str, curves: Mapping[str, Points], x: str = "epoch", whole: bool = True) -> Chart:
    """A line for each name over ``x``, which has ``whole`` numbers; beyond `TOLD_APART` names only the first of them
    have a look of their own.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = new_figure(*SIZE, 1)
    for place, (name, points) in enumerate(curves.items()):
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, label=_short(name), linewidth=1.6, marker="o" if len(points) == 1 else "", **_look(place))
    axes.set_xlabel(x, color=GREY, fontsize=FONT)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(axes)
    shown = min(len(curves), TOLD_APART)
    if shown > 1:
        handles, labels = axes.get_legend_handles_labels()
        legend = figure.legend(handles[:shown], labels[:shown], loc="outside lower left", frameon=False,
                               ncols=1 if shown < 4 else 2, fontsize=FONT - 1.5, handlelength=3)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return Chart(figure, f"{title} of {', '.join(map(_short, list(curves)[:TOLD_APART]))} over {x}", title)


def points_chart(title: str, points: Points, best: Points, x: str, y: str) -> Chart:
    """Points, and a line of steps: the best so far."""
    figure, (axes,) = new_figure(*SIZE, 1)
    if points:
        axes.plot(*zip(*points, strict=True), "o", markersize=5, color=COLOURS[4], label="each")
        axes.plot(*zip(*best, strict=True), drawstyle="steps-post", color=COLOURS[1], linewidth=1.8,
                  label="best so far")
        axes.legend(frameon=False, fontsize=FONT - 1.5)
    axes.set_xlabel(x, color=GREY, fontsize=FONT)
    axes.set_ylabel(y, color=GREY, fontsize=FONT)
    _finish(axes)
    return Chart(figure, f"{title}: {y} over {x}", title)


def bars_chart(title: str, values: Mapping[str, float], errors: Mapping[str, float] | None = None,
               axis: str = "") -> Chart:
    """A horizontal bar for each name, the first on top; ``errors`` are half the length of their whiskers."""
    height = max(0.9 + 0.32 * len(values), 1.8)
    figure, (axes,) = new_figure(SIZE[0], height, 1)
    names = list(values)
    whiskers = [(errors or {}).get(name, 0.0) for name in names]
    axes.barh(range(len(names)), list(values.values()), xerr=whiskers if any(whiskers) else None, color=COLOURS[0],
              height=0.62, error_kw={"ecolor": GREY, "capsize": 3})
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=FONT, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(axis, color=GREY, fontsize=FONT)
    _finish(axes)
    said = ", ".join(f"{_short(name)} {value:.3g}" for name, value in values.items())
    return Chart(figure, f"{title}: {said}", title)


def _finish(axes: Any) -> None:
    quiet_axes(axes)
    axes.tick_params(labelsize=FONT - 1)


def _look(place: int) -> dict[str, Any]:
    if place >= TOLD_APART:
        return {"color": PALE, "linewidth": 0.8, "zorder": 1}
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place // len(COLOURS)]}


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2 - 1]}…{name[-MAX_NAME // 2 :]}"


def histogram_chart(title: str, values: Mapping[str, Any], x: str, logarithmic: bool = False, bins: int = 40) -> Chart:
    """How often values lie where, as shares of each name's own: numbers that are not finite, or not above 0 on a
    logarithmic axis, are left out.
    """
    import numpy as np

    kept = {name: np.asarray(found, float)[np.isfinite(found) & (np.asarray(found) > (0 if logarithmic else -np.inf))]
            for name, found in values.items()}
    every = np.concatenate([*kept.values(), np.zeros(0)])
    low, high = (float(every.min()), float(every.max())) if len(every) else (1.0, 2.0)
    high = high if high > low else low + 1
    edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    figure, (axes,) = new_figure(*SIZE, 1)
    for place, (name, found) in enumerate(kept.items()):
        counts = np.histogram(found, edges)[0] / max(len(found), 1)
        axes.stairs(counts, edges, label=_short(name), linewidth=1.6, **_look(place))
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(x, color=GREY, fontsize=FONT)
    axes.set_ylabel("share", color=GREY, fontsize=FONT)
    _finish(axes)
    if len(kept) > 1:
        axes.legend(frameon=False, fontsize=FONT - 1.5)
    ranges = ", ".join(f"{_short(name)}: {len(found)} values" for name, found in kept.items())
    return Chart(figure, f"{title}: {ranges} from {low:.3g} to {high:.3g}", title)


def density_chart(title: str, counts: Any, extent: tuple[float, float, float, float], labels: tuple[str, str],
                  marks: Mapping[str, Points] | None = None, logarithmic: bool = False) -> Chart:
    """Counts ``[rows, columns]``, the first row on top, as colour; ``extent`` is left, right, bottom, top of the axes,
    ``marks`` are points by what they are.
    """
    import numpy as np

    share = np.asarray(counts, float) / max(float(np.max(counts, initial=0)), 1.0)
    colour = np.zeros((*share.shape, 4))
    colour[..., :3] = [int(COLOURS[0][start : start + 2], 16) / 255 for start in (1, 3, 5)]
    colour[..., 3] = np.where(share > 0, 0.08 + 0.92 * np.sqrt(share), 0)
    figure, (axes,) = new_figure(*SIZE, 1)
    left, right, bottom, top = extent
    rows, columns = share.shape
    spaced = np.geomspace if logarithmic else np.linspace
    axes.pcolormesh(spaced(left, right, columns + 1), spaced(top, bottom, rows + 1), colour, rasterized=True)
    for place, (name, points) in enumerate((marks or {}).items(), 1):
        axes.plot(*zip(*points, strict=True), "x", color=COLOURS[place % len(COLOURS)], markersize=7,
                  markeredgewidth=2, label=_short(name))
    if logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel(labels[0], color=GREY, fontsize=FONT)
    axes.set_ylabel(labels[1], color=GREY, fontsize=FONT)
    axes.set_ylim(bottom, top)
    _finish(axes)
    if marks:
        axes.legend(frameon=False, fontsize=FONT - 1.5)
    return Chart(figure, f"{title}: {labels[1]} over {labels[0]}, {int(np.sum(counts))} in all", title)


def matrix_chart(title: str, shares: Any, counts: Any, rows: Sequence[str], columns: Sequence[str],
                 labels: tuple[str, str]) -> Chart:
    """Cells ``[R, C]`` as colour by their share, with their counts where there is room; row 0 is on top."""
    count = max(len(rows), len(columns))
    side = min(2.2 + 0.42 * count, 9.0)
    font = FONT - 1 if count <= MAX_NUMBERED else max(FONT - 1 - count // 20, 4)
    figure, (axes,) = new_figure(side + 1.2, side, 1)
    for row, column in ((row, column) for row in range(len(rows)) for column in range(len(columns))):
        if shares[row][column] > 0:
            axes.add_patch(_cell(column, row, float(shares[row][column])))
            if count <= MAX_NUMBERED:
                axes.text(column, row, f"{counts[row][column]:,}", ha="center", va="center", fontsize=font)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, fontsize=font,
                    parse_math=False)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize=font, parse_math=False)
    axes.set_xlabel(labels[0], color=GREY, fontsize=FONT)
    axes.set_ylabel(labels[1], color=GREY, fontsize=FONT)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return Chart(figure, f"{title}: {labels[1]} by {labels[0]}", title)


def _cell(column: int, row: int, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=COLOURS[0], alpha=0.1 + 0.6 * share)
