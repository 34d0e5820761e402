"""What a run decides by itself, said with the reason and the flag that changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from yolov7.runtime.tables import aligned

T = TypeVar("T")


@dataclass(frozen=True)
class Decision:
    """A setting that no flag gave."""

    what: str  # "epochs"
    value: str  # "60"
    reason: str  # "of 120 images that are fine-tuned on"
    flag: str  # "--epochs"


class Decisions:
    """Settles one setting after the other, and keeps why."""

    def __init__(self) -> None:
        self.made: list[Decision] = []

    def settle(self, what: str, flag: str, given: T | None, *offers: tuple[T | None, str]) -> T:
        """What a flag has ``given``, else the first of the ``offers`` that is one, with its reason."""
        if given is not None:
            return given
        value, reason = next((value, reason) for value, reason in offers if value is not None)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        self.made.append(Decision(what, text, reason, flag))
        return value


def decisions_text(decisions: Sequence[Decision]) -> str:
    """A line each, in columns."""
    rows = [(d.what, d.value, f"{d.reason} ({d.flag})") for d in decisions]
    return "\n".join(aligned(rows, left=range(3)))
