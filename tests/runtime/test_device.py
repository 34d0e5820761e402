"""Which device a name stands for, how many cores there are, and whether the compiler works."""

from __future__ import annotations

import os

import pytest
import torch

from yolov7.config import InputError
from yolov7.runtime import device
from yolov7.runtime.device import available_cores, check_compiler, own_device, select_device

CPU = torch.device("cpu")


def test_devices() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="--device '99': not on this machine; accepted: cpu"):
        select_device("99")


def test_several_processes_share_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [select_device(name, 3) for name in ("", "cuda", "cpu")] == [torch.device("cuda:3")] * 2 + [CPU]
    with pytest.raises(InputError, match="--device '2': several processes cannot share it; accepted with torchrun"):
        select_device("2", 3)


@pytest.mark.parametrize(("limit", "kept"), [(None, 1), (10**9, 0)])
def test_a_process_of_limited_address_space_keeps_no_memory(limit: int | None, kept: int,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(device, "address_space", lambda: limit)
    monkeypatch.setattr(device, "keep_freed_memory", lambda: calls.append(1))
    assert own_device("cpu") == CPU and len(calls) == kept


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "QUOTAS", ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_a_compiler_that_does_not_work_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("No working C++ compiler found\nin /usr/bin")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"--compile: does not work on this machine \(No working C\+\+ compiler"):
        check_compiler(torch.device("cpu"))
