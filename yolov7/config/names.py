"""Names of classes: what a data set, a weight file and an exported file may call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from yolov7.config.errors import InputError, shown
from yolov7.config.options import MAX_CLASSES


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `InputError` for class names that cannot be told apart, read or written."""
    names = list(names)
    if not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{where}: found {len(names)} class names; accepted: 1 to {MAX_CLASSES}")
    if blank := [place for place, name in enumerate(names) if not name.strip()]:
        raise InputError(f"{where}: the name of class {blank[0]} is empty")
    if broken := [name for name in names if any("\ud800" <= character <= "\udfff" for character in name)]:
        raise InputError(f"{where}: the name {shown(broken[0])} is half of a character; accepted: text in Unicode")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{where}: {', '.join(map(shown, twice[:5]))} stands twice; accepted: names that differ")
