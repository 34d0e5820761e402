"""The number format of a network: float32, or half precision where the device computes in it natively."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from yolov7.config import InputError
from yolov7.config.options import Precision

FORMATS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, x86 and ARM, as Linux names them
MIN_CAPABILITY = {"bf16": (8, 0), "fp16": (7, 0)}  # of CUDA devices that compute in it faster than in float32
# images a second of yolov7 at 640 px, batch 32, by compute capability: training, and the deployed network
MEASURED_TRAINING: dict[tuple[int, int], dict[Precision, float]] = {(9, 0): {"fp16": 481, "bf16": 389}}  # an H200
MEASURED_INFERENCE: dict[tuple[int, int], dict[Precision, float]] = {(9, 0): {"fp16": 1265, "bf16": 1301}}


def choose_precision(requested: Precision, device: torch.device, training: bool = True) -> Precision:
    """``fp32``, ``bf16`` or ``fp16``: what is requested, or for ``auto`` the best that the device has natively.

    Of two half precisions it is the faster one where that was measured on such a device, else bf16, whose range is
    that of float32. Decided by tables, never by timing, so that a machine always decides the same. Raises
    `InputError` for a format that the device cannot compute in.
    """
    if requested == "auto":
        measured = (MEASURED_TRAINING if training else MEASURED_INFERENCE).get(_capability(device), {})
        halves: tuple[Precision, ...] = ("bf16", "fp16")
        ranked = sorted(halves, key=lambda name: -measured.get(name, 0))  # stable: bf16 first where none is known
        return next((name for name in ranked if is_native(name, device)), "fp32")
    if requested == "fp16" and device.type == "cpu" and training:
        raise InputError("--precision 'fp16': a CPU trains in it far slower than in float32; accepted on this device: "
                         "auto, fp32, bf16")
    if requested == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(f"--precision 'bf16': {torch.cuda.get_device_name(device)} does not have it; accepted on this "
                         "device: auto, fp32, fp16")
    return requested


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def is_native(name: str, device: torch.device) -> bool:
    """Whether the device computes in a half precision natively."""
    if device.type == "cuda":
        return _capability(device) >= MIN_CAPABILITY[name]
    return device.type == "cpu" and name == "bf16" and bool(cpu_flags() & NATIVE_BF16)


def cpu_flags() -> set[str]:
    """The feature flags of the processor; empty where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which convolutions run in this precision; float32 needs none."""
    return torch.autocast(device.type, FORMATS[precision]) if precision != "fp32" else nullcontext()


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients of fp16 above zero; disabled in other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
