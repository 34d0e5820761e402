"""CSV: a row for each object, in the columns of several tools."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from yolov7.config.schema import shown
from yolov7.data.foreign.columns import Layout, encoding_of, layout_of, split_row
from yolov7.data.foreign.files import UnusableError, files_below, split_of_name
from yolov7.data.foreign.records import Item, Reading, Record, Request, class_name, pixels, stated_size

_MAX_LINE = 1 << 20
_MAX_IMAGES = 5_000_000  # that a file names


def read_csv(request: Request) -> Reading:
    """Boxes in pixels, or in fractions of the image as Open Images has them; groups are crowds."""
    reading = Reading()
    beside = files_below(request.root, (".csv",))
    for file in [str(request.path)] if request.path.is_file() else beside:
        try:
            _read_table(_open_table(file), request, reading)
        except UnusableError as error:
            if "class" not in os.path.basename(file):  # those name the classes
                reading.notes.append(f"{file}: {error}; the file is left out")
    for file in beside:
        if "class" in os.path.basename(file):
            _name_classes(file, reading)
    reading.split_by_folder(request.root)
    for record in reading.records:
        record.split = record.split or split_of_name(record.file)
    return reading


# --- files -----------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """A file with its layout."""

    file: str
    encoding: str
    delimiter: str
    layout: Layout

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row with its line, without the header. Raises `UnusableError`."""
        try:
            with open(self.file, encoding=self.encoding, errors="replace", newline="") as stream:
                reader = csv.reader(stream, delimiter=self.delimiter)
                rows = enumerate(reader)
                yield from ((reader.line_num, row) for place, row in rows if row and (place or not self.layout.header))
        except (OSError, csv.Error) as error:
            raise UnusableError(f"cannot be read as CSV ({error})") from None


def _open_table(file: str) -> _Table:
    encoding = _encoding(file)
    with open(file, encoding=encoding, errors="replace") as stream:
        first = stream.readline(1 << 16).rstrip("\r\n")
    columns, delimiter = split_row(first)
    layout = layout_of(columns)
    if layout is None:
        raise UnusableError(f"has no columns of boxes: {shown(first)}; accepted: filename, class, xmin, ymin, xmax, "
                            "ymax, or the columns of Open Images")
    return _Table(file, encoding, delimiter, layout)


def _encoding(file: str) -> str:
    """UTF-8 or UTF-16 where all of a file is that, else CP1252. Raises `UnusableError`."""
    if not os.path.isfile(file):
        raise UnusableError("is no regular file")
    try:
        with open(file, "rb") as stream:
            encoding = encoding_of(stream.read(2))
        _check_lines(file, encoding)
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        _check_lines(file, "latin-1")
        return "cp1252"
    return encoding


def _check_lines(file: str, encoding: str) -> None:
    """Raise `UnusableError` for a file that is not made of lines: each is read whole."""
    with open(file, encoding=encoding) as text:
        while len(part := text.read(_MAX_LINE)) == _MAX_LINE:
            if "\n" not in part:
                raise UnusableError(f"has a line of more than {_MAX_LINE:,} characters")


# --- rows ------------------------------------------------------------------------------------------------------


def _read_table(table: _Table, request: Request, reading: Reading) -> None:
    """A record for each image that a file names; rows of an image need not stand together."""
    layout, records = table.layout, dict[str, Record | None]()

    def read(row: list[str]) -> Item:
        return _item(row, layout, request.class_name)

    for line, row in table.rows():
        if len(row) <= max(layout.image, layout.label, *layout.box):
            reading.fault(table.file, f"line {line}: {len(row)} columns")
            continue
        name = row[layout.image].strip()
        if name not in records:
            records[name] = _record(name, row, table, request, reading)
        record = records[name]
        if len(records) > _MAX_IMAGES:
            raise UnusableError(f"names more than {_MAX_IMAGES:,} images")
        if record is None or not any(row[place].strip() for place in layout.box):
            continue  # an image without objects
        record.items += reading.item(table.file, f"line {line}", row, read)
    found = [record for record in records.values() if record]
    _set_unit(found, table, reading)
    if layout.label < 0:
        reading.notes.append(f"{table.file}: has no column of classes: all are of the one class {request.class_name!r} "
                             "(--names names it)")
    reading.records += found


def _set_unit(records: Sequence[Record], table: _Table, reading: Reading) -> None:
    """Pixels, or fractions: where the columns are those of Open Images, or no coordinate is above 1."""
    largest = max((abs(value) for record in records for item in record.items for value in item.box), default=2.0)
    for record in records:
        record.fractions = table.layout.fractions or largest <= 1
    if largest <= 1 and not table.layout.fractions:
        reading.notes.append(f"{table.file}: no coordinate is above 1: they are taken as fractions of the image")


def _record(name: str, row: list[str], table: _Table, request: Request, reading: Reading) -> Record | None:
    layout = table.layout
    try:
        path = request.images.find(name, table.file)
    except UnusableError as error:
        reading.fault(table.file, str(error), skipped=True)
        return None
    width, height = (row[place] if 0 <= place < len(row) else None for place in (layout.width, layout.height))
    return Record(path, table.file, [], stated_size(width, height))


def _item(row: list[str], layout: Layout, alone: str) -> Item:
    name = alone if layout.label < 0 else class_name(row[layout.label])
    values: Sequence[object] = [row[place] for place in layout.box]
    if len(values) == 1:
        values = row[layout.box[0]].strip("[]() ").split(",")
    if len(values) != 4:
        raise UnusableError(f"the box is {shown(values)}; accepted: four numbers")
    x1, y1, x2, y2 = pixels(*values)
    box = (x1, y1, x2, y2) if layout.corners else (x1, y1, x1 + x2, y1 + y2)
    crowd = 0 <= layout.crowd < len(row) and row[layout.crowd].strip().lower() in ("1", "true")
    return Item(name, box, crowd=crowd)


# --- classes ---------------------------------------------------------------------------------------------------


def _name_classes(file: str, reading: Reading) -> None:
    """What a table of classes says: display names (``/m/015p6,Bird``), or numbers that are their order (``cat,0``)."""
    try:
        with open(file, encoding=_encoding(file), errors="replace", newline="") as stream:
            rows = [row for row in csv.reader(stream) if len(row) == 2]
    except (UnusableError, OSError, csv.Error):
        return
    table = {key.strip(): value.strip() for key, value in rows}
    numbers = {key: int(value) for key, value in table.items() if value.isascii() and value.isdecimal()}
    if sorted(numbers.values()) == list(range(len(numbers))) and numbers:
        reading.names = sorted(numbers, key=numbers.__getitem__)
        return
    used = {item.name for record in reading.records for item in record.items}
    shown_as = {name: table[name] for name in used if table.get(name)}
    if len({*shown_as.values(), *(used - set(shown_as))}) < len(used):
        reading.notes.append(f"{file}: gives one name to several classes, so it is not used")
        return
    for record in reading.records:
        record.items = [item._replace(name=shown_as.get(item.name, item.name)) for item in record.items]
