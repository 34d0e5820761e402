"""Tensors that are pickled by value, also between processes.

PyTorch's own way between processes moves a tensor's memory into a shared file, in place: another thread that computes
with it at that moment reads what is not there any more, and every tensor that arrives holds a file open.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Packed = tuple[bytes, torch.dtype, tuple[int, ...], torch.device]


def pack(tensor: Tensor) -> Packed:
    """Content, type, shape and device of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes(), tensor.dtype, tuple(tensor.shape), tensor.device


def unpack(packed: Packed) -> Tensor:
    """The tensor again, of which no other shares the memory."""
    content, dtype, shape, device = packed
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.reshape(shape).to(device)


class _Stored:
    """Stands in a module for a tensor, and is that tensor when it is unpickled."""

    def __init__(self, tensor: Tensor) -> None:
        self._packed = pack(tensor)
        self._make: Callable[[Packed], Tensor] = _parameter if isinstance(tensor, nn.Parameter) else unpack

    def __reduce__(self) -> tuple[Callable[[Packed], Tensor], tuple[Packed]]:
        return self._make, (self._packed,)


def _parameter(packed: Packed) -> nn.Parameter:
    return nn.Parameter(unpack(packed), requires_grad=False)


def to_pickle(module: nn.Module) -> Any:
    """What to pickle instead of a module of fixed weights: it is unpickled as a copy of it, contiguous."""
    memo: dict[int, Any] = {id(tensor): _Stored(tensor) for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)
