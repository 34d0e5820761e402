"""The device that a flag names."""

from __future__ import annotations

import torch

from yolov7.config import InputError


def select_device(name: str = "") -> torch.device:
    """``cpu``, ``0``, ``cuda:0``, ``mps``; nothing is the first accelerator, else the CPU."""
    if not name:
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    text = f"cuda:{name}" if name.isdigit() else name
    accepted = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if _has_mps() else [])]
    if text == "cuda" and len(accepted) > 1:
        text = "cuda:0"
    if text not in accepted:
        raise InputError(f"--device {name!r}: not on this machine; accepted: {', '.join(accepted)}")
    return torch.device(text)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
