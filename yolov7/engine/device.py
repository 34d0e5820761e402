"""The device that a flag names, and what a process of ours does for it."""

from __future__ import annotations

import torch

from yolov7.config import InputError
from yolov7.data.loader import keep_freed_memory
from yolov7.engine.memory import address_space


def select_device(name: str = "", local_rank: int = 0) -> torch.device:
    """``cpu``, ``0``, ``cuda:0``, ``mps``; nothing is the first accelerator, else the CPU.

    Of several processes on a machine each takes the CUDA device of its ``local_rank``. Raises `InputError` for a
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
    """`select_device` for a process of ours: on the CPU it keeps the memory that it has freed.

    There the memory of the network comes from the C library, too. A process whose address space is limited gives it
    back, as it does in a program that only loads this package.
    """
    device = select_device(name, local_rank)
    if device.type == "cpu" and address_space() is None:
        keep_freed_memory()
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
