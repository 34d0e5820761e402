"""Tasks of other packages: loaded once, left out where they fail, named by the package that a class comes with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolov7.model.heads.anchor import AnchorHead
from yolov7.runtime import plugins
from yolov7.runtime.plugins import import_all, load_plugins, package_of


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    """The entry points of the group, to be filled in."""
    entries: list[SimpleNamespace] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "yolov7.tasks" else [])
    load_plugins.cache_clear()
    yield entries
    load_plugins.cache_clear()


def entry(value: str, load: object, package: str = "yolov7-things") -> SimpleNamespace:
    return SimpleNamespace(name=value.partition(".")[0], value=value, load=load, dist=SimpleNamespace(name=package))


def test_a_plugin_that_fails_is_left_out(installed: list[SimpleNamespace], caplog: pytest.LogCaptureFixture) -> None:
    loaded: list[str] = []

    def fail() -> None:
        raise ModuleNotFoundError("No module named 'gone'")

    installed += [entry("broken.task", fail), entry("things.task", lambda: loaded.append("things"))]
    with caplog.at_level(logging.WARNING):
        load_plugins()
        load_plugins()
    assert loaded == ["things"]
    assert caplog.messages == ["the task 'broken' (broken.task) cannot be loaded: ModuleNotFoundError: No module named "
                               "'gone'"]


def test_package_of_a_class(installed: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.append(entry("things.task:register", None))
    monkeypatch.setattr(plugins, "packages_distributions", lambda: {"others": ["yolov7-others"]})
    names = {"things.heads": "yolov7-things", "others": "yolov7-others", "alone.here": "alone"}
    for module, package in names.items():
        assert package_of(type("Head", (), {"__module__": module})) == package
    assert package_of(AnchorHead) == ""


def test_every_module_of_a_package_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    for name in ("__init__", "one", "two"):
        (folder / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    package = __import__("somewhere")
    import_all(package)
    assert {"somewhere.one", "somewhere.two"} <= set(sys.modules)
