"""Devices, cores and the compiler: what this machine offers a process of ours."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import torch

from yolov7.config import InputError, reason_of
from yolov7.runtime.compiling import keep_compiled
from yolov7.runtime.memory import address_space, keep_freed_memory

MOST_WORKERS = 32  # without --workers: twice as many as the fastest network of one GPU needs
CGROUP = "/sys/fs/cgroup"
QUOTAS = ((f"{CGROUP}/cpu.max", ""),  # limit and period, microseconds
          (f"{CGROUP}/cpu/cpu.cfs_quota_us", f"{CGROUP}/cpu/cpu.cfs_period_us"))


def select_device(name: str = "", local_rank: int = 0) -> torch.device:
    """The device of a name: ``cpu``, ``0``, ``cuda:0``, ``mps``, or nothing for the first accelerator, else the CPU.

    Each of several processes on a machine takes the CUDA device of its ``local_rank``. Raises `InputError` for a
    device that is not there.
    """
    if name in ("", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    elif local_rank and name not in ("", "cpu"):
        raise InputError(f"--device {name!r}: several processes cannot share it; accepted with torchrun: cuda, cpu")
    if not name:
        return torch.device("mps" if _has_mps() else "cpu")
    text = f"cuda:{name}" if name.isdigit() else name
    accepted = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if _has_mps() else [])]
    if text not in accepted:
        raise InputError(f"--device {name!r}: not on this machine; accepted: {', '.join(accepted)}")
    return torch.device(text)


def own_device(name: str = "", local_rank: int = 0) -> torch.device:
    """`select_device` for a command: on the CPU the process then keeps the memory that it has freed.

    A process whose address space is limited gives it back, as does a program that only imports this package.
    """
    device = select_device(name, local_rank)
    if device.type == "cpu" and address_space() is None:
        keep_freed_memory()
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def available_cores() -> int:
    """Cores that this process may use: of its affinity, and of a container's share of the machine's time."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(min(cores, _quota() or cores), 1)


def _quota() -> int:
    """Cores that the group of this process may keep busy, rounded up (``docker run --cpus 2``); 0 for no limit."""
    for path, period_path in QUOTAS:
        try:
            limit, _, period = Path(path).read_text(encoding="ascii").strip().partition(" ")
            period = period or Path(period_path).read_text(encoding="ascii").strip()
            return -(-int(limit) // int(period)) if int(limit) > 0 else 0
        except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            continue
    return 0


def default_workers() -> int:
    """Loader processes of this process: the cores that it may use, divided among the processes on this machine."""
    return max(min(available_cores() // local_processes(), MOST_WORKERS), 1)


def local_processes() -> int:
    """Processes of this run on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def may_start_processes() -> bool:
    """Whether this process may have children of `multiprocessing`, which its pools' processes may not."""
    return not multiprocessing.current_process().daemon


def check_compiler(device: torch.device) -> None:
    """Raise `InputError` where ``torch.compile`` does not work, rather than minutes later."""
    keep_compiled()  # before torch decides for a folder of its own
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # a compiler that is missing or broken shows itself in many ways
        raise InputError(f"--compile: does not work on this machine ({reason_of(error)}); a C++ compiler such as g++ "
                         "is needed, on CUDA Triton too; or leave the flag out") from None
