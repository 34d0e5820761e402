"""Free, used and needed memory, and systems that report less of it than Linux."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolov7.runtime import memory
from yolov7.runtime.memory import (
    address_space,
    free_memory,
    is_out_of_memory,
    keep_freed_memory,
    needed_memory,
    release_freed_memory,
    used_memory,
)

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_a_piece_of_work() -> None:
    need = needed_memory(lambda: torch.ones(100 * MIB, dtype=torch.uint8).float().sum(), CPU)
    assert 450 * MIB < need < 600 * MIB
    assert needed_memory(lambda: None, CPU) < 5 * MIB
    assert 50 * MIB < used_memory(CPU) < free_memory(CPU) + 64 * 2**30
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    everything = free_memory(CPU)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) == pytest.approx(everything, rel=0.2)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 1000000\n")
    assert free_memory(CPU) == 1500000


# --- other systems ---------------------------------------------------------------------------------------------------


def without_proc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATUS", "MEMINFO", "CGROUP"):
        monkeypatch.setattr(memory, name, folder / "gone")


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd", 1024)])
def test_without_proc_the_peak_of_the_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str,
                                                     unit: int) -> None:
    resource = SimpleNamespace(RUSAGE_SELF=0, RLIMIT_AS=9, RLIM_INFINITY=-1, getrlimit=lambda _: (10**9, 10**9),
                               getrusage=lambda _: SimpleNamespace(ru_maxrss=5000))
    without_proc(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr(sys, "platform", platform)
    assert used_memory(CPU) == 5000 * unit
    assert free_memory(CPU) == 10**9 - 5000 * unit


def test_without_proc_and_resource_memory_is_not_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_proc(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: the import fails
    assert (used_memory(CPU), address_space(), free_memory(CPU)) == (0, None, sys.maxsize)
    assert needed_memory(lambda: None, CPU) == 0


def test_names_that_are_not_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpythön\nVmSize:\t   12 kB\nVmRSS:\t    7 kB\n", encoding="utf-8")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert used_memory(CPU) == 7 * 1024


def test_freed_memory_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has no malloc options; Windows has no library of the process at all."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()
    release_freed_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("there is no such library"))
    keep_freed_memory()
    release_freed_memory()


def test_freed_memory_with_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def record(*values: int) -> None:
        calls.append(values)

    library = SimpleNamespace(mallopt=record, malloc_trim=record)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()
    release_freed_memory()
    assert calls == [(-1, 2**30), (-3, 2**30), (0,)]
