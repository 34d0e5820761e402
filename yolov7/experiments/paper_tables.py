"""The ablations of the paper: the rows of its tables 3 to 8 and 10, and what each is trained with (docs/reference.md,
Figures and ablations).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of a table."""

    name: str  # as the paper says
    cfg: str
    published: tuple[float, ...] = ()  # AP on val2017; several where the paper does not say which of them it is
    set: tuple[str, ...] = ()  # changes of the model's recipe
    note: str = ""
    base: str = ""  # the row that it is compared with; default: the first one

    @property
    def key(self) -> str:
        """What its runs are called: rows of several tables that are trained alike share them."""
        return "_".join([self.cfg, *(change.partition("=")[2] for change in self.set)])


@dataclass(frozen=True)
class PaperTable:
    """A table: its rows, the first of which is the base of the others."""

    title: str
    rows: tuple[PaperRow, ...]
    note: str = ""


_PLANNED, _UNPLANNED = (52.30, 52.33), (52.17, 52.18, 52.23)
_POSITIONS = ("The paper draws the positions of its rows (a) to (e) without naming them: ours follow its rule, and "
              "what is published is that of its planned rows, or of the others.")
_LIKE = "as in coarse-to-fine"

TABLES = {
    "table3": PaperTable("Compound scaling", (
        PaperRow("base", "yolov7x-light", (51.7,)),
        PaperRow("width only, 1.25", "yolov7x-light-width", (52.4,)),
        PaperRow("depth only, 2.0", "yolov7x-light-depth", (52.7,)),
        PaperRow("compound", "yolov7x", (52.9,)))),
    "table4": PaperTable("Planned RepConv in a concatenation model", (
        PaperRow("base", "elan3", (52.26,)),
        PaperRow("RepConv at 1, 3, 5", "elan3-rep135", _PLANNED, note="planned"),
        PaperRow("RepConv at 2, 4, 6", "elan3-rep246", _UNPLANNED, note="not planned"),
        PaperRow("RepConv everywhere", "elan3-rep-all", _UNPLANNED, note="not planned"),
        PaperRow("RepConvN at 2, 4, 6", "elan3-repn246", _PLANNED, note="planned"),
        PaperRow("RepConvN everywhere", "elan3-repn-all", _PLANNED, note="planned")), _POSITIONS),
    "table5": PaperTable("Planned RepConv in a residual model", (
        PaperRow("YOLOR-W6", "yolor-w6", (54.82,)),
        PaperRow("RepCSP-W6", "yolor-w6-repcsp", (54.67,), note="not planned"),
        PaperRow("RCSP-W6", "yolor-w6-rcsp", (54.36,)),
        PaperRow("RepRCSP-W6", "yolor-w6-reprcsp", (54.85,), note="planned"),
        PaperRow("YOLOR-CSP", "yolor-csp", (50.81,)),
        PaperRow("RepRCSP-CSP", "yolor-csp-reprcsp", (50.91,), note="planned", base="YOLOR-CSP")),
        "The stages of the neck are changed, too, which the paper leaves open."),
    "table6": PaperTable("Assignment for an auxiliary head", (
        PaperRow("base", "yolov7-e6-noaux", (55.6,), note="no auxiliary head"),
        PaperRow("independent", "yolov7-e6", (55.8,), ("loss.assignment=independent",)),
        PaperRow("lead guided", "yolov7-e6", (55.9,), ("loss.assignment=lead_guided",)),
        PaperRow("coarse-to-fine", "yolov7-e6", (55.9,)))),
    "table7": PaperTable("Constraint on the auxiliary head", (
        PaperRow("base", "yolov7-e6-noaux", (55.6,), note="no auxiliary head"),
        PaperRow("without constraint", "yolov7-e6", (55.9,), ("loss.aux_decode=free",), _LIKE),
        PaperRow("with constraint", "yolov7-e6", (55.9,), note=_LIKE))),
    "table8": PaperTable("Partial auxiliary head", (
        PaperRow("base", "yolov7-e6e-noaux", (56.3,), note="no auxiliary head"),
        PaperRow("auxiliary head", "yolov7-e6e-fullaux", (56.5,)),
        PaperRow("partial auxiliary head", "yolov7-e6e", (56.8,)))),
    "table10": PaperTable("Precision, and the IoU of NMS", (
        PaperRow("half, IoU 0.65", "yolov7x", (52.9,)),
        PaperRow("full, IoU 0.65", "yolov7x", (53.0,)),
        PaperRow("half, IoU 0.70", "yolov7x", (53.0,)),
        PaperRow("full, IoU 0.70", "yolov7x", (53.1,))), "One training of each seed, evaluated four times."),
}
