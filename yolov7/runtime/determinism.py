"""``--deterministic``: the same numbers in every run also on CUDA, where fast kernels add in any order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from yolov7.config import InputError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # what cuBLAS needs to be told before it is used first
ACCEPTED = (":4096:8", ":16:8")
WORD = "does not have a deterministic implementation"  # of PyTorch's error


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """While it lasts PyTorch takes deterministic kernels alone, and raises `RuntimeError` for an operation without one.

    Raises `InputError` where the environment forbids it.
    """
    if not wanted:
        yield
        return
    if (found := os.environ.setdefault(WORKSPACE, ACCEPTED[0])) not in ACCEPTED:
        raise InputError(f"--deterministic: ${WORKSPACE} is {found!r}; accepted: {' or '.join(ACCEPTED)}")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def is_not_deterministic(error: BaseException) -> bool:
    """Whether an error is PyTorch's refusal of an operation."""
    return isinstance(error, RuntimeError) and WORD in str(error)
