"""How much memory there is, what is used of it, and what a piece of work needs."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")  # of version 2, where containers are limited
STATUS = Path("/proc/self/status")
WATCH_EVERY = 0.001  # seconds
NO_MEMORY = ("can't allocate memory", "could not create a primitive")  # of torch and of oneDNN on a CPU


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory is short, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


def used_memory(device: torch.device) -> int:
    """Bytes: on CUDA the most that tensors took so far, on a CPU what the process has now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else _status("VmRSS")


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_of_system(), _of_container(), _of_process())


def needed_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that the work takes at its worst moment, beyond what is taken now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)  # the measurement needs the work to be done
        return torch.cuda.max_memory_allocated(device) - before
    release_freed_memory()
    before = used_memory(device)
    with _Watch(device) as watch:
        work()
    return max(watch.most - before, 0)


def release_freed_memory() -> None:
    """Give memory that is free inside this process back to the system, where the C library is glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _Watch(threading.Thread):
    """Looks at the used memory again and again, and remembers the most."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(daemon=True)
        self.device, self.most = device, 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(WATCH_EVERY):
            self.most = max(self.most, used_memory(self.device))

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.most = max(self.most, used_memory(self.device))
        self._ended.set()
        self.join()


def _status(name: str) -> int:
    """A size from what the system says of this process, in bytes."""
    if STATUS.exists():
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
        return 1024 * int(found.group(1)) if found else 0
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_system() -> int:
    path = Path("/proc/meminfo")
    text = path.read_text(encoding="ascii") if path.exists() else ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else sys.maxsize


def _of_container() -> int:
    limit, used, parts = (CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
    if not limit.exists() or not limit.read_text(encoding="ascii").strip().isdigit():
        return sys.maxsize
    cached = re.search(r"^inactive_file (\d+)", parts.read_text(encoding="ascii"), re.MULTILINE)  # given up on demand
    taken = int(used.read_text(encoding="ascii")) - (int(cached.group(1)) if cached else 0)
    return int(limit.read_text(encoding="ascii")) - taken


def address_space() -> int | None:
    """Bytes that this process may address (``ulimit -v``), None for no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _of_process() -> int:
    limit = address_space()
    return sys.maxsize if limit is None else limit - _status("VmSize")
