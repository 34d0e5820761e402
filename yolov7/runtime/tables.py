"""Rows of numbers as people and programs want them: text in columns, plain values, pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def columns_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in columns under their names: texts to the left, numbers to the right with at most 4 digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    left = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    return "\n".join("  ".join(cell.ljust(width) if is_left else cell.rjust(width)
                               for cell, width, is_left in zip(line, widths, left, strict=True)).rstrip()
                     for line in (names, *cells))


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

    def __len__(self) -> int:
        return len(self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """As a table of pandas."""
        return data_frame(self.rows)
