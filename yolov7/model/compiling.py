"""``torch.compile``: whether it works here, and networks whose weights will not change any more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolov7.config import InputError, reason_of
from yolov7.model.detector import Detector
from yolov7.structures import HeadOutput


def check_compiler(device: torch.device) -> None:
    """Raise `InputError` where ``torch.compile`` does not work, rather than minutes later."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # a compiler that is missing or broken shows itself in many ways
        raise InputError(f"--compile: does not work on this machine ({reason_of(error)}); a C++ compiler such as g++ "
                         "is needed, on CUDA Triton too; or leave the flag out") from None


def compile_frozen(model: Detector, graphs: bool = False) -> Callable[[Tensor], HeadOutput]:
    """Compile a deployed model: its weights are laid out for the convolutions once, activations run inside them.

    The first size is compiled as it is, with the second the graph becomes one for any size. Call it without gradients
    and from one thread at a time. With ``graphs`` each size is recorded as a CUDA graph, too: the next call
    overwrites the output of the last, and all calls must come from the thread of the first.
    """
    from torch._inductor import config  # slow to import

    run = torch.compile(model, mode="reduce-overhead" if graphs else None)

    def frozen(images: Tensor) -> HeadOutput:
        with config.patch(freezing=True):  # is read at the time of each compilation, and is nobody else's setting
            return run(images)

    return frozen
