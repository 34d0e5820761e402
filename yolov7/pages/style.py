"""How all figures look, in files and on pages: drawn without a display, and without any state of matplotlib that a user
may have set up.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # told apart by colour-blind eyes, too
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
BLACK, GREY, PALE, GRID = "#000000", "#666666", "#c4c4c4", "#e4e4e4"


def new_figure(width: float, height: float, columns: int, rows: int = 1,
               places: Mapping[str, float] | None = None) -> tuple[Figure, Sequence[Axes]]:
    """A figure of a size in inches with its axes, row by row; it draws without a display and leaves pyplot alone.

    The axes stand at ``places``, as in `Figure.subplots_adjust`; without, where their labels leave room, which takes as
    long to find as to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = None if places else ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=dict(places) if places else None)
    return figure, list(grid.flat)


def to_png(figure: Figure) -> bytes:
    """The figure as a file, laid out and drawn once (`savefig` draws everything twice, the first time to nowhere)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)  # type: ignore[no-untyped-call]
    return image.getvalue()


def entitle(axes: Axes, text: str, **look: Any) -> None:
    """A title right above axes whose numbers need no power of ten there: not all labels are measured to see that."""
    axes.set_title(text, loc="left", y=1, **look)


def quiet_axes(axes: Axes) -> None:
    """Pale grid behind the curves, no frame."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
