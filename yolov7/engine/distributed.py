"""One process or many, started by ``torchrun``: the same calls for both (spec of training, section 12).

Of one process every call here does nothing. Processes talk through gloo on CPUs and NCCL on GPUs; plain objects
always go through gloo.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from yolov7.config import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # the first process may index a large data set while the others wait
POLL = 0.02  # seconds


@dataclass(frozen=True)
class Processes:
    """This process among those of a training."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on its machine

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Added up over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """The largest of all processes, element by element, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor

    def spread(self, tensors: list[Tensor]) -> None:
        """Give all processes the tensors of the first."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def tell(self, value: T) -> T:
        """The first process's value, in all of them."""
        values: list[Any] = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of their ranks, in the first; nothing in the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(value, values, 0)
        return values or []

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            self.sum(torch.zeros(1))

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Work that leaves something behind, such as an index of the data, for those that come after."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def environment() -> Processes:
    """What ``torchrun`` says of this process; a single one where nobody does.

    Raises `InputError` where a variable is not a number.
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
    """The processes of this run, connected while the block runs; ``device`` is this one's own."""
    processes = environment()
    if processes.count == 1:
        yield processes
        return
    backend = "cpu:gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend += ",cuda:nccl"
    elif device.type != "cpu":
        raise InputError(f"--device {str(device)!r}: not for several processes; accepted: cuda, cpu")
    store, rank, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
    store = _store_of_this_start(store, rank, count)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


def _store_of_this_start(store: distributed.Store, rank: int, count: int) -> distributed.Store:
    """The part of a launch's store in which only the living write.

    ``torchrun`` keeps one store over all restarts, with the addresses of dead processes in it, and its count of
    restarts differs from machine to machine. So the first process gives a word to those who answer.
    """
    if rank:
        name = uuid.uuid4().hex
        store.set(f"hello {rank}", name)
        store.wait([f"welcome {name}"], PATIENCE)
        word = store.get(f"welcome {name}").decode()
        store.set(f"thanks {word} {rank}", "")
        return distributed.PrefixStore(word, store)
    word, missing, deadline = uuid.uuid4().hex, set(range(1, count)), time.monotonic() + PATIENCE.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"hello {other}"]):  # perhaps of one that has died: it will not thank
                store.set(f"welcome {store.get(f'hello {other}').decode()}", word)
        missing = {other for other in missing if not store.check([f"thanks {word} {other}"])}
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from the processes of rank {sorted(missing)} in {PATIENCE}")
        time.sleep(POLL)
    return distributed.PrefixStore(word, store)
