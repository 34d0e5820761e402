"""Tasks of other packages, found through the entry point ``yolov7.tasks``."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from functools import cache
from importlib.metadata import entry_points, packages_distributions
from types import ModuleType

logger = logging.getLogger(__name__)

GROUP = "yolov7.tasks"


@cache
def load_plugins() -> None:
    """Import what the installed packages register; once in a process. One that fails is left out with a warning."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  # another package's fault must not stop this one
            logger.warning("the task %r (%s) cannot be loaded: %s: %s", entry.name, entry.value, type(error).__name__,
                           error)


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers what it defines."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def package_of(cls: type) -> str:
    """The distribution that a class comes with; '' for this one."""
    top = cls.__module__.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return ""
    registered = [entry.dist.name for entry in entry_points(group=GROUP)
                  if entry.dist is not None and entry.value.partition(":")[0].partition(".")[0] == top]
    return next(iter(registered or packages_distributions().get(top, [])), top)
