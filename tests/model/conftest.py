"""Classes of the reference implementation, for files as its own code writes them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from their_modules import CLASSES
from torch import nn


@pytest.fixture
def their(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Instances of classes of the reference implementation, which exist only while files are written."""
    for module in {"models", *CLASSES.values()}:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))

    def make(name: str) -> Any:
        module = sys.modules[CLASSES[name]]
        if not hasattr(module, name):
            setattr(module, name, type(name, (nn.Module,), {"__module__": CLASSES[name]}))
        return getattr(module, name)()

    yield make
