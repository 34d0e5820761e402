"""A checkpoint to go on from is checked before anything of it is taken over."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov7.config import InputError
from yolov7.engine.state import KEYS, check_content

COMPAT = Path(__file__).parents[1] / "compat"
CONTENT = torch.load(COMPAT / "run" / "weights" / "last.pt", weights_only=True)
ODD: list[Any] = [None, True, -1, 1.5, math.nan, "x", b"x", [], ["x"], [math.nan] * 3, [1.5, 0, 0], {}, {"x": 1},
                  {"model": 3}, {"epoch": "1"}, {"epoch": -1}, torch.full((3,), math.nan)]


def test_the_content_as_it_was_written() -> None:
    assert check_content(CONTENT, Path("last.pt")) is CONTENT


@pytest.mark.parametrize("key", [key for key in (*KEYS, "record", "numbers") if key != "config"])
def test_tampered_values(key: str) -> None:
    for value in ODD:
        content = {**copy.copy(CONTENT), key: value}
        try:
            check_content(content, Path("last.pt"))
        except InputError as error:
            assert "last.pt" in str(error) and key in str(error) and len(str(error)) < 600


@pytest.mark.parametrize(("key", "value"), [
    ("place", {"model": 3}), ("place", {"epoch": -1}), ("place", 3), ("best", [1]), ("best", [math.nan] * 3),
    ("losses", 3), ("losses", torch.full((3,), math.nan)), ("scores", ["x"]), ("optimizer", []), ("ema_updates", "x"),
    ("model", {"x": 3}), ("record", torch.ones(3)), ("record", 3), ("numbers", torch.ones(0, 7))])
def test_what_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"last.pt.*{key}"):
        check_content({**CONTENT, key: value}, Path("last.pt"))
