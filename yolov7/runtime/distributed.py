"""One process or several, started by ``torchrun``: the same calls for both (docs/reference.md, Distributed training).

With one process every call here does nothing. Processes communicate through gloo on CPUs and NCCL on GPUs; plain
objects always go through gloo.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from yolov7.config import InputError
from yolov7.runtime.device import local_processes

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
TIMEOUT = timedelta(hours=1)  # the main process may index a large data set while the others wait
POLL_INTERVAL = 0.02  # seconds
GRACE = 20.0  # seconds: torchrun takes a machine for gone after 15 without a sign of it
LOST = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")  # in errors of the backends


@dataclass(frozen=True)
class Processes:
    """This process among all processes of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The maximum over all processes, element by element, in place."""
        if self.world_size > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Copy the tensors of the main process to all processes, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def broadcast_object(self, value: T) -> T:
        """The value of the main process."""
        values = [value]
        if self.world_size > 1:
            distributed.broadcast_object_list(values, 0)
        return values[0]

    def gather_object(self, value: T) -> list[T]:
        """In the main process the values of all processes by rank, elsewhere nothing."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        distributed.gather_object(value, values, 0)
        return values or []

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            self.all_reduce_sum(torch.zeros(1))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in one process of every other machine, then in all the others.

        For work whose result the others find, such as an index of data: on a file system that all share it is done
        once, on disks of their own once on each machine, and never by two processes at a time on one.
        """
        turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self.barrier()
        yield
        for _ in range(2 - turn):
            self.barrier()


def environment() -> Processes:
    """The processes that ``torchrun`` sets in the environment; a single one without it.

    Raises `InputError` where a variable is not a whole number or the rank is too large.
    """
    values = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
        text = os.environ.get(name, str(default))
        if not text.isdigit():
            raise InputError(f"${name}: found {text!r}; accepted: a whole number, as torchrun sets it")
        values[name] = int(text)
    if values["RANK"] >= values["WORLD_SIZE"]:
        raise InputError(f"$RANK: found {values['RANK']}; accepted: 0 to {values['WORLD_SIZE'] - 1} ($WORLD_SIZE - 1)")
    return Processes(values["RANK"], values["WORLD_SIZE"], values["LOCAL_RANK"])


@contextmanager
def connected(device: torch.device) -> Iterator[Processes]:
    """The processes of this run, connected inside the block; ``device`` is that of this process."""
    from torch.distributed.rendezvous import rendezvous

    processes = environment()
    if processes.world_size == 1:
        yield processes
        return
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend += ",cuda:nccl"
    elif device.type != "cpu":
        raise InputError(f"--device {str(device)!r}: not for several processes; accepted: cuda, cpu")
    launch, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    store = _store_of_this_start(launch, rank, count)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Whether another process of the run has ended or cannot be reached, by the errors of the backends."""
    return isinstance(error, distributed.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in LOST))


def await_news(processes: Processes) -> None:
    """Wait until ``torchrun`` knows that a machine is gone, if one may be; it would meet again with that one else."""
    if local_processes() < processes.world_size:
        time.sleep(GRACE)


def _store_of_this_start(store: Store, rank: int, count: int) -> Store:
    """The part of a launch's store that belongs to the processes of this start.

    ``torchrun`` keeps one store over all restarts, with the addresses of dead processes in it, and its count of
    restarts differs from machine to machine. So the main process sends a new prefix to those that answer.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    if rank:
        name = uuid.uuid4().hex
        store.set(f"hello {rank}", name)
        store.wait([f"welcome {name}"], TIMEOUT)
        prefix = store.get(f"welcome {name}").decode()
        store.set(f"thanks {prefix} {rank}", "")
        return PrefixStore(prefix, store)
    prefix, missing, deadline = uuid.uuid4().hex, set(range(1, count)), time.monotonic() + TIMEOUT.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"hello {other}"]):  # one that has died will not thank
                store.set(f"welcome {store.get(f'hello {other}').decode()}", prefix)
        missing = {other for other in missing if not store.check([f"thanks {prefix} {other}"])}
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from the processes of rank {sorted(missing)} in {TIMEOUT}")
        time.sleep(POLL_INTERVAL)
    return PrefixStore(prefix, store)
