"""Rows of numbers as people and programs want them: text in columns, plain values, pandas."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yolov7.config import InputError

if TYPE_CHECKING:
    import pandas


def import_pandas() -> Any:
    """The package; raises `InputError` where it is not installed."""
    try:
        import pandas
    except ImportError:
        raise InputError("to_pandas() needs the package 'pandas': pip install pandas") from None
    return pandas


def data_frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows as a table of pandas."""
    return import_pandas().DataFrame(list(rows))  # type: ignore[no-any-return]


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Lines of a table: columns as wide as their widest cell, those of ``left`` to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) if place in left else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def columns_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in columns under their names: texts to the left, numbers to the right with at most 4 digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    left = [place for place, name in enumerate(names) if any(isinstance(row.get(name), str) for row in rows)]
    return "\n".join(aligned([names, *cells], left))


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of a sample; None where there are too few values."""
    return (statistics.mean(values) if values else None), (statistics.stdev(values) if len(values) > 1 else None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of named values; printed, it stands in columns."""

    rows: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        return columns_text(self.rows)

    def to_csv(self) -> str:
        """Under the names of all columns; what is not known is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def __len__(self) -> int:
        return len(self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """As a table of pandas."""
        return data_frame(self.rows)
