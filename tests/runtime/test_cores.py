"""How many cores there are, and how many loader processes that makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolov7.runtime import device


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(device, "QUOTAS", ())
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(("content", "cores"), [("max 100000", 16), ("400000 100000", 4), ("250000 100000", 3),
                                                ("5000 100000", 1), ("9900000 100000", 16), ("", 16), ("odd", 16)])
def test_a_containers_share_of_the_cores_counts(content: str, cores: int, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(content + "\n")
    monkeypatch.setattr(device, "QUOTAS", ((str(tmp_path / "cpu.max"), ""),))
    assert device.available_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("200000", 2)])
def test_so_does_that_of_the_first_version(quota: str, cores: int, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quota").write_text(quota + "\n")
    (tmp_path / "period").write_text("100000\n")
    places = ((str(tmp_path / "gone"), ""), (str(tmp_path / "quota"), str(tmp_path / "period")))
    monkeypatch.setattr(device, "QUOTAS", places)
    assert device.available_cores() == cores


@pytest.mark.parametrize(("processes", "workers"), [(None, 16), ("1", 16), ("2", 8), ("3", 5), ("64", 1)])
def test_processes_of_a_machine_share_its_cores(processes: str | None, workers: int,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert device.default_workers() == workers


def test_very_many_cores_are_not_all_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(192)), raising=False)
    assert device.default_workers() == device.MOST_WORKERS
