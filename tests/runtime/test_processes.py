"""The environment of a launcher, and the store in which its processes meet. Real processes: tests/engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from yolov7.config import InputError
from yolov7.runtime.distributed import Processes, _store_of_this_start, connected, environment


def test_variables_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert environment() == Processes(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(InputError, match=r"\$RANK: found 3; accepted: 0 to 0"):
        environment()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InputError, match=r"\$WORLD_SIZE: found 'many'; accepted: a whole number"):
        environment()


def test_a_single_process_needs_no_other() -> None:
    with connected(torch.device("cpu")) as processes, processes.main_first():
        tensor = torch.tensor([2.0])
        processes.broadcast([tensor])
        processes.barrier()
        assert processes.is_main and processes.gather_object("a") == ["a"] and processes.broadcast_object("b") == "b"
        assert processes.all_reduce_sum(tensor) is tensor is processes.all_reduce_max(tensor) and tensor == 2


def test_a_restart_does_not_take_the_dead_for_the_living() -> None:
    """One store over three starts, of which the second dies while its processes meet."""
    store = torch.distributed.HashStore()
    words = []
    for start in range(3):
        if start == 1:
            store.set("hello 1", "one that dies")
            store.set("hello 2", "another")
            continue
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda rank: _store_of_this_start(store, rank, 3), [2, 0, 1]))
        assert not parts[0].check(["address"])
        parts[1].set("address", f"of start {start}")
        assert {part.get("address").decode() for part in parts} == {f"of start {start}"}
        words.append(parts[0])
    assert words[0].get("address") != words[1].get("address")
