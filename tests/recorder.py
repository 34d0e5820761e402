"""A CUDA graph without a GPU: operations are noted while they run, and later run again on the very same memory.

Whatever Python would have done anew is not done again, as in a real graph: numbers, shapes and branches are those of
the recording, inputs are read where they stood, results are written where they were. Reading a value is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOVED = {"running_mean", "running_var"}  # by norms, which do not declare it
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


def tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []  # what is overwritten, and how it was
        self._own: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError(f"{func} is not permitted when a stream is recorded")
        for index, argument in enumerate(func._schema.arguments):
            declared = argument.alias_info is not None and argument.alias_info.is_write
            if declared or argument.name in MOVED:
                written = args[index] if index < len(args) else kwargs.get(argument.name)
                for tensor in tensors_in([written]):
                    if memory_of(tensor) not in self._own:
                        self.before.append((tensor.detach(), tensor.detach().clone()))
        result = func(*args, **kwargs)
        known = {memory_of(tensor) for tensor in tensors_in((args, kwargs))}
        self._own |= {memory_of(tensor) for tensor in tensors_in(result)} - known
        self.calls.append((func, args, kwargs, result))
        return result


class RecordedOnCpu:
    """Stands for `yolov7.runtime.cuda_graphs.GraphPool`."""

    made: int = 0
    replayed: int = 0
    plain: int = 0
    refuses = False

    def __init__(self, device: torch.device) -> None:
        self._tapes: list[_Tape] = []

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.refuses:
            raise RuntimeError("operation not permitted\nwhen a stream is recorded")
        tape = _Tape()
        with tape:
            work()
        with torch.no_grad():  # a recording does nothing yet
            for tensor, value in reversed(tape.before):
                tensor.data.copy_(value)
        self._tapes.append(tape)  # memory that is not given back cannot hide a mistake
        type(self).made += 1

        @torch.no_grad()
        def replay() -> None:
            type(self).replayed += 1
            for func, args, kwargs, result in tape.calls:
                found, inputs = func(*args, **kwargs), {memory_of(tensor) for tensor in tensors_in((args, kwargs))}
                for old, new in zip(tensors_in(result), tensors_in(found), strict=True):
                    if memory_of(old) not in inputs:
                        old.data.copy_(new)

        return replay

    @contextmanager
    def aside(self) -> Iterator[None]:
        type(self).plain += 1
        yield

    def bytes(self) -> int:
        return 0
